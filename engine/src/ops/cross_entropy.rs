//! Softmax cross-entropy over given logits.

use crate::cpu::cross_entropy as kernel;
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

pub(super) fn checked_targets(
    op: &'static str,
    targets: &Tensor,
    rows: usize,
    vocab: usize,
) -> Result<Vec<i32>> {
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
pub(super) fn loss_factor(targets: &[i32], divisor: Option<f64>) -> f64 {
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
    let _time = crate::profile::scope("cross_entropy", crate::profile::Pass::Forward);
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
