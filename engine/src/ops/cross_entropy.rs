//! Softmax cross-entropy over a vocabulary, with the logits given or as the product that makes them.

use crate::cpu::cross_entropy::{self as kernel, LinearGrads};
use crate::cpu::elementwise as elementwise_kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

/// The target that is not counted, as in PyTorch.
pub const IGNORE_INDEX: i32 = -100;

/// Number of targets that count.
pub fn count_targets(targets: &[i32]) -> usize {
    targets.iter().filter(|target| **target != IGNORE_INDEX).count()
}

fn checked_targets(op: &'static str, targets: &Tensor, rows: usize, vocab: usize) -> Result<Vec<i32>> {
    if targets.dtype() != DType::I32 {
        return Err(Error::DType { op, what: "targets", expected: "i32", got: targets.dtype() });
    }
    if targets.numel() != rows {
        return Err(Error::shape(op, format!("{} targets for {rows} rows of logits", targets.numel())));
    }
    let targets = targets.to_contiguous().slice::<i32>()?.to_vec();
    let bad = |target: i32| target != IGNORE_INDEX && (target < 0 || target as usize >= vocab);
    if let Some((row, target)) = targets.iter().enumerate().find(|(_, target)| bad(**target)) {
        let message =
            format!("target {target} in row {row} is outside the vocabulary of {vocab} (or {IGNORE_INDEX})");
        return Err(Error::value(op, message));
    }
    Ok(targets)
}

/// The factor that turns the summed loss into what is returned: 1 / divisor, where the divisor is the number of counted
/// targets unless given. Nothing counted: 0, so that loss and gradients are 0.
fn loss_factor(targets: &[i32], divisor: Option<f64>) -> f64 {
    let divisor = divisor.unwrap_or(count_targets(targets) as f64);
    if divisor == 0.0 { 0.0 } else { 1.0 / divisor }
}

/// Mean over counted targets of -log softmax(logits)[target], an f32 scalar. Saves the logits and their log-sum-exp;
/// backward turns the logits into their gradient in place when nobody else holds them.
///
/// `divisor` replaces the number of counted targets (accumulation over micro-batches).
///
/// # Shapes
/// logits (..., V), targets (...) i32 with [`IGNORE_INDEX`] where nothing counts.
///
/// # Errors
/// [`Error::Value`] for a target outside 0..V, [`Error::Shape`] and [`Error::DType`] as the sizes and dtypes demand.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, divisor: Option<f64>) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let (rows, vocab) = logits.rows_cols(OP, "logits")?;
    let targets = checked_targets(OP, targets, rows, vocab)?;
    let factor = loss_factor(&targets, divisor);
    let logits = logits.to_contiguous();
    let mut lse = vec![0.0; rows];
    let total = dispatch_float!(logits.dtype(), OP, "logits", |E| match logits.device() {
        Device::Cpu => Ok(kernel::forward(&mut lse, logits.slice::<E>()?, &targets, vocab, IGNORE_INDEX)),
    })?;
    let (id, mut saved) = (logits.grad_id(), logits.detach());
    Ok(record(OP, &[&logits], Tensor::scalar((total * factor) as f32), move |dout, grads| {
        let scale = dout.item()? * factor as f32;
        dispatch_float!(saved.dtype(), OP, "logits", |E| {
            match saved.device() {
                Device::Cpu => kernel::backward_in_place(
                    saved.slice_mut::<E>()?,
                    &lse,
                    &targets,
                    vocab,
                    IGNORE_INDEX,
                    scale,
                ),
            }
            Ok(())
        })?;
        grads.add(id, saved)
    }))
}

/// `cross_entropy(inp weight^T, targets)` without ever holding all logits: a few rows of them at a time go through
/// softmax, loss and both gradient products while in cache. On the tape, the gradients are computed in the forward
/// pass (for an upstream gradient of 1) and scaled in backward.
///
/// # Shapes
/// inp (..., C), weight (V, C), targets (...) i32; the result is an f32 scalar.
///
/// # Errors
/// As [`cross_entropy`].
pub fn linear_cross_entropy(
    inp: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    divisor: Option<f64>,
) -> Result<Tensor> {
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
    let wide_inp = super::cast::cast(&inp.detach(), DType::F32)?.to_contiguous();
    let wide_weight = super::cast::cast(&weight.detach(), DType::F32)?.to_contiguous();
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
                    Some(LinearGrads { dinp: dinp.slice_mut()?, dweight: dweight.slice_mut()? })
                }
                None => None,
            };
            let (inp, weight) = (wide_inp.slice()?, wide_weight.slice()?);
            kernel::linear_forward_backward(
                inp,
                weight,
                &targets,
                vocab,
                cols,
                IGNORE_INDEX,
                factor as f32,
                grads,
            )
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
                grads.add(id, super::cast::cast(&grad, dtype)?)?;
            }
        }
        Ok(())
    }))
}
