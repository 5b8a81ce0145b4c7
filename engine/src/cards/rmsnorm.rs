//! Card of rmsnorm.

use super::{Array, Card, Input, Values, case, normal};
use crate::ops::rmsnorm::rmsnorm;

const EPS: f32 = 1e-5;

pub static CARD: Card = Card {
    op: "rmsnorm",
    name: "rmsnorm",
    formula: "out[n, c] = inp[n, c] / sqrt(mean over j of inp[n, j]^2 + eps) weight[c]",
    source: "Zhang and Sennrich 2019, arXiv:1910.07467, equation 4",
    size_names: "N C",
    cases: &[
        case(&[0, 5], "no rows: the weight's gradient is 0"),
        case(&[3, 0], "no columns"),
        case(&[4, 1], "one column, its square about eps").values(Values::Scaled(3e-3)),
        case(&[3, 15], "one short of the lanes"),
        case(&[3, 16], "the lanes"),
        case(&[1, 17], "one row, one past the lanes"),
        case(&[257, 67], "more rows than a task and a part of the weight's sum hold"),
        case(&[5, 33], "huge values").values(Values::Scaled(1e12)),
        case(&[5, 33], "tiny values: eps rules").values(Values::Scaled(1e-6)),
        case(&[5, 33], "mean far from 0: not taken off").values(Values::Shifted(1000.0)),
    ],
    bench: case(&[2048, 256], "a residual stream"),
    inputs: |case, reader| {
        let inp = Input::activation(case.draw(case.sizes, reader));
        vec![inp, Input::parameter(normal(&[case.sizes[1]], reader))]
    },
    forward: |_, x| rmsnorm(&x[0], &x[1], EPS),
    reference: |_, x| {
        let (inp, weight) = (&x[0], &x[1]);
        let cols = inp.cols();
        let mean_square = |n: usize| inp.row(n).iter().map(|x| x * x).sum::<f64>() / cols as f64;
        Array::from_fn(&inp.shape, |at| {
            inp.data[at] / (mean_square(at / cols) + EPS as f64).sqrt() * weight.data[at % cols]
        })
    },
    flops: |sizes| 5.0 * super::product(sizes),
    bytes: |sizes, dtype| (2.0 * super::product(sizes) + sizes[1] as f64) * dtype.size() as f64,
    terms: super::product,
    roundings: 1.0,
};
