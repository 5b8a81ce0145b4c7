//! Elementwise arithmetic with broadcasting.

use handloom_kernels::elementwise as launcher;

use crate::cpu::elementwise::{self as kernel, Binary};
use crate::device::{Cuda, Device};
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::{Tensor, contiguous_strides};

/// The shape two inputs broadcast to: aligned at the last dimension, size 1 (or missing) repeats.
fn broadcast_shape(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |j| shape[j]);
    (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::shape(op, format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// Strides of a contiguous tensor seen in the broadcast shape `out`: 0 where it is repeated.
fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<usize> {
    let strides = contiguous_strides(shape);
    let missing = out.len() - shape.len();
    (0..out.len())
        .map(
            |i| {
                if i < missing || (shape[i - missing] == 1 && out[i] != 1) { 0 } else { strides[i - missing] }
            },
        )
        .collect()
}

fn binary(op: &'static str, a: &Tensor, b: &Tensor, kind: Binary) -> Result<Tensor> {
    let _time = crate::profile::scope(op, crate::profile::Pass::Forward);
    super::same_dtype(op, "rhs", a, b)?;
    let shape = broadcast_shape(op, a.shape(), b.shape())?;
    let (a, b) = (a.to_contiguous()?, b.to_contiguous()?);
    let mut out = Tensor::empty(&shape, a.dtype(), a.device())?;
    match out.device() {
        Device::Cuda(gpu) => {
            let kind = match kind {
                Binary::Add => launcher::Binary::Add,
                Binary::Sub => launcher::Binary::Sub,
                Binary::Mul => launcher::Binary::Mul,
            };
            let (a_data, b_data) = (a.cuda_slice()?, b.cuda_slice()?);
            if a.shape() == b.shape() {
                launcher::binary(&gpu, kind, out.cuda_slice_mut()?, a_data, b_data)?;
            } else {
                let (a_strides, b_strides) =
                    (broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape));
                let out = out.cuda_slice_mut()?;
                launcher::broadcast(&gpu, kind, out, &shape, a_data, &a_strides, b_data, &b_strides)?;
            }
        }
        Device::Cpu => dispatch_float!(a.dtype(), op, "lhs", |E| {
            let (a_data, b_data) = (a.slice::<E>()?, b.slice::<E>()?);
            if a.shape() == b.shape() {
                kernel::binary(out.slice_mut::<E>()?, a_data, b_data, kind);
            } else if !shape.contains(&0) {
                let (a_strides, b_strides) =
                    (broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape));
                kernel::binary_broadcast(
                    out.slice_mut::<E>()?,
                    a_data,
                    &a_strides,
                    b_data,
                    &b_strides,
                    &shape,
                    kind,
                );
            }
            Ok(())
        })?,
    }
    let (a_id, b_id) = (a.grad_id(), b.grad_id());
    let (a_shape, b_shape) = (a.shape().to_vec(), b.shape().to_vec());
    // Only the product needs its inputs again.
    let saved = (kind == Binary::Mul).then(|| (a.detach(), b.detach()));
    Ok(record(op, &[&a, &b], out, move |dout, grads| {
        let (da, db) = match &saved {
            Some((a, b)) => {
                let da = a_id.map(|_| binary(op, &dout, b, Binary::Mul)).transpose()?;
                (da, b_id.map(|_| binary(op, &dout, a, Binary::Mul)).transpose()?)
            }
            None => (Some(dout.clone()), b_id.map(|_| negate_if(kind == Binary::Sub, dout)).transpose()?),
        };
        for (id, grad, shape) in [(a_id, da, a_shape), (b_id, db, b_shape)] {
            if let (Some(_), Some(grad)) = (id, grad) {
                grads.add(id, sum_to_shape(op, grad, &shape)?)?;
            }
        }
        Ok(())
    }))
}

fn negate_if(negate: bool, x: Tensor) -> Result<Tensor> {
    if negate { scale(&x, -1.0) } else { Ok(x) }
}

/// Sums a gradient over the dimensions along which broadcasting repeated its tensor.
pub(super) fn sum_to_shape(op: &'static str, grad: Tensor, shape: &[usize]) -> Result<Tensor> {
    if grad.shape() == shape {
        return Ok(grad);
    }
    if let Device::Cuda(gpu) = grad.device() {
        return sum_to_shape_cuda(gpu, &grad, shape);
    }
    let mut sums = vec![0.0f32; shape.iter().product()];
    let strides = broadcast_strides(shape, grad.shape());
    let mut out = Tensor::empty(shape, grad.dtype(), grad.device())?;
    dispatch_float!(grad.dtype(), op, "gradient", |E| {
        if grad.numel() > 0 {
            kernel::reduce_broadcast(&mut sums, &strides, grad.slice::<E>()?, grad.shape());
        }
        Ok(())
    })?;
    super::write_f32(&mut out, &sums, false, op)?;
    Ok(out)
}

/// The same on a GPU: one run of repeated dimensions after the other, from the last to the first, in f32.
fn sum_to_shape_cuda(gpu: Cuda, grad: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let grad = grad.to_contiguous()?;
    if grad.numel() == 0 {
        return Tensor::zeros(shape, grad.dtype(), grad.device());
    }
    // Neighbouring dimensions that are both repeated, or both not, are one.
    let missing = grad.rank() - shape.len();
    let mut runs: Vec<(bool, usize)> = Vec::new();
    for (i, &size) in grad.shape().iter().enumerate().filter(|(_, size)| **size != 1) {
        let repeated = i < missing || shape[i - missing] == 1;
        match runs.last_mut() {
            Some((before, merged)) if *before == repeated => *merged *= size,
            _ => runs.push((repeated, size)),
        }
    }
    let mut sums = grad.clone();
    while let Some(at) = runs.iter().rposition(|(repeated, _)| *repeated) {
        let product = |runs: &[(bool, usize)]| runs.iter().map(|(_, size)| size).product::<usize>();
        let (outer, inner) = (product(&runs[..at]), product(&runs[at + 1..]));
        let mut next = Tensor::empty(&[outer, inner], DType::F32, grad.device())?;
        let (out, inp) = (next.cuda_slice_mut()?, sums.cuda_slice()?);
        if outer * inner == 1 {
            handloom_kernels::reduce::sum(gpu.gpu(), out, inp, 1.0)?;
        } else {
            handloom_kernels::reduce::middle(gpu.gpu(), out, inp, [outer, runs[at].1, inner], false)?;
        }
        runs.remove(at);
        sums = next;
    }
    let mut out = Tensor::empty(shape, grad.dtype(), grad.device())?;
    handloom_kernels::cast::cast(&gpu, out.cuda_slice_mut()?, sums.cuda_slice()?, false)?;
    Ok(out)
}

/// `lhs + rhs`, broadcasting.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not broadcast, [`Error::DType`] when the dtypes differ or are not floats.
pub fn add(lhs: &Tensor, rhs: &Tensor) -> Result<Tensor> {
    binary("add", lhs, rhs, Binary::Add)
}

/// `lhs - rhs`, broadcasting. Errors as [`add`].
pub fn sub(lhs: &Tensor, rhs: &Tensor) -> Result<Tensor> {
    binary("sub", lhs, rhs, Binary::Sub)
}

/// `lhs * rhs` element by element, broadcasting. Errors as [`add`].
pub fn mul(lhs: &Tensor, rhs: &Tensor) -> Result<Tensor> {
    binary("mul", lhs, rhs, Binary::Mul)
}

/// `inp * factor`.
pub fn scale(inp: &Tensor, factor: f32) -> Result<Tensor> {
    let _time = crate::profile::scope("scale", crate::profile::Pass::Forward);
    let inp = inp.to_contiguous()?;
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    match inp.device() {
        Device::Cpu => dispatch_float!(inp.dtype(), "scale", "inp", |E| {
            kernel::scale(out.slice_mut::<E>()?, inp.slice::<E>()?, factor);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            launcher::scale(&gpu, out.cuda_slice_mut()?, inp.cuda_slice()?, factor, None, false)?;
        }
    }
    let id = inp.grad_id();
    Ok(record("scale", &[&inp], out, move |dout, grads| grads.add(id, scale(&dout, factor)?)))
}

/// `sum += grad`, for gradients that meet; `grad` may have another float dtype.
pub fn add_in_place(sum: &mut Tensor, grad: &Tensor) -> Result<()> {
    super::same_shape("add_in_place", "sum", sum, "gradient", grad)?;
    let grad = grad.to_contiguous()?;
    if let Device::Cuda(gpu) = sum.device() {
        handloom_kernels::cast::cast(&gpu, sum.cuda_slice_mut()?, grad.cuda_slice()?, true)?;
        return Ok(());
    }
    dispatch_float!(grad.dtype(), "add_in_place", "gradient", |G| {
        dispatch_float!(sum.dtype(), "add_in_place", "sum", |E| {
            kernel::cast(sum.slice_mut::<E>()?, grad.slice::<G>()?, true);
            Ok(())
        })
    })
}
