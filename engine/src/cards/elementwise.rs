//! Cards of the elementwise ops. Sizes: the rank of lhs, its sizes, the sizes of rhs.

use super::{Array, Card, Case, Input, Values, case};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise;
use crate::philox::Reader;
use crate::tensor::Tensor;

const CASES: &[Case] = &[
    case(&[0], "two scalars: rank 0"),
    case(&[1, 0, 0], "empty"),
    case(&[1, 1, 1], "one element"),
    case(&[1, 15, 15], "one short of the vector width"),
    case(&[1, 16, 16], "the vector width"),
    case(&[1, 17, 17], "one past the vector width"),
    case(&[1, 16385, 16385], "one past a task"),
    case(&[2, 5, 7, 7], "rhs repeated over rows (a bias)"),
    case(&[1, 7, 5, 7], "lhs repeated over rows"),
    case(&[2, 5, 7, 5, 1], "rhs repeated over columns"),
    case(&[2, 5, 1, 5, 7], "lhs repeated over columns"),
    case(&[2, 5, 1, 1, 7], "both repeated, along different dimensions"),
    case(&[2, 5, 7, 1], "rhs one element: its gradient is one sum").half_condition(6.0),
    case(&[0, 5, 7], "lhs a scalar").half_condition(6.0),
    case(&[3, 2, 3, 5, 3, 1], "middle dimension shared, outer and inner repeated"),
    case(&[3, 2, 1, 5, 2, 3, 1], "both repeated inside, batch shared"),
    case(&[2, 0, 7, 7], "no rows: the gradient of the repeated side is 0"),
    case(&[2, 3, 1, 1, 1], "sizes of 1 on both sides"),
    case(&[2, 5, 17, 17], "huge values").values(Values::Scaled(1e15)),
    case(&[2, 5, 17, 17], "tiny values").values(Values::Scaled(1e-8)),
];

/// Sizes of lhs and rhs.
fn shapes(sizes: &[usize]) -> (&[usize], &[usize]) {
    sizes[1..].split_at(sizes[0])
}

fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let at =
        |shape: &[usize], i: usize| if i + shape.len() < rank { 1 } else { shape[i + shape.len() - rank] };
    (0..rank).map(|i| if at(a, i) == 1 { at(b, i) } else { at(a, i) }).collect()
}

fn inputs(case: &Case, reader: &mut Reader) -> Vec<Input> {
    let (a, b) = shapes(case.sizes);
    vec![Input::activation(case.draw(a, reader)), Input::activation(case.draw(b, reader))]
}

/// Element of `x` that position `flat` of the result shape reads.
fn pick(x: &Array, out: &[usize], mut flat: usize) -> f64 {
    let (mut position, mut stride) = (0, 1);
    for (i, &size) in out.iter().enumerate().rev() {
        let index = flat % size;
        flat /= size;
        let own = (i + x.shape.len()).checked_sub(out.len()).map_or(1, |j| x.shape[j]);
        position += if own == 1 { 0 } else { index * stride };
        stride *= own;
    }
    x.data[position]
}

fn reference(inputs: &[Array], f: fn(f64, f64) -> f64) -> Array {
    let shape = broadcast(&inputs[0].shape, &inputs[1].shape);
    Array::from_fn(&shape, |i| f(pick(&inputs[0], &shape, i), pick(&inputs[1], &shape, i)))
}

fn flops(sizes: &[usize]) -> f64 {
    let (a, b) = shapes(sizes);
    super::product(&broadcast(a, b))
}

fn bytes(sizes: &[usize], dtype: DType) -> f64 {
    let (a, b) = shapes(sizes);
    (super::product(a) + super::product(b) + flops(sizes)) * dtype.size() as f64
}

const fn binary(
    name: &'static str,
    formula: &'static str,
    forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    reference: fn(&Case, &[Array]) -> Array,
) -> Card {
    Card {
        op: "elementwise",
        name,
        formula,
        source: "definition",
        size_names: "RANK lhs.. rhs..",
        cases: CASES,
        bench: case(&[2, 2048, 256, 2048, 256], "residual connection"),
        inputs,
        forward,
        reference,
        flops,
        bytes,
        terms: flops,
        // A repeated side's gradient: the product, then the sum.
        roundings: 2.0,
    }
}

pub static ADD: Card = binary(
    "add",
    "out = lhs + rhs, broadcasting",
    |_, x| elementwise::add(&x[0], &x[1]),
    |_, x| reference(x, |a, b| a + b),
);

pub static SUB: Card = binary(
    "sub",
    "out = lhs - rhs, broadcasting",
    |_, x| elementwise::sub(&x[0], &x[1]),
    |_, x| reference(x, |a, b| a - b),
);

pub static MUL: Card = binary(
    "mul",
    "out = lhs * rhs, broadcasting",
    |_, x| elementwise::mul(&x[0], &x[1]),
    |_, x| reference(x, |a, b| a * b),
);

const FACTOR: f32 = -1.7;

pub static SCALE: Card = Card {
    op: "elementwise",
    name: "scale",
    formula: "out = inp * factor",
    source: "definition",
    size_names: "N",
    cases: &[
        case(&[0], "empty"),
        case(&[1], "one element"),
        case(&[17], "one past the vector width"),
        case(&[16385], "one past a task"),
        case(&[31], "huge values").values(Values::Scaled(1e15)),
        case(&[31], "tiny values").values(Values::Scaled(1e-8)),
    ],
    bench: case(&[2048 * 256], "a residual stream"),
    inputs: |case, reader| vec![Input::activation(case.draw(case.sizes, reader))],
    forward: |_, x| elementwise::scale(&x[0], FACTOR),
    reference: |_, x| Array::from_fn(&x[0].shape, |i| x[0].data[i] * FACTOR as f64),
    flops: super::product,
    bytes: |sizes, dtype| 2.0 * super::product(sizes) * dtype.size() as f64,
    terms: |_| 1.0,
    roundings: 1.0,
};
