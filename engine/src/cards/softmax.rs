//! Cards of softmax. A mask hides about a third with `Some`; with `All` everything from the first row that it serves.

use super::{Array, Card, Case, Input, Pattern, Values, case, normal};
use crate::dtype::DType;
use crate::ops::softmax::{Mask, softmax, softmax_masked};
use crate::ops::view::reshape;

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

const MASKED_CASES: &[Case] = &[
    case(&[0, 3, 5], "no groups"),
    case(&[2, 0, 5], "no rows"),
    case(&[2, 3, 0], "no columns"),
    case(&[1, 1, 1], "one element, hidden or not"),
    case(&[2, 3, 17], "nothing hidden"),
    case(&[3, 5, 19], "primes, some hidden").pattern(Pattern::Some),
    case(&[2, 4, 8], "one vector of halves; the added mask's gradient nearly cancels over the groups")
        .pattern(Pattern::Some)
        .half_condition(2.0),
    case(&[3, 2, 136], "whole vectors, some hidden").pattern(Pattern::Some),
    case(&[2, 3, 24], "rows of which nothing is left: zeros, no gradient").pattern(Pattern::All),
    case(&[2, 3, 7], "the same, not whole vectors").pattern(Pattern::All),
];

/// Row n of the mask that `hidden` says, applied to the scaled scores; a row without any is 0.
fn masked_formula(inp: &Array, added: impl Fn(usize, usize) -> f64) -> Array {
    let cols = inp.cols();
    let mut out = Array::from_fn(&inp.shape, |at| {
        inp.data[at] * SCALE as f64 + added(at / cols.max(1), at % cols.max(1))
    });
    for row in out.data.chunks_mut(cols.max(1)) {
        if row.iter().all(|x| *x == f64::NEG_INFINITY) {
            row.fill(0.0);
        } else {
            softmax_row(row);
        }
    }
    out
}

fn hidden(case: &Case, row: usize, col: usize, draw: u32) -> bool {
    match case.pattern {
        Pattern::Plain => false,
        Pattern::Some => col > 0 && draw == 0,
        Pattern::All => row == 0,
    }
}

/// inp (G, R, C), mask (G, 1, C).
pub static KEY_MASK: Card = Card {
    name: "softmax_key_mask",
    formula: "out[g, r, c] = e^(s inp[g, r, c]) / sum over j with mask[g, j] != 0 of e^(s inp[g, r, j]), 0 where mask[g, c] = 0",
    size_names: "G R C",
    cases: MASKED_CASES,
    bench: case(&[16, 512, 128], "scores of the textbook model's attention"),
    inputs: |case, reader| {
        let [groups, _, cols] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        let inp = case.draw(case.sizes, reader);
        let mask = Array::from_fn(&[groups, cols], |at| {
            !hidden(case, at / cols.max(1), at % cols.max(1), reader.below(3)) as u8 as f64
        });
        vec![Input::activation(inp), Input::ids(mask)]
    },
    forward: |case, x| {
        let mask = reshape(&x[1], &[case.sizes[0], 1, case.sizes[2]])?;
        softmax_masked(&x[0], SCALE, Mask::Keys(&mask))
    },
    reference: |case, x| {
        let [_, rows, cols] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        masked_formula(&x[0], |row, col| match x[1].data[row / rows * cols + col] {
            0.0 => f64::NEG_INFINITY,
            _ => 0.0,
        })
    },
    bytes: |sizes, dtype| {
        2.0 * super::product(sizes) * dtype.size() as f64 + (sizes[0] * sizes[2] * DType::I32.size()) as f64
    },
    terms: |sizes| sizes[2] as f64,
    ..CARD
};

/// inp (G, R, C), mask (R, C) for every g.
pub static ADDED_MASK: Card = Card {
    name: "softmax_added_mask",
    formula: "out[g, r, c] = e^(s inp[g, r, c] + mask[r, c]) / sum over j of e^(s inp[g, r, j] + mask[r, j])",
    size_names: "G R C",
    cases: MASKED_CASES,
    bench: case(&[16, 512, 128], "scores of the textbook model's attention"),
    inputs: |case, reader| {
        let [_, rows, cols] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        let inp = case.draw(case.sizes, reader);
        let mut mask = normal(&[rows, cols], reader);
        for (at, x) in mask.data.iter_mut().enumerate() {
            if hidden(case, at / cols, at % cols, reader.below(3)) {
                *x = f64::NEG_INFINITY;
            }
        }
        vec![Input::activation(inp), Input::activation(mask)]
    },
    forward: |_, x| softmax_masked(&x[0], SCALE, Mask::Added(&x[1])),
    reference: |case, x| {
        let [_, rows, cols] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        masked_formula(&x[0], |row, col| x[1].data[row % rows * cols + col])
    },
    bytes: |sizes, dtype| (2.0 * super::product(sizes) + (sizes[1] * sizes[2]) as f64) * dtype.size() as f64,
    terms: |sizes| sizes[2].max(sizes[0]) as f64,
    // The gradient of a score, and the mask's, a sum of those.
    roundings: 5.0,
    ..CARD
};
