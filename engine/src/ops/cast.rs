//! Conversion between float dtypes, rounding to nearest, ties to even.

use crate::cpu::elementwise as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::Result;
use crate::tape::record;
use crate::tensor::Tensor;

/// `inp` as `dtype`. Its gradient is cast back.
///
/// # Errors
/// [`DType`](crate::error::Error::DType) when either dtype is not a float.
pub fn cast(inp: &Tensor, dtype: DType) -> Result<Tensor> {
    let _time = crate::profile::scope("cast", crate::profile::Pass::Forward);
    if inp.dtype() == dtype {
        return Ok(inp.clone());
    }
    let inp = inp.to_contiguous()?;
    let mut out = Tensor::empty(inp.shape(), dtype, inp.device())?;
    match inp.device() {
        Device::Cpu => dispatch_float!(inp.dtype(), "cast", "inp", |A| {
            dispatch_float!(dtype, "cast", "result", |B| {
                kernel::cast(out.slice_mut::<B>()?, inp.slice::<A>()?, false);
                Ok(())
            })
        })?,
        Device::Cuda(gpu) => {
            handloom_kernels::cast::cast(&gpu, out.cuda_slice_mut()?, inp.cuda_slice()?, false)?
        }
    }
    let (id, from) = (inp.grad_id(), inp.dtype());
    Ok(record("cast", &[&inp], out, move |dout, grads| grads.add(id, cast(&dout, from)?)))
}
