//! Card of gather_rows.

use super::{Array, Card, Input, Pattern, case};

pub static CARD: Card = Card {
    op: "gather",
    name: "gather_rows",
    formula: "out[k, :] = inp[rows[k], :]",
    source: "definition",
    size_names: "K N C",
    cases: &[
        case(&[0, 5, 3], "nothing gathered: the gradient is 0"),
        case(&[4, 5, 0], "no columns"),
        case(&[1, 1, 1], "one of everything"),
        case(&[7, 31, 17], "most rows not gathered: their gradient is 0"),
        case(&[131, 11, 16], "one row over and over: one long sum").pattern(Pattern::All),
        case(&[1031, 2048, 33], "more rows than a task holds"),
        case(&[13, 11, 15], "first and last row").pattern(Pattern::Some),
    ],
    bench: case(&[307, 2048, 256], "the rows that BERT's head needs"),
    inputs: |case, reader| {
        let [k, n, c] = *case.sizes else { unreachable!("the card's cases have three sizes") };
        let rows = Array::from_fn(&[k], |i| match case.pattern {
            Pattern::Plain => reader.below(n as u32) as f64,
            Pattern::Some if i % 2 == 0 => 0.0,
            Pattern::Some => (n - 1) as f64,
            Pattern::All => (n / 2) as f64,
        });
        vec![Input::activation(case.draw(&[n, c], reader)), Input::ids(rows)]
    },
    forward: |_, x| crate::ops::gather::gather_rows(&x[0], &x[1]),
    reference: |case, x| {
        let c = case.sizes[2];
        Array::from_fn(&[case.sizes[0], c], |at| x[0].data[x[1].data[at / c] as usize * c + at % c])
    },
    flops: |_| 0.0,
    bytes: |sizes, dtype| (2 * sizes[0] * sizes[2] * dtype.size() + 4 * sizes[0]) as f64,
    terms: |sizes| sizes[0] as f64,
    roundings: 1.0,
};
