//! GELU: gelu(x) = x Phi(x), Phi the standard normal distribution function (Hendrycks and Gimpel 2016,
//! arXiv:1606.08415), exactly or through their tanh fit.

use handloom_kernels::gelu as launcher;

use crate::cpu::gelu as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::error::Result;
use crate::tape::record;
use crate::tensor::Tensor;

/// Which form of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2.
    Tanh,
    /// x/2 (1 + erf(x / sqrt 2)): BERT.
    Erf,
}

impl Gelu {
    /// The same form as the kernels name it.
    pub(crate) fn launched(self) -> launcher::Form {
        match self {
            Gelu::Tanh => launcher::Form::Tanh,
            Gelu::Erf => launcher::Form::Erf,
        }
    }
}

/// gelu(inp), elementwise. Saves `inp` for backward.
///
/// # Errors
/// [`DType`](crate::error::Error::DType) when `inp` is not a float tensor.
pub fn gelu(inp: &Tensor, form: Gelu) -> Result<Tensor> {
    let _time = crate::profile::scope("gelu", crate::profile::Pass::Forward);
    let inp = inp.to_contiguous()?;
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    match inp.device() {
        Device::Cpu => dispatch_float!(inp.dtype(), "gelu", "inp", |E| {
            kernel::forward(out.slice_mut::<E>()?, inp.slice::<E>()?, form);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            launcher::forward(&gpu, out.cuda_slice_mut()?, inp.cuda_slice()?, form.launched())?;
        }
    }
    let (id, saved) = (inp.grad_id(), inp.detach());
    Ok(record("gelu", &[&inp], out, move |dout, grads| {
        grads.write(id, |dinp, accumulate| match saved.device() {
            Device::Cpu => dispatch_float!(saved.dtype(), "gelu", "inp", |E| {
                let dinp = dinp.slice_mut::<E>()?;
                kernel::backward(dinp, dout.slice::<E>()?, saved.slice::<E>()?, form, accumulate);
                Ok(())
            }),
            Device::Cuda(gpu) => {
                let (dout, inp) = (dout.cuda_slice()?, saved.cuda_slice()?);
                launcher::backward(&gpu, dinp.cuda_slice_mut()?, dout, inp, form.launched(), accumulate)?;
                Ok(())
            }
        })
    }))
}
