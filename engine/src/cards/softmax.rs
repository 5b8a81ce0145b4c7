//! Card of softmax.

use super::{Array, Card, Input, Pattern, Values, case};
use crate::ops::softmax::softmax;

const SCALE: f32 = 0.7;

/// softmax of one row, in place.
pub fn softmax_row(row: &mut [f64]) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

pub static CARD: Card = Card {
    op: "softmax",
    name: "softmax",
    formula: "out[n, c] = e^(s inp[n, c]) / sum over j of e^(s inp[n, j])",
    source: "Bridle 1990",
    size_names: "N C",
    cases: &[
        case(&[0, 5], "no rows"),
        case(&[3, 0], "no columns"),
        case(&[5, 1], "one column: always 1, gradient 0"),
        case(&[2, 15], "one short of the lanes"),
        case(&[2, 16], "the lanes"),
        case(&[2, 17], "one past the lanes"),
        case(&[131, 127], "more rows than a task holds"),
        case(&[5, 33], "logits far apart: e^x overflows without the shift")
            .values(Values::Scaled(150.0))
            .condition(20.0)
            .half_condition(4.0),
        case(&[5, 33], "equal to rounding").values(Values::Scaled(1e-6)),
        case(&[5, 33], "mean far from 0").values(Values::Shifted(300.0)).condition(100.0),
        case(&[4, 19], "some logits -infinity (masked)").pattern(Pattern::Some),
    ],
    bench: case(&[2048, 1024], "rows of scores"),
    inputs: |case, reader| {
        let mut x = case.draw(case.sizes, reader);
        if case.pattern == Pattern::Some {
            x.data.iter_mut().step_by(3).for_each(|x| *x = f64::NEG_INFINITY);
        }
        vec![Input::activation(x)]
    },
    forward: |_, x| softmax(&x[0], SCALE),
    reference: |_, x| {
        let mut out = Array::from_fn(&x[0].shape, |i| x[0].data[i] * SCALE as f64);
        let cols = out.cols().max(1);
        out.data.chunks_mut(cols).for_each(softmax_row);
        out
    },
    flops: |sizes| 5.0 * super::product(sizes),
    bytes: |sizes, dtype| 2.0 * super::product(sizes) * dtype.size() as f64,
    terms: |sizes| sizes[1] as f64,
    // Backward works from the rounded output.
    roundings: 4.0,
};
