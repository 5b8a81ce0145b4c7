//! Card of embedding.

use super::{Array, Card, Input, Pattern, case, normal};

pub static CARD: Card = Card {
    op: "embedding",
    name: "embedding",
    formula: "out[n, :] = weight[ids[n], :]",
    source: "definition",
    size_names: "N V C",
    cases: &[
        case(&[0, 5, 3], "no ids: the gradient is 0"),
        case(&[4, 5, 0], "no columns"),
        case(&[1, 1, 1], "one of everything"),
        case(&[7, 31, 17], "most rows not looked up: their gradient is 0"),
        case(&[301, 7, 5], "every row looked up many times"),
        case(&[131, 11, 16], "one id for all: one long sum").pattern(Pattern::All),
        case(&[1031, 211, 33], "more rows than a task holds"),
        case(&[13, 11, 15], "first and last row of the table").pattern(Pattern::Some),
    ],
    bench: case(&[2048, 50257, 256], "token embedding"),
    inputs: |case, reader| {
        let [n, v, c] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        let ids = Array::from_fn(&[n], |i| match case.pattern {
            Pattern::Plain => reader.below(v as u32) as f64,
            Pattern::Some => {
                if i % 2 == 0 {
                    0.0
                } else {
                    (v - 1) as f64
                }
            }
            Pattern::All => (v / 2) as f64,
        });
        vec![Input::ids(ids), Input::parameter(normal(&[v, c], reader))]
    },
    forward: |_, x| crate::ops::embedding::embedding(&x[0], &x[1]),
    reference: |case, x| {
        let c = case.sizes[2];
        Array::from_fn(&[case.sizes[0], c], |at| x[1].data[x[0].data[at / c] as usize * c + at % c])
    },
    flops: |_| 0.0,
    bytes: |sizes, dtype| (2 * sizes[0] * sizes[2] * dtype.size() + 4 * sizes[0]) as f64,
    terms: |sizes| sizes[0] as f64,
    roundings: 1.0,
};
