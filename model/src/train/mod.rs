//! Training: the loop, its schedule, its checkpoints.

pub mod checkpoint;
mod device_step;
mod inputs;
pub mod loss_scaler;
pub mod metrics;
pub mod schedule;
mod shape;
mod step;
mod training;

pub use device_step::{DeviceStep, HostCost};
pub use step::train_step;
use training::advise_on_memory;

use std::path::{Path, PathBuf};

use handloom_engine::device::Device;

use crate::config::RunConfig;
use crate::data::{Blocks, Order, Progress};
use crate::error::{Error, Result};
use crate::eval::{Evaluation, evaluate};
use crate::huggingface;
use crate::model::{self, LanguageModel};
use crate::objective::Objective;
use crate::tokenizer::Tokenizer;
use checkpoint::{Best, Checkpoints, Moments, State};
use metrics::StepMetrics;

/// Who is told what happens during training.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, metrics: &StepMetrics, steps: u64);
    /// An evaluation is under way.
    fn evaluating(&mut self, done: usize, all: usize);
    /// An evaluation is done; `best` says whether it is the best so far.
    fn evaluated(&mut self, step: u64, evaluation: &Evaluation, best: bool);
    /// One sentence for the user.
    fn notice(&mut self, message: &str);
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub steps: u64,
    /// Whether it was stopped before its last step; a checkpoint holds what was done.
    pub interrupted: bool,
    /// The last evaluation, when there is validation data.
    pub evaluation: Option<Evaluation>,
    pub best: Option<Best>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}

/// What a run takes of a GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Parameters, moments and gradients: there already.
    pub resident: usize,
    /// What a step needs at once beside them.
    pub step: usize,
    /// What the device has left.
    pub free: usize,
}

/// Where a run computes.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub device: Device,
    /// On a GPU: whether steps of one shape are captured once and replayed as a CUDA graph.
    pub cuda_graph: bool,
}

impl Default for Placement {
    fn default() -> Self {
        Placement { device: Device::Cpu, cuda_graph: true }
    }
}

/// A run: model, optimizer, data and position.
pub struct Trainer {
    config: RunConfig,
    run: PathBuf,
    pub model: Box<dyn LanguageModel>,
    pub tokenizer: Tokenizer,
    objective: Objective,
    moments: Moments,
    state: State,
    /// On a GPU.
    device_step: Option<DeviceStep>,
    train: Blocks,
    valid: Option<Blocks>,
    order: Order,
    checkpoints: Checkpoints,
    /// Step of the newest checkpoint on disk.
    saved: Option<u64>,
}

/// Name of the configuration inside a run directory.
const RUN_TOML: &str = "run.toml";

impl Trainer {
    /// Starts a run on the CPU in `run`, or with `resume` continues the one that is there.
    ///
    /// # Errors
    /// [`Error::Run`] when `run` already holds a run (without `resume`) or none (with it), or when tokenizer or data are
    /// not those the run began with; whatever reading data, tokenizer and checkpoints reports.
    pub fn open(config: RunConfig, run: &Path, resume: bool, progress: &dyn Progress) -> Result<Self> {
        Self::open_on(Placement::default(), config, run, resume, progress)
    }

    /// As [`Trainer::open`], on a device.
    ///
    /// # Errors
    /// As [`Trainer::open`], and [`Error::Run`] when the device cannot compute in the configured precision or has no room for the model.
    pub fn open_on(
        placement: Placement,
        config: RunConfig,
        run: &Path,
        resume: bool,
        progress: &dyn Progress,
    ) -> Result<Self> {
        config.train.precision.check_device(placement.device)?;
        let has_run = run.join(RUN_TOML).exists();
        if has_run && !resume {
            return Err(Error::Run(format!(
                "{} already holds a run; continue it with --resume, or choose another --out",
                run.display()
            )));
        }
        std::fs::create_dir_all(run).map_err(Error::io("cannot create", run))?;
        let checkpoints = Checkpoints::open(run)?;
        let found = if resume { checkpoints.load_latest(|message| progress.notice(message))? } else { None };
        if resume && found.is_none() {
            let what = if has_run {
                "has no checkpoint yet; it starts from the beginning"
            } else {
                "holds no run yet"
            };
            progress.notice(&format!("{} {what}", run.display()));
        }
        let saved = found.as_ref().map(|(_, _, state)| state.step);

        let tokenizer = Tokenizer::open(&config.tokenizer.name)?;
        let objective = Objective::new(&config, &tokenizer)?;
        let train = config.data.open_train_as(objective.layout(), &tokenizer, progress)?;
        let valid = config.data.open_valid_as(objective.layout(), &tokenizer, progress)?;
        let num_blocks = train.num_blocks();
        let data = train.fingerprint();
        let (mut model, moments, state) = match found {
            Some((model, moments, mut state)) => {
                check_unchanged(&state, &tokenizer, num_blocks, &data)?;
                if has_run {
                    check_model(&Self::stored_config(run, &[])?, &config)?;
                }
                // A run resumed in fp16 goes on with the scale it had.
                state.loss_scaler = config.loss_scaler().map(|start| state.loss_scaler.unwrap_or(start));
                checkpoints.settle(&state, config.train.keep_last)?;
                (model, moments, state)
            }
            None => {
                let model = fresh_model(&config, &tokenizer)?;
                let moments = Moments::zeros(&*model)?;
                let state = State {
                    num_blocks: num_blocks as u64,
                    data,
                    tokenizer: tokenizer.fingerprint().to_owned(),
                    loss_scaler: config.loss_scaler(),
                    ..State::default()
                };
                (model, moments, state)
            }
        };
        model.params_mut().set_precision(config.train.precision)?;
        let toml = config.to_toml()?;
        let path = run.join(RUN_TOML);
        crate::data::write_atomic(&path, |file| file.write_all(toml.as_bytes()))
            .map_err(Error::io("cannot write", &path))?;
        let order = Order { seed: config.train.seed, shuffle: config.data.shuffle, num_blocks };
        let run = run.to_owned();
        let mut trainer = Trainer {
            config,
            run,
            model,
            tokenizer,
            objective,
            moments,
            state,
            device_step: None,
            train,
            valid,
            order,
            checkpoints,
            saved,
        };
        trainer.place(placement).map_err(advise_on_memory)?;
        Ok(trainer)
    }

    /// Moves the run to its device.
    fn place(&mut self, placement: Placement) -> Result<()> {
        if placement.device == Device::Cpu {
            return Ok(());
        }
        self.model.params_mut().to_device(placement.device)?;
        self.moments = self.moments.to_device(placement.device)?;
        let (model, steps) = (&*self.model, self.steps());
        self.device_step =
            Some(DeviceStep::new(model, &self.state, &self.config, steps, placement.cuda_graph)?);
        Ok(())
    }

    /// The configuration of the run in `run`, with `settings` on top.
    pub fn stored_config(run: &Path, settings: &[String]) -> Result<RunConfig> {
        RunConfig::load(Some(&run.join(RUN_TOML)), settings)
    }

    /// Whether `run` holds a run.
    pub fn is_run(run: &Path) -> bool {
        run.join(RUN_TOML).exists()
    }

    /// Rows the run may use: `None` when only the number of steps ends it.
    fn row_limit(&self) -> Option<u64> {
        let train = &self.config.train;
        match train.steps {
            Some(_) => None,
            None => Some((self.train.num_blocks() as f64 * train.epochs).ceil().max(1.0) as u64),
        }
    }

    /// Optimizer steps of the whole run. The last one may be shorter when epochs end it.
    pub fn steps(&self) -> u64 {
        let train = &self.config.train;
        let per_step = (train.batch * train.accumulate) as u64;
        self.row_limit().map_or_else(|| train.steps.unwrap_or(1), |rows| rows.div_ceil(per_step))
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The training blocks.
    pub fn train_blocks(&self) -> &Blocks {
        &self.train
    }

    /// Where the model is.
    pub fn device(&self) -> Device {
        self.model.params().device()
    }

    /// The step on a GPU, for its costs; `None` on the CPU.
    pub fn device_step(&self) -> Option<&DeviceStep> {
        self.device_step.as_ref()
    }

    /// What a run on a GPU will take of its memory; `None` on the CPU.
    ///
    /// # Errors
    /// What a step's launchers report of its sizes.
    pub fn memory_plan(&mut self) -> Result<Option<MemoryPlan>> {
        let (Device::Cuda(gpu), Some(step)) = (self.model.params().device(), &mut self.device_step) else {
            return Ok(None);
        };
        let step = step.plan(&*self.model, &self.config)?;
        let (free, _) = gpu.memory()?;
        Ok(Some(MemoryPlan { resident: gpu.buffers().live, step, free }))
    }

    fn evaluate(&self, observer: &mut dyn Observer) -> Result<Option<Evaluation>> {
        let Some(valid) = &self.valid else { return Ok(None) };
        evaluate(&*self.model, &self.objective, valid, self.config.train.batch, |done, all| {
            observer.evaluating(done, all)
        })
        .map(Some)
    }

    fn save(&mut self, is_best: bool) -> Result<()> {
        let keep = self.config.train.keep_last;
        self.checkpoints.save(&*self.model, &self.tokenizer, &self.moments, &self.state, keep, is_best)?;
        self.saved = Some(self.state.step);
        Ok(())
    }
}

fn fresh_model(config: &RunConfig, tokenizer: &Tokenizer) -> Result<Box<dyn LanguageModel>> {
    match &config.train.init_from {
        Some(path) => {
            let dir = huggingface::resolve(Path::new(path))?;
            let model = huggingface::load(&dir)?;
            if model.vocab_size() < tokenizer.vocab_size() || model.context() < config.data.block {
                return Err(Error::Run(format!(
                    "{path}: has {} tokens and a context of {}; the tokenizer has {} and data.block is {}",
                    model.vocab_size(),
                    model.context(),
                    tokenizer.vocab_size(),
                    config.data.block
                )));
            }
            if model.objective() != config.objective.kind {
                return Err(Error::Run(format!(
                    "{path}: {} is not trained with objective.kind = {:?}",
                    model.describe(),
                    format!("{:?}", config.objective.kind).to_lowercase()
                )));
            }
            Ok(model)
        }
        None => {
            let (end_of_text, pad) = (tokenizer.end_of_text(), tokenizer.token_to_id("[PAD]"));
            model::new(config, tokenizer.vocab_size(), end_of_text, pad)
        }
    }
}

/// A resumed run must see the data it began with, or it would silently be another run.
fn check_unchanged(state: &State, tokenizer: &Tokenizer, num_blocks: usize, data: &str) -> Result<()> {
    if state.tokenizer != tokenizer.fingerprint() {
        return Err(Error::Run(
            "the tokenizer is not the one this run began with; restore it, or start a new run with train.init_from".into(),
        ));
    }
    if state.num_blocks != num_blocks as u64 {
        return Err(Error::Run(format!(
            "the training data has {num_blocks} blocks, {} when this run began; restore it, or start a new run with \
             train.init_from",
            state.num_blocks
        )));
    }
    if state.data != data {
        return Err(Error::Run(
            "the training data is not what it was when this run began, though as long; restore it, or start a new run \
             with train.init_from"
                .into(),
        ));
    }
    Ok(())
}

/// The checkpoint decides what the model is: settings that say otherwise would be ignored in silence.
fn check_model(began: &RunConfig, now: &RunConfig) -> Result<()> {
    if began.model != now.model || began.objective != now.objective {
        return Err(Error::Run(format!(
            "--resume keeps the [model] and [objective] the run began with, and {RUN_TOML} says otherwise than the \
             settings given; leave those settings out, or start a new run in another --out"
        )));
    }
    Ok(())
}
