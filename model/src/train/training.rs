//! The training loop: steps, evaluations, checkpoints, and a GPU's figures a step late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use handloom_engine::device::Device;
use handloom_engine::storage;

use super::checkpoint::Best;
use super::metrics::{MetricsFile, StepMetrics};
use super::{Observer, Outcome, Trainer, train_step};
use crate::error::{Error, Result};

/// What is to be done after a step.
struct Due {
    evaluation: bool,
    checkpoint: bool,
}

impl Due {
    fn any(&self) -> bool {
        self.evaluation || self.checkpoint
    }
}

impl Trainer {
    /// Trains to the end, or until `stop` becomes true; then the state is saved.
    ///
    /// # Errors
    /// [`Error::Run`] when the loss or gradients are no longer finite (in fp32 and bf16), or a GPU is out of memory; what saving
    /// reports.
    pub fn run(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        self.run_to_end(observer, stop).map_err(advise_on_memory)
    }

    fn run_to_end(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let steps = self.steps();
        let mut metrics = MetricsFile::open(&self.run, self.state.step)?;
        self.reset_peak();
        let mut evaluation = None;
        while self.state.step < steps && !stop.load(Ordering::Relaxed) {
            let measured = self.step_once(steps)?;
            let due = self.is_due(steps);
            // A GPU's figures come a step late, unless something has to be done with the model of this very step.
            let last = if due.any() && self.device_step.is_some() { self.finish_step()? } else { None };
            let mut measured: Vec<StepMetrics> = measured.into_iter().chain(last).collect();
            measured.iter().for_each(|measured| observer.step(measured, steps));
            let mut improved = false;
            if let (true, Some(newest)) = (due.evaluation, measured.last_mut()) {
                let result =
                    self.evaluate(observer)?.expect("bug in handloom-model: no validation data after all");
                let step = self.state.step;
                improved = self.state.best.is_none_or(|best| result.loss < best.val_loss);
                if improved {
                    self.state.best = Some(Best { step, val_loss: result.loss });
                }
                newest.val_loss = Some(result.loss);
                newest.val_ppl = Some(result.perplexity);
                newest.val_masked_accuracy = result.masked_accuracy;
                observer.evaluated(step, &result, improved);
                evaluation = Some(result);
            }
            measured.iter().try_for_each(|measured| metrics.write(measured))?;
            if improved || due.checkpoint {
                self.save(improved)?;
            }
        }
        if let Some(last) = self.finish_step()? {
            observer.step(&last, steps);
            metrics.write(&last)?;
        }
        if self.saved != Some(self.state.step) {
            self.save(false)?;
        }
        let step = self.state.step;
        if step == steps && evaluation.is_none() {
            evaluation = self.evaluate(observer)?;
        }
        let checkpoint = self.checkpoints.path(step);
        let best = self.state.best;
        Ok(Outcome { steps: step, interrupted: step < steps, evaluation, best, checkpoint })
    }

    /// What has to be done after the step just started.
    fn is_due(&self, steps: u64) -> Due {
        let (train, step) = (&self.config.train, self.state.step);
        let due = |every: u64| every > 0 && step.is_multiple_of(every) || step == steps;
        Due { evaluation: self.valid.is_some() && due(train.eval_every), checkpoint: due(train.save_every) }
    }

    /// Starts a step; returns the figures that are there by then: this step's on the CPU, the step's before on a GPU.
    fn step_once(&mut self, steps: u64) -> Result<Option<StepMetrics>> {
        let started = Instant::now();
        let tokens_before = self.state.rows * self.train.block() as u64;
        let batches = self.next_batches()?;
        let (model, moments, state) = (&mut *self.model, &mut self.moments, &mut self.state);
        if let Some(device_step) = &mut self.device_step {
            let measured = device_step.step(model, moments, state, &self.config, batches)?;
            return Ok(measured.map(|measured| self.named(measured)));
        }
        let mut measured = train_step(model, moments, state, &self.config, batches, steps)?;
        let seconds = started.elapsed().as_secs_f64();
        let tokens = self.state.rows * self.train.block() as u64 - tokens_before;
        measured.ms_per_step = Some(seconds * 1e3);
        measured.tokens_per_s = Some(tokens as f64 / seconds);
        measured.peak_bytes = Some(storage::memory().peak);
        Ok(Some(self.named(measured)))
    }

    /// Waits for the step under way on a GPU.
    fn finish_step(&mut self) -> Result<Option<StepMetrics>> {
        let Some(device_step) = &mut self.device_step else { return Ok(None) };
        let measured = device_step.finish(&*self.model, &mut self.state, &self.config)?;
        Ok(measured.map(|measured| self.named(measured)))
    }

    /// With device and precision.
    fn named(&self, measured: StepMetrics) -> StepMetrics {
        let device = Some(self.device().to_string());
        let precision = Some(self.config.train.precision.to_string());
        StepMetrics { device, precision, ..measured }
    }

    fn reset_peak(&self) {
        match self.device() {
            Device::Cpu => storage::reset_peak(),
            Device::Cuda(gpu) => gpu.gpu().reset_peak(),
        }
    }
}

/// Adds to an out-of-memory error what the user can change.
pub(super) fn advise_on_memory(error: Error) -> Error {
    match error {
        Error::Engine(e) if e.is_out_of_memory() => Error::Run(format!(
            "{e}. Lower train.batch (and raise train.accumulate by as much: the same step), set train.recompute=true, or train in \
             half precision (--precision bf16)"
        )),
        other => other,
    }
}
