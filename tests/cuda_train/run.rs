//! A tiny model in training on one device, without a run directory.

use std::sync::{Mutex, MutexGuard};

use handloom_engine::device::{Cuda, Device};
use handloom_engine::philox::Stream;
use handloom_model::config::RunConfig;
use handloom_model::error::Result;
use handloom_model::gpt2::Gpt2;
use handloom_model::model::LanguageModel;
use handloom_model::objective::Batch;
use handloom_model::params::Init;
use handloom_model::train::checkpoint::{Moments, State};
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::{DeviceStep, train_step};

/// Odd, so that no row of logits ends at a tile.
pub const VOCAB: usize = 97;
pub const BATCH: usize = 2;
pub const TIME: usize = 16;

/// One test at a time: they share the device and its stream.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn emulator() -> Cuda {
    match Device::emulator().expect("the emulated driver is built with the tests") {
        Device::Cuda(gpu) => gpu,
        Device::Cpu => unreachable!("the emulator is a GPU"),
    }
}

/// Random ids, the same for the same seed.
pub fn batch(seed: u64) -> Batch {
    let mut reader = Stream { seed, stream: 0, step: 0 }.reader();
    let ids: Vec<i32> = (0..BATCH * TIME).map(|_| reader.below(VOCAB as u32) as i32).collect();
    Batch::causal_from_ids(&ids, BATCH, TIME).unwrap()
}

/// The two micro-batches of a step.
pub fn batches(step: u64) -> Vec<Batch> {
    vec![batch(10 * step), batch(10 * step + 1)]
}

/// Where and how a run computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Cpu,
    Kernels,
    Graph,
}

pub struct Run {
    pub model: Box<dyn LanguageModel>,
    pub moments: Moments,
    pub state: State,
    pub device_step: Option<DeviceStep>,
    config: RunConfig,
    steps: u64,
}

/// GPT-2 with two layers of width 64 and dropout.
pub fn gpt(settings: &[&str]) -> (Box<dyn LanguageModel>, RunConfig) {
    let sizes =
        ["model.layers=2", "model.heads=2", "model.width=64", "model.context=16", "model.dropout=0.1"];
    let train =
        ["data.block=16", "train.batch=2", "train.accumulate=2", "optimizer.lr=0.003", "train.seed=9"];
    let settings: Vec<String> =
        [&sizes[..], &train, settings].concat().iter().map(|s| s.to_string()).collect();
    let config = RunConfig::from_toml("", "test", &settings).unwrap();
    let mut model = Gpt2::new(config.gpt2(VOCAB, None)).unwrap();
    model.initialise(Init::Gpt2, 3).unwrap();
    (Box::new(model), config)
}

impl Run {
    pub fn new(place: Place, (mut model, config): (Box<dyn LanguageModel>, RunConfig), steps: u64) -> Self {
        model.params_mut().set_precision(config.train.precision).unwrap();
        let state = State { loss_scaler: config.loss_scaler(), ..State::default() };
        let mut device_step = None;
        if place != Place::Cpu {
            model.params_mut().to_device(Device::Cuda(emulator())).unwrap();
            let graph = place == Place::Graph;
            device_step = Some(DeviceStep::new(&*model, &state, &config, steps, graph).unwrap());
        }
        let moments = Moments::zeros(&*model).unwrap();
        Run { model, moments, state, device_step, config, steps }
    }

    /// One step and its figures, waited for.
    pub fn step(&mut self, batches: Vec<Batch>) -> StepMetrics {
        let (model, moments, state) = (&mut *self.model, &mut self.moments, &mut self.state);
        let Some(step) = &mut self.device_step else {
            return train_step(model, moments, state, &self.config, batches, self.steps).unwrap();
        };
        assert!(step.step(model, moments, state, &self.config, batches).unwrap().is_none());
        step.finish(model, state, &self.config).unwrap().expect("a step is under way")
    }

    /// As [`Run::step`], without waiting: the figures of the step before.
    pub fn step_late(&mut self, batches: Vec<Batch>) -> Option<StepMetrics> {
        self.try_step(batches).unwrap()
    }

    /// As [`Run::step_late`], with its error.
    pub fn try_step(&mut self, batches: Vec<Batch>) -> Result<Option<StepMetrics>> {
        let step = self.device_step.as_mut().expect("only a GPU is late");
        step.step(&mut *self.model, &mut self.moments, &mut self.state, &self.config, batches)
    }

    pub fn finish(&mut self) -> Option<StepMetrics> {
        let step = self.device_step.as_mut().expect("only a GPU is late");
        step.finish(&*self.model, &mut self.state, &self.config).unwrap()
    }

    /// Bytes that a step will take.
    pub fn plan(&mut self) -> usize {
        let step = self.device_step.as_mut().expect("only a GPU's memory is planned");
        step.plan(&*self.model, &self.config).unwrap()
    }

    /// All values, masters and moments.
    pub fn bits(&self) -> Vec<u32> {
        let params = self.model.params().iter().flat_map(|p| [Some(&p.value), p.master.as_ref()]).flatten();
        let tensors = params.chain(&self.moments.m).chain(&self.moments.v);
        tensors.flat_map(|x| x.read_f32().unwrap()).map(f32::to_bits).collect()
    }
}
