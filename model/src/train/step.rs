//! One optimizer step on the CPU: micro-batches, gradients, clipping, update. [`super::DeviceStep`] is the same on a GPU.

use handloom_engine::ops::adamw::{Parameter, Step, adamw};
use handloom_engine::ops::norm::{clip_factor, global_norm};
use handloom_engine::tensor::Tensor;

use super::Trainer;
use super::checkpoint::{Moments, State};
use super::metrics::StepMetrics;
use crate::config::{Decay, ObjectiveKind, OptimizerConfig, RunConfig};
use crate::error::{Error, Result};
use crate::layers::{DropoutSource, Forward};
use crate::model::{LanguageModel, Score};
use crate::objective::Batch;

/// Runs one step on `batches` and measures loss, rate and gradient norm. `steps` is the length of the run, for the
/// learning rate.
///
/// # Errors
/// [`Error::Run`] when loss or gradients are not finite (without a loss scaler).
pub fn train_step(
    model: &mut dyn LanguageModel,
    moments: &mut Moments,
    state: &mut State,
    config: &RunConfig,
    batches: Vec<Batch>,
    steps: u64,
) -> Result<StepMetrics> {
    let (train, optimizer) = (&config.train, &config.optimizer);
    let step = state.step;
    let counted: usize = batches.iter().map(|batch| batch.counted).sum();
    let divisor = Some(counted.max(1) as f64);
    let scale = state.loss_scaler.map_or(1.0, |scaler| scaler.scale);

    // Every micro-batch's loss is divided by the tokens of all of them: the sum is the mean over the step.
    let (mut loss, mut hits) = (0.0, 0);
    let mut grads: Vec<Option<Tensor>> = Vec::new();
    for batch in batches {
        let dropout = DropoutSource { seed: train.seed, step: state.micro_steps as u32 };
        let fwd = Forward::training(model.params(), dropout, train.recompute);
        let tape = fwd.tape.clone().expect("bug in handloom-model: a training pass has a tape");
        let mut under_way = tape.gradients();
        fwd.weights.seed_gradients(&mut under_way, std::mem::take(&mut grads));
        let Score { loss: part, hits: part_hits } = model.score(&fwd, &batch, divisor)?;
        hits += part_hits.item()? as usize;
        loss += part.item()? as f64;
        tape.backward(&part, Tensor::scalar(scale as f32), &mut under_way)?;
        grads = fwd.weights.take_gradients(&mut under_way);
        state.micro_steps += 1;
    }
    let grads = all_present(&*model, grads)?;

    let norm = global_norm(&grads)? / scale;
    let lr = optimizer.lr * config.schedule.factor(step, steps);
    let counts = match &mut state.loss_scaler {
        Some(scaler) => {
            let rules = optimizer.loss_scaling();
            let finite = norm.is_finite();
            if !finite && scaler.scale <= rules.min {
                return Err(overflow_at_lowest_scale(step + 1, loss, rules.min));
            }
            *scaler = scaler.after(&rules, finite);
            finite
        }
        None if norm.is_finite() && loss.is_finite() => true,
        None => return Err(divergence(step + 1, loss, norm)),
    };
    if counts {
        state.updates += 1;
        let grad_scale = (clip_factor(norm, optimizer.clip_norm) / scale) as f32;
        let betas = (optimizer.betas[0], optimizer.betas[1]);
        let shared = Step { lr, betas, eps: optimizer.eps, step: state.updates, grad_scale };
        let mut parameters = parameters(model, moments, &grads, optimizer);
        adamw(&mut parameters, shared)?;
    }
    state.step += 1;
    let masked = model.objective() == ObjectiveKind::Mlm;
    Ok(StepMetrics {
        step: state.step,
        loss: Some(loss),
        ppl: Some(loss.exp()),
        masked_accuracy: masked.then(|| hits as f64 / counted.max(1) as f64),
        lr: Some(lr),
        grad_norm: Some(norm),
        loss_scale: state.loss_scaler.map(|scaler| scaler.scale),
        skipped_steps: state.loss_scaler.map(|scaler| scaler.skipped_steps),
        ..StepMetrics::default()
    })
}

/// Without a loss scaler, numbers that are not finite end the run.
pub(super) fn divergence(step: u64, loss: f64, norm: f64) -> Error {
    Error::Run(format!(
        "step {step}: loss {loss}, gradient norm {norm}: training has diverged. The checkpoint before it is intact; lower \
         optimizer.lr, lengthen schedule.warmup_steps or check the data"
    ))
}

/// With one, an overflow that no lower scale can help.
pub(super) fn overflow_at_lowest_scale(step: u64, loss: f64, min: f64) -> Error {
    Error::Run(format!(
        "step {step}: gradients overflow with the lowest loss scale, {min}: loss {loss}. The checkpoint before it is intact; lower \
         optimizer.lr, train in bf16, or lower optimizer.loss_scale_min"
    ))
}

/// Each parameter with its gradient, moments and weight decay.
pub(super) fn parameters<'a>(
    model: &'a mut dyn LanguageModel,
    moments: &'a mut Moments,
    grads: &'a [Tensor],
    optimizer: &OptimizerConfig,
) -> Vec<Parameter<'a>> {
    let moments = moments.m.iter_mut().zip(&mut moments.v);
    let all = model.params_mut().iter_mut().zip(grads).zip(moments);
    all.map(|((param, grad), (m, v))| {
        let decays = optimizer.decay == Decay::All || param.value.rank() >= 2;
        let weight_decay = if decays { optimizer.weight_decay as f32 } else { 0.0 };
        Parameter { value: &mut param.value, master: param.master.as_mut(), grad, m, v, weight_decay }
    })
    .collect()
}

/// Every parameter must have received a gradient: one that did not is a broken model, never a silent zero.
pub(super) fn all_present(model: &dyn LanguageModel, grads: Vec<Option<Tensor>>) -> Result<Vec<Tensor>> {
    let names = model.params().iter().map(|param| &param.name);
    names
        .zip(grads)
        .map(|(name, grad)| {
            grad.ok_or_else(|| Error::Run(format!("bug in handloom-model: no gradient for {name}")))
        })
        .collect()
}

impl Trainer {
    /// The micro-batches of the next step; moves the position past them.
    pub(super) fn next_batches(&mut self) -> Result<Vec<Batch>> {
        let limit = self.row_limit().unwrap_or(u64::MAX);
        let mut batches = Vec::new();
        for _ in 0..self.config.train.accumulate {
            let end = (self.state.rows + self.config.train.batch as u64).min(limit);
            if self.state.rows == end {
                break;
            }
            let rows = std::mem::replace(&mut self.state.rows, end)..end;
            batches.push(self.objective.training_batch(&self.train, &self.order, rows)?);
        }
        Ok(batches)
    }
}
