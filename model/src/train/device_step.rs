//! The optimizer step on a GPU: enqueued without waiting, measured one step late, and replayed as one CUDA graph once it has run
//! a few times with the same shapes. A masked language model chooses another number of tokens each time; its rows are filled up with
//! ones that do not count, so that its steps have one shape too.
//!
//! Learning rate, loss scale, step counts, clip factor and the decision to skip live in device memory
//! ([`handloom_engine::optimizer`]); the host sends each step's batches and reads the last step's figures, both through pinned
//! memory. So a step needs no other copy to the device, and the host waits only for the step before.

use std::time::Instant;

use handloom_engine::device::{Cuda, Device, Graph, Pinned, REPORT_BYTES};
use handloom_engine::dtype::DType;
use handloom_engine::error::Error as EngineError;
use handloom_engine::ops::elementwise::mul;
use handloom_engine::optimizer::{self, Optimizer, Progress, Scaling, Settings};
use handloom_engine::profile::{Pass, scope};
use handloom_engine::tensor::Tensor;

use super::checkpoint::{Moments, State};
use super::inputs::Inputs;
use super::loss_scaler::LossScaler;
use super::metrics::StepMetrics;
use super::shape::{Shape, masked_in_one_shape, planned_batch};
use super::step::{all_present, divergence, overflow_at_lowest_scale, parameters};
use crate::config::{ObjectiveKind, RunConfig};
use crate::error::{Error, Result};
use crate::layers::{DropoutSource, Forward};
use crate::model::{LanguageModel, Score};
use crate::objective::Batch;
use crate::params::Precision;

/// Steps of one shape that run before the next one is captured: the first loads kernels and memory, the second finds all of it there.
const EAGER_STEPS: usize = 2;
/// Where the report of ids outside their tables begins in a report, and where losses do, in bytes.
const IDS: usize = Progress::BYTES.next_multiple_of(64);
const LOSSES: usize = IDS + REPORT_BYTES;

/// A step that has been enqueued and not read.
struct Pending {
    step: u64,
    micro_batches: usize,
    counted: usize,
    tokens: usize,
    started: Instant,
    enqueued: Instant,
    /// Which report it writes.
    turn: usize,
}

/// What enqueueing has cost the host, in the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostCost {
    pub steps: u64,
    /// Kernels, and graphs, launched by the host.
    pub launches: u64,
    pub ms: f64,
}

impl HostCost {
    pub fn launches_per_step(&self) -> f64 {
        self.launches as f64 / self.steps.max(1) as f64
    }

    pub fn ms_per_step(&self) -> f64 {
        self.ms / self.steps.max(1) as f64
    }
}

/// The training step of one model on one GPU.
pub struct DeviceStep {
    gpu: Cuda,
    optimizer: Optimizer,
    /// Memory of each parameter's gradient.
    grads: Vec<Tensor>,
    inputs: Inputs,
    /// (micro-batches) f32 and i32.
    losses: Tensor,
    hits: Tensor,
    reports: [Pinned; 2],
    pending: Option<Pending>,
    last_read: Instant,
    wants_graph: bool,
    /// The shape of the last step, and how many steps in a row have had it.
    seen: Option<(Shape, usize)>,
    graph: Option<(Shape, Graph)>,
    /// Of the steps that were enqueued one kernel at a time, without the first, and of those that replayed the graph, without the one
    /// that captured it.
    eager: HostCost,
    replayed: HostCost,
}

impl DeviceStep {
    /// For a model, moments and position that are on a GPU already; `steps` is the length of the run, for the learning rates.
    ///
    /// # Errors
    /// When the model is not on a GPU, or memory is short.
    pub fn new(
        model: &dyn LanguageModel,
        state: &State,
        config: &RunConfig,
        steps: u64,
        wants_graph: bool,
    ) -> Result<Self> {
        let Device::Cuda(gpu) = model.params().device() else {
            return Err(Error::Run(
                "bug in handloom-model: a step on a GPU of a model that is not there".into(),
            ));
        };
        let device = Device::Cuda(gpu);
        let micro_batches = config.train.accumulate;
        let grads = {
            let _owner = scope("gradients", Pass::Other);
            let places = model.params().iter().map(|p| Tensor::zeros(p.value.shape(), DType::F32, device));
            places.collect::<Result<_, _>>()?
        };
        let scale = state.loss_scaler.map_or(1.0, |scaler| scaler.scale as f32);
        let rates = rates(config, steps);
        let optimizer = Optimizer::new(device, settings(config, state), &rates, scale, position(state))?;
        let report = || gpu.gpu().pinned(LOSSES + 8 * micro_batches);
        gpu.gpu().clear_id_report().map_err(EngineError::from)?;
        gpu.gpu().set_draw_step(state.micro_steps as u32)?;
        gpu.gpu().set_tf32(config.train.precision == Precision::Tf32);
        Ok(DeviceStep {
            gpu,
            optimizer,
            grads,
            inputs: Inputs::new(gpu)?,
            losses: Tensor::zeros(&[micro_batches], DType::F32, device)?,
            hits: Tensor::zeros(&[micro_batches], DType::I32, device)?,
            reports: [report()?, report()?],
            pending: None,
            last_read: Instant::now(),
            wants_graph,
            seen: None,
            graph: None,
            eager: HostCost::default(),
            replayed: HostCost::default(),
        })
    }

    /// Enqueues a step and returns the figures of the one before, if that has not been read yet.
    ///
    /// # Errors
    /// [`Error::Run`] when the step before was not finite; what the device reports.
    pub fn step(
        &mut self,
        model: &mut dyn LanguageModel,
        moments: &mut Moments,
        state: &mut State,
        config: &RunConfig,
        mut batches: Vec<Batch>,
    ) -> Result<Option<StepMetrics>> {
        batches.iter().try_for_each(|batch| batch.check_ids(model.vocab_size()))?;
        if model.objective() == ObjectiveKind::Mlm {
            for batch in &mut batches {
                *batch = masked_in_one_shape(batch, config)?;
            }
        }
        let started = Instant::now();
        let launches = self.gpu.launches();
        let shape = Shape::of(&batches);
        let counted = batches.iter().map(|batch| batch.counted).sum();
        let moves = self.inputs.moves();
        let on_device = self.inputs.upload(&batches)?;
        if self.inputs.moves() != moves {
            self.graph = None;
        }
        let captured = self.graph.is_some();
        let replays = self.enqueue_or_replay(model, moments, config, &on_device, &shape)?;
        drop(on_device);
        let turn = (state.step % 2) as usize;
        self.send_report(turn)?;
        let cost = if replays { &mut self.replayed } else { &mut self.eager };
        // The first step loads the kernels, and one step is captured before it is replayed.
        if if replays { captured } else { self.seen.is_some() } {
            cost.steps += 1;
            cost.launches += self.gpu.launches() - launches;
            cost.ms += started.elapsed().as_secs_f64() * 1e3;
        }
        self.note(&shape);
        state.step += 1;
        state.micro_steps += batches.len() as u64;
        let pending = Pending {
            step: state.step,
            micro_batches: batches.len(),
            counted,
            tokens: batches.iter().map(|batch| batch.ids.numel()).sum(),
            started,
            enqueued: Instant::now(),
            turn,
        };
        match self.pending.replace(pending) {
            Some(last) => self.read(model, state, config, last).map(Some),
            None => Ok(None),
        }
    }

    /// Waits for the step that is under way and returns its figures. Afterwards model, moments and `state` belong together.
    ///
    /// # Errors
    /// As [`DeviceStep::step`].
    pub fn finish(
        &mut self,
        model: &dyn LanguageModel,
        state: &mut State,
        config: &RunConfig,
    ) -> Result<Option<StepMetrics>> {
        let pending = self.pending.take();
        pending.map(|pending| self.read(model, state, config, pending)).transpose()
    }

    /// Costs of steps enqueued kernel by kernel, and of replayed ones.
    pub fn host_costs(&self) -> (HostCost, HostCost) {
        (self.eager, self.replayed)
    }

    /// Kernels of the captured step.
    pub fn graph_kernels(&self) -> Option<u64> {
        self.graph.as_ref().map(|(_, graph)| graph.kernels())
    }

    /// How often the optimizer's table of addresses has been copied to the device: once, as nothing moves.
    pub fn table_uploads(&self) -> u64 {
        self.optimizer.table_uploads()
    }

    /// Returns whether a graph was replayed.
    fn enqueue_or_replay(
        &mut self,
        model: &mut dyn LanguageModel,
        moments: &mut Moments,
        config: &RunConfig,
        batches: &[Batch],
        shape: &Shape,
    ) -> Result<bool> {
        let ready = self.seen.as_ref().is_some_and(|(seen, times)| seen == shape && *times >= EAGER_STEPS);
        if self.wants_graph && self.graph.is_none() && ready {
            let gpu = self.gpu.gpu();
            let (graph, ()) = Graph::capture(gpu, || self.enqueue(model, moments, config, batches))?;
            self.graph = Some((shape.clone(), graph));
        }
        if let Some((_, graph)) = self.graph.as_ref().filter(|(captured, _)| captured == shape) {
            graph.launch()?;
            return Ok(true);
        }
        self.enqueue(model, moments, config, batches)?;
        Ok(false)
    }

    /// Takes note of a step's shape.
    fn note(&mut self, shape: &Shape) {
        match &mut self.seen {
            Some((seen, times)) if seen == shape => *times += 1,
            _ => self.seen = Some((shape.clone(), 1)),
        }
    }

    /// The most bytes that a step of this run needs at once beside what is live now, found by doing all of its forward and backward
    /// passes but the work.
    ///
    /// # Errors
    /// What a step's launchers report of its sizes.
    pub fn plan(&mut self, model: &dyn LanguageModel, config: &RunConfig) -> Result<usize> {
        let gpu = self.gpu.gpu();
        gpu.plan_memory(|| {
            let batch = |_| planned_batch(model, config);
            let batches = (0..config.train.accumulate).map(batch).collect::<Result<Vec<_>>>()?;
            self.accumulate(model, config, &batches)
        })
    }

    /// Everything of a step that runs on the device.
    fn enqueue(
        &mut self,
        model: &mut dyn LanguageModel,
        moments: &mut Moments,
        config: &RunConfig,
        batches: &[Batch],
    ) -> Result<()> {
        self.accumulate(model, config, batches)?;
        self.optimizer.step(&mut parameters(model, moments, &self.grads, &config.optimizer))?;
        Ok(())
    }

    /// Losses, hits and gradients of the micro-batches.
    fn accumulate(&mut self, model: &dyn LanguageModel, config: &RunConfig, batches: &[Batch]) -> Result<()> {
        let train = &config.train;
        // Losses are sums; what makes means of them is a number in device memory, as the number of targets may change.
        let upstream = mul(&self.optimizer.loss_scale(), self.inputs.factor())?;
        let mut places = std::mem::take(&mut self.grads);
        let mut grads = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            // The device adds its own count of micro-batches.
            let dropout = DropoutSource { seed: train.seed, step: 0 };
            let fwd = Forward::training(model.params(), dropout, train.recompute);
            let tape = fwd.tape.clone().expect("bug in handloom-model: a training pass has a tape");
            let mut under_way = tape.gradients();
            if i == 0 {
                fwd.weights.place_gradients(&mut under_way, std::mem::take(&mut places))?;
            } else {
                fwd.weights.seed_gradients(&mut under_way, std::mem::take(&mut grads));
            }
            let Score { loss, hits } = model.score(&fwd, batch, Some(1.0))?;
            self.losses.assign_at(i, &loss)?;
            self.hits.assign_at(i, &hits)?;
            tape.backward(&loss, upstream.clone(), &mut under_way)?;
            grads = fwd.weights.take_gradients(&mut under_way);
            self.optimizer.advance_draws()?;
        }
        self.grads = all_present(model, grads)?;
        Ok(())
    }

    fn send_report(&mut self, turn: usize) -> Result<()> {
        let report = &mut self.reports[turn];
        self.optimizer.send_progress(report)?;
        report.download(self.gpu.id_report(), IDS)?;
        report.download(self.losses.cuda_slice()?, LOSSES)?;
        let hits = LOSSES + 4 * self.losses.numel();
        Ok(report.download(self.hits.cuda_slice()?, hits)?)
    }

    /// Waits for a step's report; checks it and takes what `state` needs from it.
    fn read(
        &mut self,
        model: &dyn LanguageModel,
        state: &mut State,
        config: &RunConfig,
        pending: Pending,
    ) -> Result<StepMetrics> {
        let report = self.reports[pending.turn].read()?;
        if let Err(outside) = self.gpu.check_id_report(&report[IDS..LOSSES]) {
            self.gpu.clear_id_report()?;
            return Err(Error::Run(format!("step {}: {outside}", pending.step)));
        }
        let Progress { state: done, loss_scale } = Progress::from_bytes(report);
        let word = |i: usize| std::array::from_fn::<u8, 4, _>(|byte| report[LOSSES + 4 * i + byte]);
        let micro_batches = 0..pending.micro_batches;
        let sum: f64 = micro_batches.clone().map(|i| f64::from(f32::from_le_bytes(word(i)))).sum();
        let loss = sum / pending.counted.max(1) as f64;
        let hits: i32 = micro_batches.map(|i| i32::from_le_bytes(word(self.losses.numel() + i))).sum();

        match &mut state.loss_scaler {
            Some(scaler) => {
                let min = config.optimizer.loss_scale_min;
                if !done.applied && scaler.scale <= min {
                    return Err(overflow_at_lowest_scale(pending.step, loss, min));
                }
                let (clean_steps, skipped_steps) = (u64::from(done.clean), u64::from(done.skipped));
                *scaler = LossScaler { scale: f64::from(loss_scale), clean_steps, skipped_steps };
            }
            None if done.applied && loss.is_finite() => {}
            None => return Err(divergence(pending.step, loss, done.norm)),
        }
        state.updates = u64::from(done.updates);
        let began = pending.started.max(self.last_read);
        self.last_read = Instant::now();
        let took = match self.gpu.gpu().is_emulated() {
            true => pending.enqueued - pending.started, // it works while the step is enqueued
            false => self.last_read - began,
        };
        let seconds = took.as_secs_f64();
        let masked = model.objective() == ObjectiveKind::Mlm;
        Ok(StepMetrics {
            step: pending.step,
            loss: Some(loss),
            ppl: Some(loss.exp()),
            masked_accuracy: masked.then(|| f64::from(hits) / pending.counted.max(1) as f64),
            lr: Some(done.lr),
            grad_norm: Some(done.norm),
            loss_scale: state.loss_scaler.map(|scaler| scaler.scale),
            skipped_steps: state.loss_scaler.map(|scaler| scaler.skipped_steps),
            ms_per_step: Some(seconds * 1e3),
            tokens_per_s: Some(pending.tokens as f64 / seconds),
            peak_bytes: Some(self.gpu.buffers().peak),
            ..StepMetrics::default()
        })
    }
}

impl Drop for DeviceStep {
    fn drop(&mut self) {
        // The next user of the device starts from its defaults; an error here could only say that the device is lost.
        let _ = self.gpu.gpu().set_draw_step(0);
        self.gpu.gpu().set_tf32(false);
    }
}

/// The learning rate of every step.
fn rates(config: &RunConfig, steps: u64) -> Vec<f64> {
    (0..steps.max(1)).map(|step| config.optimizer.lr * config.schedule.factor(step, steps)).collect()
}

fn settings(config: &RunConfig, state: &State) -> Settings {
    let optimizer = &config.optimizer;
    let rules = optimizer.loss_scaling();
    let scaling = Scaling {
        growth: rules.growth,
        backoff: rules.backoff,
        growth_interval: u32::try_from(rules.growth_interval).unwrap_or(u32::MAX),
        floor: rules.min,
        ceiling: rules.max,
    };
    Settings {
        betas: (optimizer.betas[0], optimizer.betas[1]),
        eps: optimizer.eps,
        clip_norm: optimizer.clip_norm,
        scaling: state.loss_scaler.map(|_| scaling),
    }
}

/// A checkpoint's position as the device keeps it.
fn position(state: &State) -> optimizer::State {
    let scaler = state.loss_scaler.unwrap_or_default();
    optimizer::State {
        step: state.step as u32,
        updates: state.updates as u32,
        skipped: scaler.skipped_steps as u32,
        clean: scaler.clean_steps as u32,
        ..optimizer::State::default()
    }
}
