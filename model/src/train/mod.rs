//! Training: the loop, its schedule, its checkpoints.

pub mod checkpoint;
pub mod loss_scaler;
pub mod metrics;
pub mod schedule;
mod step;

pub use step::train_step;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use handloom_engine::device::Device;
use handloom_engine::storage;

use crate::bert::Bert;
use crate::config::{ModelKind, RunConfig};
use crate::data::{Blocks, Order, Progress};
use crate::error::{Error, Result};
use crate::eval::{Evaluation, evaluate};
use crate::gpt2::Gpt2;
use crate::huggingface;
use crate::model::LanguageModel;
use crate::objective::Objective;
use crate::params::Precision;
use crate::tokenizer::Tokenizer;
use checkpoint::{Best, Checkpoints, Moments, State};
use loss_scaler::LossScaler;
use metrics::{MetricsFile, StepMetrics};

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

/// A run: model, optimizer, data and position.
pub struct Trainer {
    config: RunConfig,
    run: PathBuf,
    pub model: Box<dyn LanguageModel>,
    pub tokenizer: Tokenizer,
    objective: Objective,
    moments: Moments,
    state: State,
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
    /// Starts a run in `run`, or with `resume` continues the one that is there.
    ///
    /// # Errors
    /// [`Error::Run`] when `run` already holds a run (without `resume`) or none (with it), or when tokenizer or data are
    /// not those the run began with; whatever reading data, tokenizer and checkpoints reports.
    pub fn open(config: RunConfig, run: &Path, resume: bool, progress: &dyn Progress) -> Result<Self> {
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
                let fp16 = config.train.precision == Precision::Fp16;
                state.loss_scaler = fp16.then(|| state.loss_scaler.unwrap_or_default());
                checkpoints.settle(&state, config.train.keep_last)?;
                (model, moments, state)
            }
            None => {
                let model = fresh_model(&config, &tokenizer)?;
                let moments = Moments::zeros(&*model);
                let state = State {
                    num_blocks: num_blocks as u64,
                    data,
                    tokenizer: tokenizer.fingerprint().to_owned(),
                    loss_scaler: (config.train.precision == Precision::Fp16).then(LossScaler::default),
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
        Ok(Trainer {
            config,
            run,
            model,
            tokenizer,
            objective,
            moments,
            state,
            train,
            valid,
            order,
            checkpoints,
            saved,
        })
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

    /// Trains to the end, or until `stop` becomes true; then the state is saved.
    ///
    /// # Errors
    /// [`Error::Run`] when the loss or gradients are no longer finite (in fp32 and bf16); what saving reports.
    pub fn run(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let steps = self.steps();
        let train = self.config.train.clone();
        let mut metrics = MetricsFile::open(&self.run, self.state.step)?;
        storage::reset_peak();
        let mut evaluation = None;
        while self.state.step < steps && !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let tokens_before = self.state.rows * self.train.block() as u64;
            let batches = self.next_batches()?;
            let (model, moments, state) = (&mut self.model, &mut self.moments, &mut self.state);
            let mut measured = train_step(&mut **model, moments, state, &self.config, batches, steps)?;
            let seconds = started.elapsed().as_secs_f64();
            let tokens = self.state.rows * self.train.block() as u64 - tokens_before;
            measured.ms_per_step = Some(seconds * 1e3);
            measured.tokens_per_s = Some(tokens as f64 / seconds);
            measured.peak_bytes = Some(storage::memory().peak);
            measured.device = Some(Device::Cpu.to_string());
            measured.precision = Some(format!("{:?}", train.precision).to_lowercase());
            let step = self.state.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            observer.step(&measured, steps);
            let mut improved = false;
            if self.valid.is_some() && (due(train.eval_every) || step == steps) {
                let result =
                    self.evaluate(observer)?.expect("bug in handloom-model: no validation data after all");
                improved = self.state.best.is_none_or(|best| result.loss < best.val_loss);
                if improved {
                    self.state.best = Some(Best { step, val_loss: result.loss });
                }
                measured.val_loss = Some(result.loss);
                measured.val_ppl = Some(result.perplexity);
                measured.val_masked_accuracy = result.masked_accuracy;
                observer.evaluated(step, &result, improved);
                evaluation = Some(result);
            }
            metrics.write(&measured)?;
            if improved || due(train.save_every) || step == steps {
                self.save(improved)?;
            }
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
            let (vocab, init, seed) = (tokenizer.vocab_size(), config.model.init, config.train.seed);
            match config.model.kind {
                ModelKind::Gpt2 => {
                    let mut model = Gpt2::new(config.gpt2(vocab, tokenizer.end_of_text()))?;
                    model.initialise(init, seed)?;
                    Ok(Box::new(model))
                }
                ModelKind::Bert => {
                    let mut model = Bert::new(config.bert(vocab, tokenizer.token_to_id("[PAD]")))?;
                    model.initialise(init, seed)?;
                    Ok(Box::new(model))
                }
            }
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
