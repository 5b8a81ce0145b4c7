//! The ops: each checks its inputs, calls the device's kernel, and records its backward.
//!
//! Gradients have the dtype of what they belong to, except those of parameters, which are f32 in every precision
//! ([`crate::tape::Tape::leaf`]).

pub mod adamw;
pub mod attention;
pub mod cast;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gather;
pub mod gelu;
pub mod layernorm;
pub mod linear_cross_entropy;
pub mod matmul;
pub mod norm;
pub mod reduce;
pub mod softmax;
pub mod view;

use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Adds f32 values to a gradient buffer of any float dtype, or overwrites it.
fn write_f32(buffer: &mut Tensor, values: &[f32], accumulate: bool, op: &'static str) -> Result<()> {
    dispatch_float!(buffer.dtype(), op, "gradient", |E| {
        crate::cpu::elementwise::narrow_into(buffer.slice_mut::<E>()?, values, accumulate);
        Ok(())
    })
}

fn same_shape(op: &'static str, a_name: &str, a: &Tensor, b_name: &str, b: &Tensor) -> Result<()> {
    if a.shape() != b.shape() {
        let message = format!("{a_name} {:?} and {b_name} {:?} must have one shape", a.shape(), b.shape());
        return Err(Error::shape(op, message));
    }
    Ok(())
}

fn same_dtype(op: &'static str, what: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dtype() != b.dtype() {
        return Err(Error::DType { op, what, expected: a.dtype().name(), got: b.dtype() });
    }
    Ok(())
}
