//! Card of cast: to f32 and back to f16 by way of bf16's range. The card casts to f32; roundings between the half types
//! are tested bit by bit in `dtype`.

use super::{Array, Card, Input, Values, case};
use crate::dtype::DType;
use crate::ops::cast;

pub static CARD: Card = Card {
    op: "cast",
    name: "cast",
    formula: "out = f32(inp)",
    source: "IEEE 754-2019, section 5.4.2",
    size_names: "N",
    cases: &[
        case(&[0], "empty"),
        case(&[1], "one element"),
        case(&[17], "one past the vector width"),
        case(&[16385], "one past a task"),
        case(&[31], "huge values").values(Values::Scaled(1e15)),
        case(&[31], "tiny values: subnormal in f16").values(Values::Scaled(1e-6)),
    ],
    bench: case(&[2048 * 256], "a residual stream"),
    inputs: |case, reader| vec![Input::activation(case.draw(case.sizes, reader))],
    forward: |_, x| cast::cast(&x[0], DType::F32),
    reference: |_, x| Array { shape: x[0].shape.clone(), data: x[0].data.clone() },
    flops: |_| 0.0,
    bytes: |sizes, dtype| super::product(sizes) * (dtype.size() + DType::F32.size()) as f64,
    terms: |_| 1.0,
    roundings: 1.0,
};
