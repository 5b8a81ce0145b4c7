//! Cards of the two forms of GELU.

use super::{Array, Card, Case, Input, Values, case};
use crate::error::Result;
use crate::ops::gelu::{Gelu, gelu};
use crate::tensor::Tensor;

/// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), with (1 + tanh u)/2 = 1/(1 + e^(-2u)) so that f64 keeps its digits
/// in the tail.
pub fn tanh_form(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

/// erf in f64: its Maclaurin series below 3 (all digits but those lost to terms of size e^(x^2)), and above
/// 1 - erfc by the continued fraction of Abramowitz and Stegun 7.1.14.
pub fn erf(x: f64) -> f64 {
    1.0 - erfc(x)
}

/// 1 - erf(x), without cancellation for x above 2.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x > 2.0 {
        let fraction = (1..=120).rev().fold(x, |below, n| x + 0.5 * n as f64 / below);
        return (-x * x).exp() / (std::f64::consts::PI.sqrt() * fraction);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
}

const CASES: &[Case] = &[
    case(&[0], "empty"),
    case(&[1], "one element"),
    case(&[15], "one short of the vector width"),
    case(&[16], "the vector width"),
    case(&[17], "one past the vector width"),
    case(&[16385], "one past a task"),
    case(&[67], "tails: 0 below, x above").values(Values::Scaled(8.0)).condition(8.0),
    case(&[31], "huge values: x^3 and x^2 overflow f32").values(Values::Scaled(1e25)),
    case(&[31], "tiny values: half of x").values(Values::Scaled(1e-8)),
];

const fn card(
    name: &'static str,
    formula: &'static str,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "gelu",
        name,
        formula,
        source: "Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2",
        size_names: "N",
        cases: CASES,
        bench: case(&[2048 * 1024], "the MLP's activations"),
        inputs: |case, reader| vec![Input::activation(case.draw(case.sizes, reader))],
        forward,
        reference,
        flops: |sizes| 20.0 * super::product(sizes),
        bytes: |sizes, dtype| 2.0 * super::product(sizes) * dtype.size() as f64,
        terms: |_| 1.0,
        roundings: 1.0,
    }
}

pub static TANH: Card = card(
    "gelu_tanh",
    "out = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
    |_, x| gelu(&x[0], Gelu::Tanh),
    |_, x| Array::from_fn(&x[0].shape, |i| tanh_form(x[0].data[i])),
);

pub static ERF: Card = card(
    "gelu_erf",
    "out = x/2 (1 + erf(x / sqrt 2))",
    |_, x| gelu(&x[0], Gelu::Erf),
    |_, x| {
        Array::from_fn(&x[0].shape, |i| 0.5 * x[0].data[i] * erfc(-x[0].data[i] / std::f64::consts::SQRT_2))
    },
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_the_tabulated_digits() {
        // NIST DLMF table 7.23: erf(0.5), erf(1), erf(2), and erfc(3) = 2.209e-5.
        for (x, want) in
            [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7)]
        {
            assert!((erf(x) - want).abs() < 1e-14, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + want).abs() < 1e-14, "erf(-{x}) = {}", erf(-x));
        }
        assert!((erfc(3.0) / 2.209_049_699_858_544e-5 - 1.0).abs() < 1e-12, "erfc(3) = {:e}", erfc(3.0));
        assert!((erfc(2.0 + 1e-12) - erfc(2.0)).abs() < 1e-13, "the two formulas meet");
    }
}
