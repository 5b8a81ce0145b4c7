//! Cards of the views. Their inputs have shape (A, B, C).

use super::{Array, Card, Case, Input, case};
use crate::error::Result;
use crate::ops::view;
use crate::tensor::Tensor;

const CASES: &[Case] = &[
    case(&[0, 3, 2], "empty"),
    case(&[1, 1, 1], "one element"),
    case(&[1, 17, 1], "sizes of 1 around"),
    case(&[2, 3, 5], "primes: no two sizes can be confused"),
    case(&[3, 16, 33], "rows longer than the vector width"),
    case(&[37, 3, 33], "past a tile both ways, a dimension between"),
];

const fn card(
    name: &'static str,
    formula: &'static str,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "view",
        name,
        formula,
        source: "definition",
        size_names: "A B C",
        cases: CASES,
        bench: case(&[16, 128, 256], "a residual stream"),
        inputs: |case, reader| vec![Input::activation(case.draw(case.sizes, reader))],
        forward,
        reference,
        flops: |_| 0.0,
        bytes: |_, _| 0.0,
        terms: |_| 1.0,
        roundings: 1.0,
    }
}

/// out[k, j, i] = inp[i, j, k].
fn reversed(x: &Array) -> Array {
    let [a, b, c] = [x.shape[0], x.shape[1], x.shape[2]];
    Array::from_fn(&[c, b, a], |at| {
        let (k, j, i) = (at / (b * a), at / a % b, at % a);
        x.data[(i * b + j) * c + k]
    })
}

pub static RESHAPE: Card = card(
    "reshape",
    "the elements of inp with its first and last dimension swapped, row-major, as (C B, A)",
    |case, x| {
        let [a, b, c] = [case.sizes[0], case.sizes[1], case.sizes[2]];
        let once = view::reshape(&x[0], &[a * b, c])?;
        view::reshape(&view::transpose(&view::reshape(&once, &[a, b, c])?, 0, 2)?, &[c * b, a])
    },
    |case, x| Array { shape: vec![case.sizes[2] * case.sizes[1], case.sizes[0]], ..reversed(&x[0]) },
);

pub static TRANSPOSE: Card = card(
    "transpose",
    "out[a, c, b] = inp[a, b, c]",
    |_, x| view::transpose(&x[0], 1, 2),
    |_, x| {
        let [a, b, c] = [x[0].shape[0], x[0].shape[1], x[0].shape[2]];
        Array::from_fn(&[a, c, b], |at| x[0].data[(at / (b * c) * b + at % b) * c + at / b % c])
    },
);

/// Start and length of what the card's narrow keeps of `size` elements: all but the ends.
fn range(size: usize) -> (usize, usize) {
    (size / 3, size - size / 3 - size / 4)
}

pub static NARROW: Card = card(
    "narrow",
    "out[a, b, c] = inp[a, s + b, t + c]: a window along two dimensions",
    |case, x| {
        let ((s, rows), (t, cols)) = (range(case.sizes[1]), range(case.sizes[2]));
        view::narrow(&view::narrow(&x[0], 1, s, rows)?, 2, t, cols)
    },
    |case, x| {
        let ((s, rows), (t, cols)) = (range(case.sizes[1]), range(case.sizes[2]));
        Array::from_fn(&[case.sizes[0], rows, cols], |at| {
            let (i, j, k) = (at / (rows * cols), at / cols % rows, at % cols);
            x[0].data[(i * case.sizes[1] + s + j) * case.sizes[2] + t + k]
        })
    },
);

pub static CONTIGUOUS: Card = Card {
    bytes: |sizes, dtype| 2.0 * super::product(sizes) * dtype.size() as f64,
    ..card(
        "contiguous",
        "out[c, b, a] = inp[a, b, c], row-major",
        |_, x| view::contiguous(&view::transpose(&x[0], 0, 2)?),
        |_, x| reversed(&x[0]),
    )
};
