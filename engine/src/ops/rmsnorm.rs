//! Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467).

use handloom_kernels::rmsnorm as launcher;

use crate::cpu::rmsnorm as kernel;
use crate::device::{Cuda, Device};
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::ParameterGrad;
use crate::tape::{GradId, Gradients, record};
use crate::tensor::Tensor;

const OP: &str = "rmsnorm";

/// out = inp * rstd * weight, rstd = 1/sqrt(mean of inp^2 over the row + eps). Saves inp and rstd for backward.
///
/// # Shapes
/// inp and out (..., C); weight (C).
///
/// # Errors
/// [`Error::Shape`] when weight is not (C); [`Error::DType`] when the dtypes differ or are not floats.
pub fn rmsnorm(inp: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let _time = crate::profile::scope(OP, crate::profile::Pass::Forward);
    let (rows, cols) = inp.rows_cols(OP, "inp")?;
    if weight.shape() != [cols] {
        let message = format!("weight is {:?}, inp {:?} needs [{cols}]", weight.shape(), inp.shape());
        return Err(Error::shape(OP, message));
    }
    super::same_dtype(OP, "weight", inp, weight)?;
    let (inp, weight) = (inp.to_contiguous()?, weight.to_contiguous()?);
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    let ids = [inp.grad_id(), weight.grad_id()];
    let (saved_inp, saved_weight) = (inp.detach(), weight.detach());
    match inp.device() {
        Device::Cpu => {
            let mut rstd = vec![0.0; rows];
            dispatch_float!(inp.dtype(), OP, "inp", |E| {
                let (inp, weight) = (inp.slice::<E>()?, weight.slice::<E>()?);
                kernel::forward(out.slice_mut::<E>()?, &mut rstd, inp, weight, cols, eps);
                Ok(())
            })?;
            Ok(record(OP, &[&inp, &weight], out, move |dout, grads| {
                backward_cpu(&dout, grads, ids, &saved_inp, &saved_weight, &rstd, cols)
            }))
        }
        Device::Cuda(gpu) => {
            let mut rstd = Tensor::empty(&[rows], DType::F32, inp.device())?;
            let (y, r) = (out.cuda_slice_mut()?, rstd.cuda_slice_mut()?);
            launcher::forward(&gpu, y, r, inp.cuda_slice()?, None, weight.cuda_slice()?, rows, cols, eps)?;
            Ok(record(OP, &[&inp, &weight], out, move |dout, grads| {
                backward_gpu(gpu, &dout, grads, ids, &saved_inp, &saved_weight, &rstd, rows, cols)
            }))
        }
    }
}

fn backward_cpu(
    dout: &Tensor,
    grads: &mut Gradients,
    [inp_id, weight_id]: [GradId; 2],
    inp: &Tensor,
    weight: &Tensor,
    rstd: &[f32],
    cols: usize,
) -> Result<()> {
    dispatch_float!(inp.dtype(), OP, "inp", |E| {
        let (dout, inp) = (dout.slice::<E>()?, inp.slice::<E>()?);
        grads.write(weight_id, |buffer, accumulate| {
            let dweight = kernel::backward_weight(dout, inp, rstd, cols);
            super::write_f32(buffer, &dweight, accumulate, OP)
        })?;
        grads.write(inp_id, |dinp, accumulate| {
            let (dinp, weight) = (dinp.slice_mut::<E>()?, weight.slice::<E>()?);
            kernel::backward_input(dinp, dout, inp, weight, rstd, cols, accumulate);
            Ok(())
        })
    })
}

fn backward_gpu(
    gpu: Cuda,
    dout: &Tensor,
    grads: &mut Gradients,
    [inp_id, weight_id]: [GradId; 2],
    inp: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let mut dweight = ParameterGrad::begin(grads, weight_id)?;
    // An input without a gradient still needs room: both come out of one pass.
    let (mut dinp, accumulate) = match grads.begin(inp_id)? {
        Some(begun) => begun,
        None => (Tensor::empty(inp.shape(), inp.dtype(), inp.device())?, false),
    };
    launcher::backward(
        gpu.gpu(),
        dinp.cuda_slice_mut()?,
        dweight.as_mut().map(ParameterGrad::target).transpose()?,
        dout.cuda_slice()?,
        inp.cuda_slice()?,
        weight.cuda_slice()?,
        rstd.cuda_slice()?,
        rows,
        cols,
        accumulate,
    )?;
    if let Some(dweight) = dweight {
        dweight.finish(gpu, grads)?;
    }
    grads.finish(inp_id, dinp)
}
