//! Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016, arXiv:1607.06450).

use handloom_kernels::layernorm as launcher;

use crate::cpu::layernorm as kernel;
use crate::device::{Cuda, Device};
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::ParameterGrad;
use crate::tape::{GradId, Gradients, record};
use crate::tensor::Tensor;

const OP: &str = "layernorm";

/// out = (inp - mean) * rstd * weight + bias, rstd = 1/sqrt(var + eps), var the biased variance of a row in two passes.
/// Saves inp, mean and rstd for backward.
///
/// # Shapes
/// inp and out (..., C); weight, bias (C).
///
/// # Errors
/// [`Error::Shape`] when weight or bias are not (C); [`Error::DType`] when the dtypes differ or are not floats.
pub fn layernorm(inp: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let _time = crate::profile::scope("layernorm", crate::profile::Pass::Forward);
    let (rows, cols) = check(inp, weight, bias)?;
    let (inp, weight, bias) = (inp.to_contiguous()?, weight.to_contiguous()?, bias.to_contiguous()?);
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    let stats = match inp.device() {
        Device::Cpu => {
            let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
            dispatch_float!(inp.dtype(), OP, "inp", |E| {
                kernel::forward(
                    out.slice_mut::<E>()?,
                    &mut mean,
                    &mut rstd,
                    inp.slice::<E>()?,
                    weight.slice::<E>()?,
                    bias.slice::<E>()?,
                    cols,
                    eps,
                );
                Ok(())
            })?;
            Stats::Cpu { mean, rstd }
        }
        Device::Cuda(gpu) => forward_gpu(gpu, &mut out, &inp, None, &weight, &bias, rows, cols, eps)?,
    };
    Ok(recorded(&inp, &weight, &bias, out, stats, rows, cols))
}

/// The sizes, after a check of shapes and dtypes.
fn check(inp: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(usize, usize)> {
    let (rows, cols) = inp.rows_cols(OP, "inp")?;
    for (name, parameter) in [("weight", weight), ("bias", bias)] {
        if parameter.shape() != [cols] {
            let message = format!("{name} is {:?}, inp {:?} needs [{cols}]", parameter.shape(), inp.shape());
            return Err(Error::shape(OP, message));
        }
        super::same_dtype(OP, "weight or bias", inp, parameter)?;
    }
    Ok((rows, cols))
}

/// What backward needs of each row, where the rows are.
enum Stats {
    Cpu {
        mean: Vec<f32>,
        rstd: Vec<f32>,
    },
    /// f32 tensors.
    Gpu {
        gpu: Cuda,
        mean: Tensor,
        rstd: Tensor,
    },
}

/// With a residual (h, branch): h = inp + branch, and out of h.
fn forward_gpu(
    gpu: Cuda,
    out: &mut Tensor,
    inp: &Tensor,
    residual: Option<(&mut Tensor, &Tensor)>,
    weight: &Tensor,
    bias: &Tensor,
    rows: usize,
    cols: usize,
    eps: f32,
) -> Result<Stats> {
    let empty = || Tensor::empty(&[rows], DType::F32, inp.device());
    let (mut mean, mut rstd) = (empty()?, empty()?);
    let residual = match residual {
        Some((h, branch)) => {
            Some(launcher::Residual { h: h.cuda_slice_mut()?, branch: branch.cuda_slice()? })
        }
        None => None,
    };
    launcher::forward(
        &gpu,
        out.cuda_slice_mut()?,
        mean.cuda_slice_mut()?,
        rstd.cuda_slice_mut()?,
        inp.cuda_slice()?,
        residual,
        weight.cuda_slice()?,
        bias.cuda_slice()?,
        rows,
        cols,
        eps,
    )?;
    Ok(Stats::Gpu { gpu, mean, rstd })
}

/// Puts the normalisation of `inp` on the tape.
fn recorded(
    inp: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    out: Tensor,
    stats: Stats,
    rows: usize,
    cols: usize,
) -> Tensor {
    let ids = [inp.grad_id(), weight.grad_id(), bias.grad_id()];
    let (saved_inp, saved_weight) = (inp.detach(), weight.detach());
    record(OP, &[inp, weight, bias], out, move |dout, grads| match stats {
        Stats::Cpu { mean, rstd } => {
            backward_cpu(&dout, grads, ids, &saved_inp, &saved_weight, &mean, &rstd, cols)
        }
        Stats::Gpu { gpu, mean, rstd } => {
            backward_gpu(gpu, &dout, grads, ids, &saved_inp, &saved_weight, &mean, &rstd, rows, cols)
        }
    })
}

fn backward_cpu(
    dout: &Tensor,
    grads: &mut Gradients,
    [inp_id, weight_id, bias_id]: [GradId; 3],
    inp: &Tensor,
    weight: &Tensor,
    mean: &[f32],
    rstd: &[f32],
    cols: usize,
) -> Result<()> {
    dispatch_float!(inp.dtype(), OP, "inp", |E| {
        let (dout, inp) = (dout.slice::<E>()?, inp.slice::<E>()?);
        if weight_id.is_some() || bias_id.is_some() {
            let sums = kernel::backward_parameters(dout, inp, mean, rstd, cols);
            let (dweight, dbias) = sums.split_at(cols);
            grads.write(weight_id, |buffer, accumulate| super::write_f32(buffer, dweight, accumulate, OP))?;
            grads.write(bias_id, |buffer, accumulate| super::write_f32(buffer, dbias, accumulate, OP))?;
        }
        grads.write(inp_id, |dinp, accumulate| {
            let (dinp, weight) = (dinp.slice_mut::<E>()?, weight.slice::<E>()?);
            kernel::backward_input(dinp, dout, inp, weight, mean, rstd, cols, accumulate);
            Ok(())
        })
    })
}

fn backward_gpu(
    gpu: Cuda,
    dout: &Tensor,
    grads: &mut Gradients,
    [inp_id, weight_id, bias_id]: [GradId; 3],
    inp: &Tensor,
    weight: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let mut dweight = ParameterGrad::begin(grads, weight_id)?;
    let mut dbias = ParameterGrad::begin(grads, bias_id)?;
    // An input without a gradient still needs room: all three come out of one pass.
    let (mut dinp, accumulate) = match grads.begin(inp_id)? {
        Some(begun) => begun,
        None => (Tensor::empty(inp.shape(), inp.dtype(), inp.device())?, false),
    };
    launcher::backward(
        gpu.gpu(),
        dinp.cuda_slice_mut()?,
        dweight.as_mut().map(ParameterGrad::target).transpose()?,
        dbias.as_mut().map(ParameterGrad::target).transpose()?,
        dout.cuda_slice()?,
        inp.cuda_slice()?,
        weight.cuda_slice()?,
        mean.cuda_slice()?,
        rstd.cuda_slice()?,
        rows,
        cols,
        accumulate,
    )?;
    for grad in [dweight, dbias].into_iter().flatten() {
        grad.finish(gpu, grads)?;
    }
    grads.finish(inp_id, dinp)
}

/// The residual stream and its normalisation: h = residual + branch, y = layernorm(h). Returns (h, y). Backward adds the
/// normalisation's gradient onto the one that h receives from further up. One pass over memory each way on a GPU.
///
/// # Shapes
/// residual, branch, h, y (..., C); weight, bias (C).
///
/// # Errors
/// As [`layernorm`], and [`Error::Shape`] when residual and branch differ in shape.
pub fn residual_layernorm(
    residual: &Tensor,
    branch: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    super::same_shape("residual_layernorm", "residual", residual, "branch", branch)?;
    let Device::Cuda(gpu) = residual.device() else {
        let h = super::elementwise::add(residual, branch)?;
        let y = layernorm(&h, weight, bias, eps)?;
        return Ok((h, y));
    };
    let _time = crate::profile::scope("residual_layernorm", crate::profile::Pass::Forward);
    super::same_dtype("residual_layernorm", "branch", residual, branch)?;
    let (rows, cols) = check(residual, weight, bias)?;
    let (residual, branch) = (residual.to_contiguous()?, branch.to_contiguous()?);
    let (weight, bias) = (weight.to_contiguous()?, bias.to_contiguous()?);
    let empty = || Tensor::empty(residual.shape(), residual.dtype(), residual.device());
    let (mut h, mut y) = (empty()?, empty()?);
    let pair = Some((&mut h, &branch));
    let stats = forward_gpu(gpu, &mut y, &residual, pair, &weight, &bias, rows, cols, eps)?;
    let ids = [residual.grad_id(), branch.grad_id()];
    let h = record("add", &[&residual, &branch], h, move |dout, grads| {
        grads.add(ids[0], dout.clone())?;
        grads.add(ids[1], dout)
    });
    let y = recorded(&h, &weight, &bias, y, stats, rows, cols);
    Ok((h, y))
}
