//! Sums and means.

use crate::cpu::elementwise as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::Result;
use crate::tape::record;
use crate::tensor::Tensor;

/// Sum of all elements, an f32 scalar; f32 within runs of 4096 elements, f64 across them.
///
/// # Errors
/// [`DType`](crate::error::Error::DType) when `inp` is not a float tensor.
pub fn sum(inp: &Tensor) -> Result<Tensor> {
    scaled_sum("sum", inp, 1.0)
}

/// Mean of all elements, an f32 scalar; NaN for an empty tensor.
///
/// # Errors
/// [`DType`](crate::error::Error::DType) when `inp` is not a float tensor.
pub fn mean(inp: &Tensor) -> Result<Tensor> {
    scaled_sum("mean", inp, 1.0 / inp.numel() as f64)
}

fn scaled_sum(op: &'static str, inp: &Tensor, factor: f64) -> Result<Tensor> {
    let _time = crate::profile::scope(op, crate::profile::Pass::Forward);
    let inp = inp.to_contiguous()?;
    let total = match inp.device() {
        Device::Cpu => {
            let total = dispatch_float!(inp.dtype(), op, "inp", |E| Ok(kernel::sum(inp.slice::<E>()?)))?;
            Tensor::scalar((total * factor) as f32)
        }
        Device::Cuda(gpu) => {
            let mut total = Tensor::empty(&[], DType::F32, inp.device())?;
            let (out, inp) = (total.cuda_slice_mut()?, inp.cuda_slice()?);
            handloom_kernels::reduce::sum(gpu.gpu(), out, inp, factor as f32)?;
            total
        }
    };
    let (id, shape, dtype) = (inp.grad_id(), inp.shape().to_vec(), inp.dtype());
    Ok(record(op, &[&inp], total, move |dout, grads| {
        let mut dinp = Tensor::empty(&shape, dtype, dout.device())?;
        match dout.device() {
            Device::Cpu => {
                let grad = (dout.item()? as f64 * factor) as f32;
                dispatch_float!(dtype, op, "inp", |E| {
                    dinp.slice_mut::<E>()?.fill(crate::dtype::Float::from_f32(grad));
                    Ok(())
                })?;
            }
            Device::Cuda(gpu) => {
                let dout = dout.cuda_slice()?;
                handloom_kernels::elementwise::fill(&gpu, dinp.cuda_slice_mut()?, factor as f32, dout)?;
            }
        }
        grads.add(id, dinp)
    }))
}
