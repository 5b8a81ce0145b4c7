//! Cross-entropy of a linear layer's output, without the output: the vocabulary projection and its loss as one op.

mod cuda;

use crate::cpu::elementwise as elementwise_kernel;
use crate::cpu::linear_cross_entropy::{self as kernel, Grads};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::cast::cast;
use crate::ops::cross_entropy::{IGNORE_INDEX, checked_targets, loss_factor};
use crate::tape::record;
use crate::tensor::Tensor;

/// `cross_entropy(inp weight^T, targets)` without ever holding all logits. On the tape, the gradients are computed in the forward
/// pass (for an upstream gradient of 1) and scaled in backward.
///
/// # Shapes
/// inp (..., C), weight (V, C), targets (...) i32; the result is an f32 scalar.
///
/// # Errors
/// As [`cross_entropy`](crate::ops::cross_entropy::cross_entropy).
pub fn linear_cross_entropy(
    inp: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    divisor: Option<f64>,
) -> Result<Tensor> {
    Ok(linear_cross_entropy_scored(inp, weight, None, targets, divisor)?.loss)
}

/// Bytes that logits may take at a time on a GPU. Fewer mean more chunks, and for each one more pass over the weight's gradient.
pub const LOGITS_BYTES: usize = 512 << 20;

const OP: &str = "linear_cross_entropy";

/// A loss and how often the largest logit was the target's, both where the logits were computed: reading either waits for the device.
pub struct Scored {
    /// An f32 scalar.
    pub loss: Tensor,
    /// Counted targets whose logit no other of their row exceeds (one that ties for the largest is a hit): an i32 scalar.
    pub hits: Tensor,
}

/// [`linear_cross_entropy`] of `inp weight^T + bias`, with the number of hits.
///
/// # Shapes
/// bias (V), else as [`linear_cross_entropy`].
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn linear_cross_entropy_scored(
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    divisor: Option<f64>,
) -> Result<Scored> {
    linear_cross_entropy_within(inp, weight, bias, targets, divisor, LOGITS_BYTES)
}

/// As [`linear_cross_entropy_scored`] with at most `logits_bytes` of logits at a time on a GPU (at least one row's).
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn linear_cross_entropy_within(
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    divisor: Option<f64>,
    logits_bytes: usize,
) -> Result<Scored> {
    let _time = crate::profile::scope(OP, crate::profile::Pass::Forward);
    let (rows, cols) = inp.rows_cols(OP, "inp")?;
    let (vocab, weight_cols) = weight.dims2(OP, "weight")?;
    if cols != weight_cols {
        let message = format!("inp {:?} and weight {:?} (V, C) differ in C", inp.shape(), weight.shape());
        return Err(Error::shape(OP, message));
    }
    super::same_dtype(OP, "weight", inp, weight)?;
    if let Some(bias) = bias {
        super::same_dtype(OP, "bias", inp, bias)?;
        if bias.shape() != [vocab] {
            let message = format!("bias is {:?}, weight {:?} needs [{vocab}]", bias.shape(), weight.shape());
            return Err(Error::shape(OP, message));
        }
        if cols == 0 {
            return Err(Error::shape(OP, format!("inp {:?} has no columns; a bias needs some", inp.shape())));
        }
    }
    match inp.device() {
        Device::Cpu => on_cpu(inp, weight, bias, targets, divisor, [rows, vocab, cols]),
        Device::Cuda(gpu) => {
            cuda::scored(gpu, inp, weight, bias, targets, divisor, [rows, vocab, cols], logits_bytes)
        }
    }
}

fn on_cpu(
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    divisor: Option<f64>,
    [rows, vocab, cols]: [usize; 3],
) -> Result<Scored> {
    let targets = checked_targets(OP, targets, rows, vocab)?;
    let factor = loss_factor(&targets, divisor);
    let ids = [inp.grad_id(), weight.grad_id(), bias.and_then(Tensor::grad_id)];
    let wide = |x: &Tensor| cast(&x.detach(), DType::F32)?.to_contiguous();
    let (wide_inp, wide_weight, wide_bias) = (wide(inp)?, wide(weight)?, bias.map(wide).transpose()?);
    let like = |shape: &[usize]| Tensor::empty(shape, DType::F32, Device::Cpu);
    let mut grads = match ids.iter().any(Option::is_some) {
        true => Some([like(inp.shape())?, like(weight.shape())?, like(bias.map_or(&[0], Tensor::shape))?]),
        false => None,
    };
    if let (Some(grads), true) = (&mut grads, rows == 0) {
        for grad in grads {
            grad.slice_mut::<f32>()?.fill(0.0);
        }
    }
    let into = match &mut grads {
        Some([dinp, dweight, dbias]) => {
            Some(Grads { dinp: dinp.slice_mut()?, dweight: dweight.slice_mut()?, dbias: dbias.slice_mut()? })
        }
        None => None,
    };
    let wide_bias = wide_bias.as_ref().map(Tensor::slice).transpose()?;
    let (wide_inp, wide_weight) = (wide_inp.slice()?, wide_weight.slice()?);
    let (scale, ignored) = (factor as f32, IGNORE_INDEX);
    let totals = kernel::forward_backward(
        wide_inp,
        wide_weight,
        wide_bias,
        &targets,
        vocab,
        cols,
        ignored,
        scale,
        into,
    );
    let hits = Tensor::from_slice(&[totals.hits as i32], &[])?;
    let loss = Tensor::scalar((totals.loss * factor) as f32);
    let Some(all) = grads else { return Ok(Scored { loss, hits }) };
    let dtypes = [inp.dtype(), DType::F32, DType::F32];
    let parents: Vec<&Tensor> = [inp, weight].into_iter().chain(bias).collect();
    let loss = record(OP, &parents, loss, move |dout, grads| {
        let upstream = dout.item()?;
        for ((id, mut grad), dtype) in ids.into_iter().zip(all).zip(dtypes) {
            if id.is_none() {
                continue;
            }
            if upstream != 1.0 {
                elementwise_kernel::scale_in_place(grad.slice_mut::<f32>()?, upstream);
            }
            grads.add(id, cast(&grad, dtype)?)?;
        }
        Ok(())
    });
    Ok(Scored { loss, hits })
}
