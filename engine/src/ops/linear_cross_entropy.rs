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
    let _time = crate::profile::scope("linear_cross_entropy", crate::profile::Pass::Forward);
    const OP: &str = "linear_cross_entropy";
    let (rows, cols) = inp.rows_cols(OP, "inp")?;
    let (vocab, weight_cols) = weight.dims2(OP, "weight")?;
    if cols != weight_cols {
        let message = format!("inp {:?} and weight {:?} (V, C) differ in C", inp.shape(), weight.shape());
        return Err(Error::shape(OP, message));
    }
    super::same_dtype(OP, "weight", inp, weight)?;
    let targets = checked_targets(OP, targets, rows, vocab)?;
    let factor = loss_factor(&targets, divisor);
    let (inp_id, weight_id) = (inp.grad_id(), weight.grad_id());
    let wide_inp = cast(&inp.detach(), DType::F32)?.to_contiguous();
    let wide_weight = cast(&weight.detach(), DType::F32)?.to_contiguous();
    let device = inp.device();
    let mut grads = (inp_id.is_some() || weight_id.is_some()).then(|| {
        (Tensor::empty(inp.shape(), DType::F32, device), Tensor::empty(weight.shape(), DType::F32, device))
    });
    if let (Some((dinp, dweight)), true) = (&mut grads, rows == 0) {
        dinp.slice_mut::<f32>()?.fill(0.0);
        dweight.slice_mut::<f32>()?.fill(0.0);
    }
    let total = match device {
        Device::Cpu => {
            let grads = match &mut grads {
                Some((dinp, dweight)) => {
                    Some(Grads { dinp: dinp.slice_mut()?, dweight: dweight.slice_mut()? })
                }
                None => None,
            };
            let (inp, weight) = (wide_inp.slice()?, wide_weight.slice()?);
            kernel::forward_backward(inp, weight, &targets, vocab, cols, IGNORE_INDEX, factor as f32, grads)
        }
    };
    let loss = Tensor::scalar((total * factor) as f32);
    let Some((dinp, dweight)) = grads else { return Ok(loss) };
    let dtype = inp.dtype();
    Ok(record(OP, &[inp, weight], loss, move |dout, grads| {
        let upstream = dout.item()?;
        for (id, mut grad, dtype) in [(inp_id, dinp, dtype), (weight_id, dweight, DType::F32)] {
            if upstream != 1.0 {
                elementwise_kernel::scale_in_place(grad.slice_mut::<f32>()?, upstream);
            }
            if id.is_some() {
                grads.add(id, cast(&grad, dtype)?)?;
            }
        }
        Ok(())
    }))
}
