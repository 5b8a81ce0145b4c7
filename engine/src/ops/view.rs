//! Views: other shapes over the same storage.

use crate::device::Device;
use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::{Tensor, contiguous_strides};

/// The same elements, row-major, in another shape. Copies only when `inp` is not contiguous.
///
/// # Errors
/// [`Error::Shape`] when the shapes hold different numbers of elements.
pub fn reshape(inp: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if shape.iter().product::<usize>() != inp.numel() {
        let message = format!("{:?} has {} elements, {shape:?} does not", inp.shape(), inp.numel());
        return Err(Error::shape("reshape", message));
    }
    let inp = inp.to_contiguous()?;
    let out = inp.view(0, shape.to_vec(), contiguous_strides(shape));
    let (id, from) = (inp.grad_id(), inp.shape().to_vec());
    Ok(record("reshape", &[&inp], out, move |dout, grads| grads.add(id, reshape(&dout, &from)?)))
}

/// Swaps two dimensions, without moving anything.
///
/// # Errors
/// [`Error::Shape`] when a dimension does not exist.
pub fn transpose(inp: &Tensor, dim0: usize, dim1: usize) -> Result<Tensor> {
    if dim0 >= inp.rank() || dim1 >= inp.rank() {
        let message = format!("dimensions {dim0} and {dim1} of {:?} do not both exist", inp.shape());
        return Err(Error::shape("transpose", message));
    }
    let (mut shape, mut strides) = (inp.shape().to_vec(), inp.strides().to_vec());
    shape.swap(dim0, dim1);
    strides.swap(dim0, dim1);
    let out = inp.view(0, shape, strides);
    let id = inp.grad_id();
    Ok(record("transpose", &[inp], out, move |dout, grads| {
        grads.add(id, transpose(&dout, dim0, dim1)?.to_contiguous()?)
    }))
}

/// Elements `start..start + len` along `dim`, without moving anything.
///
/// # Errors
/// [`Error::Shape`] when the range leaves the dimension.
pub fn narrow(inp: &Tensor, dim: usize, start: usize, len: usize) -> Result<Tensor> {
    let end = start.saturating_add(len);
    if dim >= inp.rank() || end > inp.shape()[dim] {
        let message = format!("{start}..{end} along dimension {dim} leaves {:?}", inp.shape());
        return Err(Error::shape("narrow", message));
    }
    let (mut shape, strides) = (inp.shape().to_vec(), inp.strides().to_vec());
    shape[dim] = len;
    let out = inp.view(start * strides[dim], shape, strides);
    let (id, from) = (inp.grad_id(), inp.shape().to_vec());
    Ok(record("narrow", &[inp], out, move |dout, grads| {
        grads.write(id, |dinp, accumulate| {
            let inner = from[dim + 1..].iter().product::<usize>();
            let dout = dout.to_contiguous()?;
            if let Device::Cuda(gpu) = dinp.device() {
                let (wide, part) = (from[dim] * inner, len * inner);
                let mut dinp = dinp.cuda_slice_mut()?;
                if !accumulate {
                    gpu.fill_zero(dinp.reborrow())?;
                }
                let rows = dout.numel().checked_div(part).unwrap_or(0);
                let window = dinp.offset(if rows == 0 { 0 } else { start * inner });
                let dout = dout.cuda_slice()?;
                return Ok(handloom_kernels::cast::rows(&gpu, window, dout, rows, part, wide, accumulate)?);
            }
            dispatch_float!(dinp.dtype(), "narrow", "gradient", |G| {
                let dinp = dinp.slice_mut::<G>()?;
                if !accumulate {
                    dinp.fill(bytemuck::Zeroable::zeroed());
                }
                dispatch_float!(dout.dtype(), "narrow", "gradient", |E| {
                    let (wide, part) = (from[dim] * inner, len * inner);
                    for (dinp, dout) in
                        dinp.chunks_mut(wide.max(1)).zip(dout.slice::<E>()?.chunks(part.max(1)))
                    {
                        crate::cpu::elementwise::cast(&mut dinp[start * inner..][..part], dout, true);
                    }
                    Ok(())
                })
            })
        })
    }))
}

/// A row-major copy of a view; a contiguous tensor is returned as it is.
pub fn contiguous(inp: &Tensor) -> Result<Tensor> {
    if inp.is_contiguous() {
        return Ok(inp.clone());
    }
    let out = inp.to_contiguous()?.detach();
    let id = inp.grad_id();
    Ok(record("contiguous", &[inp], out, move |dout, grads| grads.add(id, dout)))
}
