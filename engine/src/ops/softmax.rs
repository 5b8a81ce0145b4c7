//! Softmax over the last dimension.

use handloom_kernels::softmax as launcher;

use crate::cpu::softmax as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::error::Result;
use crate::tape::record;
use crate::tensor::Tensor;

/// out = e^(scale x - m) / sum e^(scale x - m), m the row's maximum. A row of
/// -infinity gives zeros. Saves `out` for backward.
///
/// # Shapes
/// inp and out (..., C).
///
/// # Errors
/// [`DType`](crate::error::Error::DType) when `inp` is not a float tensor, [`Shape`](crate::error::Error::Shape) when it is a scalar.
pub fn softmax(inp: &Tensor, scale: f32) -> Result<Tensor> {
    let _time = crate::profile::scope("softmax", crate::profile::Pass::Forward);
    let inp = inp.to_contiguous()?;
    let (rows, cols) = inp.rows_cols("softmax", "inp")?;
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    match inp.device() {
        Device::Cpu => dispatch_float!(inp.dtype(), "softmax", "inp", |E| {
            kernel::forward(out.slice_mut::<E>()?, inp.slice::<E>()?, cols, scale);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            launcher::forward(&gpu, out.cuda_slice_mut()?, inp.cuda_slice()?, rows, cols, scale)?;
        }
    }
    let (id, saved) = (inp.grad_id(), out.clone());
    Ok(record("softmax", &[&inp], out, move |dout, grads| {
        grads.write(id, |dinp, accumulate| match saved.device() {
            Device::Cpu => dispatch_float!(saved.dtype(), "softmax", "inp", |E| {
                let dinp = dinp.slice_mut::<E>()?;
                let (dout, out) = (dout.slice::<E>()?, saved.slice::<E>()?);
                kernel::backward(dinp, dout, out, cols, scale, accumulate);
                Ok(())
            }),
            Device::Cuda(gpu) => {
                let (dout, out) = (dout.cuda_slice()?, saved.cuda_slice()?);
                let dinp = dinp.cuda_slice_mut()?;
                launcher::backward(&gpu, dinp, dout, out, rows, cols, scale, accumulate)?;
                Ok(())
            }
        })
    }))
}
