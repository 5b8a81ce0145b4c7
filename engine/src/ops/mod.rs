//! The ops: each checks its inputs, calls the device's kernel, and records its backward.
//!
//! Gradients have the dtype of what they belong to, except those of parameters, which are f32 in every precision
//! ([`crate::tape::Tape::leaf`]).

pub mod adamw;
pub mod attention;
pub mod cached_attention;
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
pub mod rmsnorm;
pub mod softmax;
pub mod view;

use handloom_kernels::slice::SliceMut;

use crate::device::Cuda;
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::{GradId, Gradients};
use crate::tensor::Tensor;

/// Adds f32 values to a gradient buffer of any float dtype, or overwrites it.
fn write_f32(buffer: &mut Tensor, values: &[f32], accumulate: bool, op: &'static str) -> Result<()> {
    dispatch_float!(buffer.dtype(), op, "gradient", |E| {
        crate::cpu::elementwise::narrow_into(buffer.slice_mut::<E>()?, values, accumulate);
        Ok(())
    })
}

/// Where a kernel writes a parameter's gradient, always f32: the gradient's own buffer, or beside one of another dtype.
struct ParameterGrad {
    id: GradId,
    buffer: Tensor,
    accumulate: bool,
    beside: Option<Tensor>,
}

impl ParameterGrad {
    /// `None` when the parameter needs no gradient.
    fn begin(grads: &mut Gradients, id: GradId) -> Result<Option<Self>> {
        let Some((buffer, accumulate)) = grads.begin(id)? else { return Ok(None) };
        let beside = match buffer.dtype() {
            DType::F32 => None,
            _ => Some(Tensor::empty(buffer.shape(), DType::F32, buffer.device())?),
        };
        Ok(Some(ParameterGrad { id, buffer, accumulate, beside }))
    }

    /// What the CPU's kernel writes, and whether it adds to it.
    fn target_cpu(&mut self) -> Result<(&mut [f32], bool)> {
        match &mut self.beside {
            Some(beside) => Ok((beside.slice_mut()?, false)),
            None => Ok((self.buffer.slice_mut()?, self.accumulate)),
        }
    }

    /// What the kernel writes, and whether it adds to it.
    fn target(&mut self) -> Result<(SliceMut<'_>, bool)> {
        match &mut self.beside {
            Some(beside) => Ok((beside.cuda_slice_mut()?, false)),
            None => Ok((self.buffer.cuda_slice_mut()?, self.accumulate)),
        }
    }

    /// Puts the gradient back, on the CPU.
    fn finish_cpu(mut self, op: &'static str, grads: &mut Gradients) -> Result<()> {
        if let Some(beside) = &self.beside {
            write_f32(&mut self.buffer, beside.slice()?, self.accumulate, op)?;
        }
        grads.finish(self.id, self.buffer)
    }

    /// Puts the gradient back.
    fn finish(mut self, gpu: Cuda, grads: &mut Gradients) -> Result<()> {
        if let Some(beside) = &self.beside {
            let buffer = self.buffer.cuda_slice_mut()?;
            handloom_kernels::cast::cast(&gpu, buffer, beside.cuda_slice()?, self.accumulate)?;
        }
        grads.finish(self.id, self.buffer)
    }
}

pub(crate) fn same_shape(op: &'static str, a_name: &str, a: &Tensor, b_name: &str, b: &Tensor) -> Result<()> {
    if a.shape() != b.shape() {
        let message = format!("{a_name} {:?} and {b_name} {:?} must have one shape", a.shape(), b.shape());
        return Err(Error::shape(op, message));
    }
    Ok(())
}

pub(crate) fn same_dtype(op: &'static str, what: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dtype() != b.dtype() {
        return Err(Error::DType { op, what, expected: a.dtype().name(), got: b.dtype() });
    }
    Ok(())
}
