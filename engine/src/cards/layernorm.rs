//! Cards of layernorm and residual_layernorm.

use super::{Array, Card, Case, Input, Values, case, normal};
use crate::dtype::DType;
use crate::ops::{elementwise, layernorm};
use crate::philox::Reader;

const EPS: f32 = 1e-5;

const CASES: &[Case] = &[
    case(&[0, 5], "no rows: parameter gradients are 0"),
    case(&[3, 0], "no columns"),
    case(&[4, 1], "one column: the bias alone, input gradient 0"),
    case(&[3, 15], "one short of the lanes"),
    case(&[3, 16], "the lanes"),
    case(&[1, 17], "one row, one past the lanes"),
    case(&[257, 67], "more rows than a task and a part of the parameter sums hold"),
    case(&[5, 33], "huge values").values(Values::Scaled(1e12)),
    case(&[5, 33], "tiny values: eps rules").values(Values::Scaled(1e-6)),
    case(&[5, 33], "mean 1000 times the deviation: E[x^2] - E[x]^2 would lose all digits")
        .values(Values::Shifted(1000.0))
        .condition(500.0),
];

/// Normal values only: beside large ones, y would not show in the card's output.
const RESIDUAL_CASES: &[Case] = CASES.split_at(7).0;

fn layernorm_reference(inp: &Array, weight: &Array, bias: &Array) -> Array {
    let cols = inp.cols();
    let mut out = Array::from_fn(&inp.shape, |_| 0.0);
    for (out, row) in out.data.chunks_mut(cols.max(1)).zip(inp.data.chunks(cols.max(1))) {
        let mean = row.iter().sum::<f64>() / cols as f64;
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
        for c in 0..cols {
            out[c] = (row[c] - mean) / (var + EPS as f64).sqrt() * weight.data[c] + bias.data[c];
        }
    }
    out
}

fn parameters(cols: usize, reader: &mut Reader) -> [Input; 2] {
    [Input::parameter(normal(&[cols], reader)), Input::parameter(normal(&[cols], reader))]
}

const fn card(
    name: &'static str,
    formula: &'static str,
    source: &'static str,
    inputs: fn(&Case, &mut Reader) -> Vec<Input>,
    forward: fn(&Case, &[crate::tensor::Tensor]) -> crate::error::Result<crate::tensor::Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "layernorm",
        name,
        formula,
        source,
        size_names: "N C",
        cases: CASES,
        bench: case(&[2048, 256], "a residual stream"),
        inputs,
        forward,
        reference,
        flops: |sizes| 8.0 * super::product(sizes),
        bytes: |sizes, dtype: DType| {
            (2.0 * super::product(sizes) + 2.0 * sizes[1] as f64) * dtype.size() as f64
        },
        terms: super::product,
        roundings: 1.0,
    }
}

pub static CARD: Card = card(
    "layernorm",
    "out[n, c] = (inp[n, c] - mean[n]) / sqrt(var[n] + eps) weight[c] + bias[c]",
    "Ba, Kiros, Hinton 2016, arXiv:1607.06450, equation 4",
    |case, reader| {
        let inp = Input::activation(case.draw(case.sizes, reader));
        let [weight, bias] = parameters(case.sizes[1], reader);
        vec![inp, weight, bias]
    },
    |_, x| layernorm::layernorm(&x[0], &x[1], &x[2], EPS),
    |_, x| layernorm_reference(&x[0], &x[1], &x[2]),
);

/// The op has two results; the card's output y - h/2 depends on both, so that the gradient of h comes from two sides.
pub static RESIDUAL: Card = Card {
    bytes: |sizes, dtype| (4.0 * super::product(sizes) + 2.0 * sizes[1] as f64) * dtype.size() as f64,
    flops: |sizes| 9.0 * super::product(sizes),
    // h, y, the scaled h and their sum; in backward the same.
    roundings: 4.0,
    cases: RESIDUAL_CASES,
    ..card(
        "residual_layernorm",
        "h = residual + branch, y = layernorm(h); out = y - h/2",
        "Radford et al. 2019 (GPT-2): normalisation at the input of each block",
        |case, reader| {
            let residual = Input::activation(case.draw(case.sizes, reader));
            let branch = Input::activation(case.draw(case.sizes, reader));
            let [weight, bias] = parameters(case.sizes[1], reader);
            vec![residual, branch, weight, bias]
        },
        |_, x| {
            let (h, y) = layernorm::residual_layernorm(&x[0], &x[1], &x[2], &x[3], EPS)?;
            elementwise::add(&y, &elementwise::scale(&h, -0.5)?)
        },
        |_, x| {
            let h = Array::from_fn(&x[0].shape, |i| x[0].data[i] + x[1].data[i]);
            let y = layernorm_reference(&h, &x[2], &x[3]);
            Array::from_fn(&h.shape, |i| y.data[i] - 0.5 * h.data[i])
        },
    )
};
