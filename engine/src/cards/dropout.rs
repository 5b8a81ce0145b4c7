//! Card of dropout.

use super::{Array, Card, Case, Input, Pattern, Values, case};
use crate::philox::{Stream, unit_f32};

/// The stream of the cards' draws.
pub const STREAM: Stream = Stream { seed: 0x1234_5678_9abc, stream: 3, step: 5 };

fn drop_prob(case: &Case) -> f32 {
    match case.pattern {
        Pattern::Plain => 0.25,
        Pattern::Some => 0.0,
        Pattern::All => 0.999,
    }
}

/// The factor on element `index` after `first_draw` draws of four words.
pub fn factor(stream: Stream, drop_prob: f32, first_draw: u64, index: usize) -> f64 {
    let draw = unit_f32(stream.words(first_draw + index as u64 / 4)[index % 4]);
    // Draws have 24 bits: the probability is rounded down to that grid.
    let grid = (drop_prob as f64 * 16_777_216.0).floor() / 16_777_216.0;
    if (draw as f64) < grid { 0.0 } else { 1.0 / (1.0 - drop_prob as f64) }
}

pub static CARD: Card = Card {
    op: "dropout",
    name: "dropout",
    formula: "out[i] = inp[i] / (1 - p) where draw i >= p, else 0",
    source: "Srivastava et al. 2014; Philox: Salmon et al. 2011",
    size_names: "N",
    cases: &[
        case(&[0], "empty"),
        case(&[1], "one element"),
        case(&[5], "one past a draw of four words"),
        case(&[1023], "one short of a run"),
        case(&[1025], "one past a run"),
        case(&[16411], "past a task"),
        case(&[67], "drop_prob 0: unchanged").pattern(Pattern::Some),
        case(&[4099], "drop_prob 0.999: large factors").pattern(Pattern::All),
        case(&[67], "huge values").values(Values::Scaled(1e15)),
    ],
    bench: case(&[2048 * 256], "a residual stream"),
    inputs: |case, reader| vec![Input::activation(case.draw(case.sizes, reader))],
    forward: |case, x| crate::ops::dropout::dropout(&x[0], drop_prob(case), STREAM),
    reference: |case, x| {
        Array::from_fn(&x[0].shape, |i| x[0].data[i] * factor(STREAM, drop_prob(case), 0, i))
    },
    flops: super::product,
    bytes: |sizes, dtype| 2.0 * super::product(sizes) * dtype.size() as f64,
    terms: |_| 1.0,
    roundings: 1.0,
};
