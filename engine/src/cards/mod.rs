//! One card per op: what it computes, where that comes from, an f64 reference, and the cases it is tested on.
//!
//! A card is plain data. The op tests, the gradient checks, `handloom bench`, `handloom ops` and the docs table all walk
//! [`ALL`], so that an op cannot be in one and missing in another. References are written from the formula, element by
//! element, and share nothing with the kernels (random draws excepted: those are defined by [`crate::philox`]).

pub mod attention;
pub mod cast;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gather;
pub mod gelu;
pub mod layernorm;
pub mod linear;
pub mod matmul;
pub mod mlp;
pub mod reduce;
pub mod rmsnorm;
pub mod softmax;
pub mod view;

use crate::dtype::DType;
use crate::error::Result;
use crate::philox::Reader;
use crate::tensor::Tensor;

/// An f64 array, row-major: what references compute with.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    /// The array whose element at flat position i is `f(i)`.
    pub fn from_fn(shape: &[usize], f: impl FnMut(usize) -> f64) -> Self {
        Array { shape: shape.to_vec(), data: (0..shape.iter().product()).map(f).collect() }
    }

    /// An array of shape ().
    pub fn scalar(value: f64) -> Self {
        Array { shape: Vec::new(), data: vec![value] }
    }

    /// The last size.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Row n when all leading dimensions are rows.
    pub fn row(&self, n: usize) -> &[f64] {
        &self.data[n * self.cols()..(n + 1) * self.cols()]
    }
}

/// What an input is to its op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its gradient has its own dtype.
    Activation,
    /// Its gradient is f32 in every precision.
    Parameter,
    /// Integers: no gradient.
    Ids,
}

/// One input of a case, in f64.
#[derive(Clone, Debug)]
pub struct Input {
    pub role: Role,
    pub array: Array,
}

impl Input {
    pub fn activation(array: Array) -> Self {
        Input { role: Role::Activation, array }
    }

    pub fn parameter(array: Array) -> Self {
        Input { role: Role::Parameter, array }
    }

    pub fn ids(array: Array) -> Self {
        Input { role: Role::Ids, array }
    }
}

/// How a case's activations are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Standard normal.
    Normal,
    /// Normal with this standard deviation: huge or tiny magnitudes.
    Scaled(f64),
    /// Normal with this mean and standard deviation 1.
    Shifted(f64),
}

/// What a case's ids, targets or masks look like; each card says what it makes of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Nothing special.
    Plain,
    /// Some elements are special (ignored targets, hidden keys, duplicate ids).
    Some,
    /// As many as possible are.
    All,
}

/// One test case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In the order of [`Card::size_names`].
    pub sizes: &'static [usize],
    pub values: Values,
    pub pattern: Pattern,
    /// How many times more than usual f32 rounding shows in the results: the condition number of this case's inputs.
    pub condition: f64,
    /// The same for half precision: where stored intermediates or results cancel.
    pub half_condition: f64,
    /// What this case would catch.
    pub why: &'static str,
}

/// A case with normal values, no pattern and conditions 1.
pub const fn case(sizes: &'static [usize], why: &'static str) -> Case {
    Case { sizes, values: Values::Normal, pattern: Pattern::Plain, condition: 1.0, half_condition: 1.0, why }
}

impl Case {
    pub const fn values(self, values: Values) -> Case {
        Case { values, ..self }
    }

    pub const fn pattern(self, pattern: Pattern) -> Case {
        Case { pattern, ..self }
    }

    pub const fn condition(self, condition: f64) -> Case {
        Case { condition, ..self }
    }

    pub const fn half_condition(self, half_condition: f64) -> Case {
        Case { half_condition, ..self }
    }

    /// Draws an activation.
    pub fn draw(&self, shape: &[usize], reader: &mut Reader) -> Array {
        Array::from_fn(shape, |_| match self.values {
            Values::Normal => reader.normal(),
            Values::Scaled(std) => std * reader.normal(),
            Values::Shifted(mean) => mean + reader.normal(),
        })
    }
}

/// Draws a parameter, or anything else that does not follow the case's values: standard normal.
pub fn normal(shape: &[usize], reader: &mut Reader) -> Array {
    Array::from_fn(shape, |_| reader.normal())
}

/// All there is to know about an op.
pub struct Card {
    /// The op's stem: its file name under ops/, cpu/ and docs/.
    pub op: &'static str,
    /// The op, or one of its variants: unique.
    pub name: &'static str,
    pub formula: &'static str,
    /// Paper and equation.
    pub source: &'static str,
    /// For example "N C".
    pub size_names: &'static str,
    pub cases: &'static [Case],
    /// The GPT-2 textbook model's sizes (B=16, T=128, C=256, NH=4, V=50257), for benchmarks.
    pub bench: Case,
    /// Draws the inputs of a case.
    pub inputs: fn(&Case, &mut Reader) -> Vec<Input>,
    /// The engine's op on those inputs.
    pub forward: fn(&Case, &[Tensor]) -> Result<Tensor>,
    /// The same in f64, straight from the formula.
    pub reference: fn(&Case, &[Array]) -> Array,
    /// Floating-point operations of forward.
    pub flops: fn(&[usize]) -> f64,
    /// Bytes forward must at least read and write.
    pub bytes: fn(&[usize], DType) -> f64,
    /// Terms in the longest f32 sum behind an element of the output or of a gradient: rounding grows with its root.
    pub terms: fn(&[usize]) -> f64,
    /// Roundings to the storage dtype on the way to an output or a gradient, counting stored intermediates; in half
    /// precision each costs half an epsilon.
    pub roundings: f64,
}

/// Product of all sizes.
fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|n| *n as f64).product()
}

/// Every card.
pub static ALL: &[&Card] = &[
    &elementwise::ADD,
    &elementwise::SUB,
    &elementwise::MUL,
    &elementwise::SCALE,
    &reduce::SUM,
    &reduce::MEAN,
    &cast::CARD,
    &view::RESHAPE,
    &view::TRANSPOSE,
    &view::NARROW,
    &view::CONTIGUOUS,
    &matmul::NN,
    &matmul::NT,
    &matmul::TN,
    &matmul::BATCHED,
    &matmul::SHARED,
    &linear::CARDS[0],
    &linear::CARDS[1],
    &linear::CARDS[2],
    &linear::CARDS[3],
    &linear::CARDS[4],
    &linear::CARDS[5],
    &linear::CARDS[6],
    &linear::CARDS[7],
    &mlp::RESIDUAL,
    &mlp::PLAIN,
    &softmax::CARD,
    &softmax::KEY_MASK,
    &softmax::ADDED_MASK,
    &layernorm::CARD,
    &layernorm::RESIDUAL,
    &rmsnorm::CARD,
    &gelu::TANH,
    &gelu::ERF,
    &attention::CAUSAL,
    &attention::MASKED,
    &attention::CAUSAL_MASKED,
    &attention::DROPOUT,
    &attention::BIAS,
    &attention::BIAS_CAUSAL_DROPOUT,
    &attention::CACHE,
    &attention::CACHE_BIAS,
    &attention::PACKED,
    &attention::PACKED_MASKED,
    &attention::PACKED_BIAS,
    &embedding::CARD,
    &gather::CARD,
    &dropout::CARD,
    &cross_entropy::CARD,
    &cross_entropy::LINEAR,
    &cross_entropy::LINEAR_DIVISOR,
    &cross_entropy::LINEAR_BIAS,
];
