//! Cross-entropy of a linear layer's output, without the output: the vocabulary projection and its loss as one op.

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

/// A loss and how often the largest logit was the target's.
pub struct Scored {
    /// An f32 scalar.
    pub loss: Tensor,
    /// Counted targets whose logit is the largest of their row.
    pub hits: usize,
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
    let _time = crate::profile::scope("linear_cross_entropy", crate::profile::Pass::Forward);
    const OP: &str = "linear_cross_entropy";
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
    let targets = checked_targets(OP, targets, rows, vocab)?;
    let factor = loss_factor(&targets, divisor);
    let ids = [inp.grad_id(), weight.grad_id(), bias.and_then(Tensor::grad_id)];
    let wide = |x: &Tensor| Ok::<_, Error>(cast(&x.detach(), DType::F32)?.to_contiguous());
    let (wide_inp, wide_weight, wide_bias) = (wide(inp)?, wide(weight)?, bias.map(wide).transpose()?);
    let device = inp.device();
    let mut grads = ids.iter().any(Option::is_some).then(|| {
        let like = |shape: &[usize]| Tensor::empty(shape, DType::F32, device);
        [like(inp.shape()), like(weight.shape()), like(bias.map_or(&[0], Tensor::shape))]
    });
    if let (Some(grads), true) = (&mut grads, rows == 0) {
        for grad in grads {
            grad.slice_mut::<f32>()?.fill(0.0);
        }
    }
    let totals = match device {
        Device::Cpu => {
            let grads = match &mut grads {
                Some([dinp, dweight, dbias]) => Some(Grads {
                    dinp: dinp.slice_mut()?,
                    dweight: dweight.slice_mut()?,
                    dbias: dbias.slice_mut()?,
                }),
                None => None,
            };
            let bias = wide_bias.as_ref().map(Tensor::slice).transpose()?;
            let (inp, weight) = (wide_inp.slice()?, wide_weight.slice()?);
            let (factor, ignored) = (factor as f32, IGNORE_INDEX);
            kernel::forward_backward(inp, weight, bias, &targets, vocab, cols, ignored, factor, grads)
        }
    };
    let hits = totals.hits;
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
