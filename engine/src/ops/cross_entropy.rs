//! Softmax cross-entropy over given logits.

use handloom_kernels::cross_entropy as launcher;

use crate::cpu::cross_entropy as kernel;
use crate::device::{Cuda, Device};
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

const OP: &str = "cross_entropy";

/// The target that is not counted, as in PyTorch.
pub const IGNORE_INDEX: i32 = -100;

/// Number of targets that count.
pub fn count_targets(targets: &[i32]) -> usize {
    targets.iter().filter(|target| **target != IGNORE_INDEX).count()
}

/// The targets, contiguous, after a check of dtype and count.
pub(super) fn contiguous_targets(op: &'static str, targets: &Tensor, rows: usize) -> Result<Tensor> {
    if targets.dtype() != DType::I32 {
        return Err(Error::DType { op, what: "targets", expected: "i32", got: targets.dtype() });
    }
    if targets.numel() != rows {
        return Err(Error::shape(op, format!("{} targets for {rows} rows of logits", targets.numel())));
    }
    Ok(targets.to_contiguous()?.detach())
}

/// The targets' values, all inside the vocabulary.
pub(super) fn checked_targets(
    op: &'static str,
    targets: &Tensor,
    rows: usize,
    vocab: usize,
) -> Result<Vec<i32>> {
    let targets = contiguous_targets(op, targets, rows)?.slice::<i32>()?.to_vec();
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
/// [`Error::Value`] for a target outside 0..V (on a GPU, where nobody waits to read the targets, the loss is NaN, and the error comes when results are read: [`handloom_kernels::ids`]), [`Error::Shape`] and [`Error::DType`] as the sizes and dtypes demand.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, divisor: Option<f64>) -> Result<Tensor> {
    let _time = crate::profile::scope("cross_entropy", crate::profile::Pass::Forward);
    let (rows, vocab) = logits.rows_cols(OP, "logits")?;
    let logits = logits.to_contiguous()?;
    match logits.device() {
        Device::Cpu => on_cpu(&logits, targets, rows, vocab, divisor),
        Device::Cuda(gpu) => on_gpu(gpu, &logits, targets, rows, vocab, divisor),
    }
}

fn on_cpu(
    logits: &Tensor,
    targets: &Tensor,
    rows: usize,
    vocab: usize,
    divisor: Option<f64>,
) -> Result<Tensor> {
    let targets = checked_targets(OP, targets, rows, vocab)?;
    let factor = loss_factor(&targets, divisor);
    let mut lse = vec![0.0; rows];
    let total = dispatch_float!(logits.dtype(), OP, "logits", |E| {
        Ok(kernel::forward(&mut lse, logits.slice::<E>()?, &targets, vocab, IGNORE_INDEX))
    })?;
    let (id, mut saved) = (logits.grad_id(), logits.detach());
    Ok(record(OP, &[logits], Tensor::scalar((total * factor) as f32), move |dout, grads| {
        let scale = dout.item()? * factor as f32;
        dispatch_float!(saved.dtype(), OP, "logits", |E| {
            let logits = saved.slice_mut::<E>()?;
            kernel::backward_in_place(logits, &lse, &targets, vocab, IGNORE_INDEX, scale);
            Ok(())
        })?;
        grads.add(id, saved)
    }))
}

fn on_gpu(
    gpu: Cuda,
    logits: &Tensor,
    targets: &Tensor,
    rows: usize,
    vocab: usize,
    divisor: Option<f64>,
) -> Result<Tensor> {
    let targets = contiguous_targets(OP, targets, rows)?;
    let mut lse = Tensor::empty(&[rows], DType::F32, logits.device())?;
    let mut rows_scores = RowScores::new(rows, logits.device())?;
    let RowScores { loss, hit } = &mut rows_scores;
    launcher::forward(
        &gpu,
        lse.cuda_slice_mut()?,
        loss.cuda_slice_mut()?,
        hit.cuda_slice_mut()?,
        logits.cuda_slice()?,
        targets.cuda_slice()?,
        rows,
        vocab,
        IGNORE_INDEX,
    )?;
    let Totals { loss, factor, .. } = rows_scores.totals(gpu, &targets, vocab, divisor)?;
    let (id, mut saved) = (logits.grad_id(), logits.detach());
    Ok(record(OP, &[logits], loss, move |dout, grads| {
        launcher::backward(
            &gpu,
            saved.cuda_slice_mut()?,
            lse.cuda_slice()?,
            targets.cuda_slice()?,
            dout.cuda_slice()?,
            factor.cuda_slice()?,
            rows,
            vocab,
            IGNORE_INDEX,
        )?;
        grads.add(id, saved)
    }))
}

/// Loss (f32) and hit (i32) of each row, on a GPU.
pub(super) struct RowScores {
    pub loss: Tensor,
    pub hit: Tensor,
}

/// What the rows add up to, on a GPU: f32 scalars, and an i32 one.
pub(super) struct Totals {
    pub loss: Tensor,
    /// What [`loss_factor`] is on the CPU.
    pub factor: Tensor,
    pub hits: Tensor,
}

impl RowScores {
    pub fn new(rows: usize, device: Device) -> Result<Self> {
        let empty = |dtype| Tensor::empty(&[rows], dtype, device);
        Ok(RowScores { loss: empty(DType::F32)?, hit: empty(DType::I32)? })
    }

    pub fn totals(&self, gpu: Cuda, targets: &Tensor, vocab: usize, divisor: Option<f64>) -> Result<Totals> {
        let empty = |dtype| Tensor::empty(&[], dtype, targets.device());
        let (mut loss, mut factor, mut hits) = (empty(DType::F32)?, empty(DType::F32)?, empty(DType::I32)?);
        launcher::finish(
            &gpu,
            loss.cuda_slice_mut()?,
            factor.cuda_slice_mut()?,
            hits.cuda_slice_mut()?,
            self.loss.cuda_slice()?,
            self.hit.cuda_slice()?,
            targets.cuda_slice()?,
            targets.numel(),
            vocab,
            IGNORE_INDEX,
            divisor,
        )?;
        Ok(Totals { loss, factor, hits })
    }
}
