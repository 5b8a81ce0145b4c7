//! Whole runs on the GPU through checkpoints: the same bits as in one go, and from one device to the other.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use handloom_engine::check::close::{Tolerance, assert_close};
use handloom_engine::device::Device;
use handloom_model::config::RunConfig;
use handloom_model::data::Quiet;
use handloom_model::eval::Evaluation;
use handloom_model::tokenizer::{TokenizerKind, TrainOptions, train};
use handloom_model::train::metrics::StepMetrics;
use handloom_model::train::{Observer, Placement, Trainer};

use crate::run::{alone, emulator};

/// Stops after a step; keeps what it is told.
struct Watch<'a> {
    stop_after: u64,
    stop: &'a AtomicBool,
    losses: Vec<f64>,
    evaluations: Vec<f64>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, metrics: &StepMetrics, _: u64) {
        self.losses.push(metrics.loss.unwrap());
        self.stop.store(metrics.step >= self.stop_after, Ordering::Relaxed);
    }
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn evaluated(&mut self, _: u64, evaluation: &Evaluation, _: bool) {
        self.evaluations.push(evaluation.loss);
    }
    fn notice(&mut self, _: &str) {}
}

/// A corpus and a tokenizer of bytes in `dir`, and a run's configuration.
pub fn config(dir: &Path, precision: &str) -> RunConfig {
    let text = "the girl walks home slowly and sees bright birds over old trees. ".repeat(12);
    std::fs::write(dir.join("train.txt"), &text).unwrap();
    std::fs::write(dir.join("valid.txt"), &text[..200]).unwrap();
    let tokenizer = dir.join("tok.json");
    if !tokenizer.exists() {
        let options = TrainOptions {
            kind: TokenizerKind::Bpe,
            vocab_size: 257,
            special: Vec::new(),
            show_progress: false,
        };
        train([text], &options).unwrap().save_as(&tokenizer).unwrap();
    }
    let settings = [
        "model.layers=1".to_owned(),
        "model.heads=1".into(),
        "model.width=32".into(),
        "model.context=16".into(),
        "model.dropout=0.1".into(),
        "data.block=16".into(),
        "data.max_valid_blocks=2".into(),
        format!("data.train={}", dir.join("train.txt").display()),
        format!("data.valid={}", dir.join("valid.txt").display()),
        format!("data.cache={}", dir.join("cache").display()),
        format!("tokenizer.name={}", tokenizer.display()),
        "train.batch=2".into(),
        "train.accumulate=2".into(),
        "train.steps=6".into(),
        "train.save_every=2".into(),
        "train.eval_every=4".into(),
        "optimizer.lr=0.01".into(),
        "schedule.warmup_steps=1".into(),
        // Skips at the start, so that the scaler has a history to keep.
        "optimizer.loss_scale=68719476736".into(),
        "optimizer.loss_scale_max=1e11".into(),
        "optimizer.loss_scale_backoff=0.00006103515625".into(),
        format!("train.precision={precision}"),
    ];
    RunConfig::from_toml("", "test", &settings).unwrap()
}

/// Trains until a step; losses and evaluations.
fn trained(run: &Path, config: &RunConfig, device: Device, until: u64, resume: bool) -> (Vec<f64>, Vec<f64>) {
    let placement = Placement { device, cuda_graph: true };
    let mut trainer = Trainer::open_on(placement, config.clone(), run, resume, &Quiet).unwrap();
    let stop = AtomicBool::new(false);
    let mut watch = Watch { stop_after: until, stop: &stop, losses: Vec::new(), evaluations: Vec::new() };
    trainer.run(&mut watch, &stop).unwrap();
    (watch.losses, watch.evaluations)
}

/// The files of the last checkpoint that hold numbers of the run.
fn checkpoint(run: &Path) -> Vec<Vec<u8>> {
    let dir = run.join("checkpoints/step-000006");
    ["model.safetensors", "optimizer.safetensors", "state.json"]
        .map(|f| std::fs::read(dir.join(f)).unwrap())
        .to_vec()
}

fn resumes_bit_for_bit(precision: &str) {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (config, gpu) = (config(dir.path(), precision), Device::Cuda(emulator()));
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let (losses, evaluations) = trained(&whole, &config, gpu, u64::MAX, false);
    let (first, first_evaluations) = trained(&parts, &config, gpu, 3, false);
    let (rest, last_evaluations) = trained(&parts, &config, gpu, u64::MAX, true);
    // A run is stopped by the figures of a step, which come when the next one has begun.
    assert_eq!(first.len() + rest.len(), 6);
    assert_eq!([first, rest].concat(), losses);
    assert_eq!([first_evaluations, last_evaluations].concat(), evaluations);
    assert!(checkpoint(&parts) == checkpoint(&whole), "a resumed run ended with other bits");
}

#[test]
fn fp32_resumes_bit_for_bit() {
    resumes_bit_for_bit("fp32");
}

#[test]
fn fp16_resumes_bit_for_bit_with_its_scaler() {
    resumes_bit_for_bit("fp16");
}

#[test]
fn a_checkpoint_of_one_device_continues_on_the_other() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (config, gpu) = (config(dir.path(), "fp32"), Device::Cuda(emulator()));
    let (want, want_evaluations) = trained(&dir.path().join("cpu"), &config, Device::Cpu, u64::MAX, false);
    for (name, first, second) in [("to-cpu", gpu, Device::Cpu), ("to-gpu", Device::Cpu, gpu)] {
        let run = dir.path().join(name);
        let (mut losses, _) = trained(&run, &config, first, 3, false);
        let (rest, evaluations) = trained(&run, &config, second, u64::MAX, true);
        losses.extend(rest);
        let tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };
        assert_close(name, &[6], &losses, &want, tolerance);
        let last = evaluations.last().unwrap();
        let want = want_evaluations.last().unwrap();
        assert!((last - want).abs() < 1e-4, "{name}: validation loss {last}, CPU {want}");
    }
}
