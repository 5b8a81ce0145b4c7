//! Cards of sum and mean.

use super::{Array, Card, Case, Input, Values, case};
use crate::error::Result;
use crate::ops::reduce;
use crate::tensor::Tensor;

const fn card(
    name: &'static str,
    formula: &'static str,
    cases: &'static [Case],
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "reduce",
        name,
        formula,
        source: "definition",
        size_names: "N C",
        cases,
        bench: case(&[2048, 256], "a residual stream"),
        inputs: |case, reader| vec![Input::activation(case.draw(case.sizes, reader))],
        forward,
        reference,
        flops: super::product,
        bytes: |sizes, dtype| super::product(sizes) * dtype.size() as f64,
        terms: super::product,
        roundings: 1.0,
    }
}

pub static SUM: Card = card(
    "sum",
    "out = sum over i of inp[i]",
    &[
        case(&[0, 3], "empty: 0"),
        case(&[1, 1], "one element"),
        case(&[3, 5], "fewer elements than lanes"),
        case(&[1, 17], "one past the lanes"),
        case(&[1, 4097], "one past an f32 run"),
        case(&[7, 2341], "several runs, none of them whole"),
        case(&[3, 31], "huge values").values(Values::Scaled(1e15)).condition(10.0),
        case(&[5, 4099], "mean far from 0: partial sums grow").values(Values::Shifted(100.0)),
    ],
    |_, x| reduce::sum(&x[0]),
    |_, x| Array::scalar(x[0].data.iter().sum()),
);

pub static MEAN: Card = card(
    "mean",
    "out = (sum over i of inp[i]) / N",
    &[
        case(&[1, 1], "one element"),
        case(&[3, 5], "fewer elements than lanes"),
        case(&[1, 17], "one past the lanes"),
        case(&[1, 4097], "one past an f32 run"),
        case(&[3, 31], "tiny values").values(Values::Scaled(1e-8)),
        case(&[5, 4099], "mean far from 0: partial sums grow").values(Values::Shifted(100.0)),
    ],
    |_, x| reduce::mean(&x[0]),
    |_, x| Array::scalar(x[0].data.iter().sum::<f64>() / x[0].data.len() as f64),
);
