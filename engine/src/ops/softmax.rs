//! Softmax over the last dimension.

use crate::cpu::softmax as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::error::Result;
use crate::tape::record;
use crate::tensor::Tensor;

/// out = e^(scale x - m) / sum e^(scale x - m), m the row's maximum. Saves `out` for backward.
///
/// # Shapes
/// inp and out (..., C).
///
/// # Errors
/// [`DType`](crate::error::Error::DType) when `inp` is not a float tensor, [`Shape`](crate::error::Error::Shape) when it is a scalar.
pub fn softmax(inp: &Tensor, scale: f32) -> Result<Tensor> {
    let _time = crate::profile::scope("softmax", crate::profile::Pass::Forward);
    let inp = inp.to_contiguous();
    let (_, cols) = inp.rows_cols("softmax", "inp")?;
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device());
    dispatch_float!(inp.dtype(), "softmax", "inp", |E| {
        match inp.device() {
            Device::Cpu => kernel::forward(out.slice_mut::<E>()?, inp.slice::<E>()?, cols, scale),
        }
        Ok(())
    })?;
    let (id, saved) = (inp.grad_id(), out.clone());
    Ok(record("softmax", &[&inp], out, move |dout, grads| {
        grads.write(id, |dinp, accumulate| {
            dispatch_float!(saved.dtype(), "softmax", "inp", |E| {
                let dinp = dinp.slice_mut::<E>()?;
                match saved.device() {
                    Device::Cpu => kernel::backward(
                        dinp,
                        dout.slice::<E>()?,
                        saved.slice::<E>()?,
                        cols,
                        scale,
                        accumulate,
                    ),
                }
                Ok(())
            })
        })
    }))
}
