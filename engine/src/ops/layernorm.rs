//! Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016, arXiv:1607.06450).

use crate::cpu::layernorm as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

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
    const OP: &str = "layernorm";
    let (rows, cols) = inp.rows_cols(OP, "inp")?;
    for (name, parameter) in [("weight", weight), ("bias", bias)] {
        if parameter.shape() != [cols] {
            let message = format!("{name} is {:?}, inp {:?} needs [{cols}]", parameter.shape(), inp.shape());
            return Err(Error::shape(OP, message));
        }
        super::same_dtype(OP, "weight or bias", inp, parameter)?;
    }
    let (inp, weight, bias) = (inp.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device());
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    dispatch_float!(inp.dtype(), OP, "inp", |E| {
        match inp.device() {
            Device::Cpu => kernel::forward(
                out.slice_mut::<E>()?,
                &mut mean,
                &mut rstd,
                inp.slice::<E>()?,
                weight.slice::<E>()?,
                bias.slice::<E>()?,
                cols,
                eps,
            ),
        }
        Ok(())
    })?;
    let (inp_id, weight_id, bias_id) = (inp.grad_id(), weight.grad_id(), bias.grad_id());
    let (saved_inp, saved_weight) = (inp.detach(), weight.detach());
    Ok(record(OP, &[&inp, &weight, &bias], out, move |dout, grads| {
        dispatch_float!(saved_inp.dtype(), OP, "inp", |E| {
            let (dout, inp) = (dout.slice::<E>()?, saved_inp.slice::<E>()?);
            if weight_id.is_some() || bias_id.is_some() {
                let sums = kernel::backward_parameters(dout, inp, &mean, &rstd, cols);
                let (dweight, dbias) = sums.split_at(cols);
                grads.write(weight_id, |buffer, accumulate| {
                    super::write_f32(buffer, dweight, accumulate, OP)
                })?;
                grads.write(bias_id, |buffer, accumulate| super::write_f32(buffer, dbias, accumulate, OP))?;
            }
            grads.write(inp_id, |dinp, accumulate| {
                let (dinp, weight) = (dinp.slice_mut::<E>()?, saved_weight.slice::<E>()?);
                kernel::backward_input(dinp, dout, inp, weight, &mean, &rstd, cols, accumulate);
                Ok(())
            })
        })
    }))
}

/// The residual stream and its normalisation: h = residual + branch, y = layernorm(h). Returns (h, y). Backward adds the
/// normalisation's gradient onto the one that h receives from further up.
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
    let h = super::elementwise::add(residual, branch)?;
    let y = layernorm(&h, weight, bias, eps)?;
    Ok((h, y))
}
