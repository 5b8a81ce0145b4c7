//! One card per op: what it computes, where that comes from, an f64 reference, and the cases it is tested on.
//!
//! A card is plain data. The op tests, the gradient checks, `handloom bench`, `handloom ops` and the docs table all walk
//! [`ALL`], so that an op cannot be in one and missing in another.

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

/// One test case.
pub struct Case {
    /// In the order of [`Card::size_names`].
    pub sizes: &'static [usize],
    /// What this case would catch.
    pub why: &'static str,
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
    /// Sizes for benchmarks: the GPT-2 textbook model's.
    pub bench: &'static [usize],
    /// Draws the inputs of a case.
    pub inputs: fn(&[usize], &mut Reader) -> Vec<Input>,
    /// The engine's op on those inputs.
    pub forward: fn(&[usize], &[Tensor]) -> Result<Tensor>,
    /// The same in f64, straight from the formula.
    pub reference: fn(&[usize], &[Array]) -> Array,
    /// Floating-point operations of forward.
    pub flops: fn(&[usize]) -> f64,
    /// Bytes forward must at least read and write.
    pub bytes: fn(&[usize], DType) -> f64,
}

/// Every card.
pub static ALL: &[&Card] = &[];
