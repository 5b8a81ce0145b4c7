//! `handloom bench train`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use handloom_engine::device::Device;
use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use handloom_engine::philox::{Reader, Stream};
use handloom_engine::profile::{self, Pass};
use handloom_engine::{cpu::simd, storage};
use handloom_model::config::{ModelKind, ObjectiveKind, RunConfig};
use handloom_model::error::Result;
use handloom_model::model;
use handloom_model::objective::Batch;
use handloom_model::train::checkpoint::{Moments, State};
use handloom_model::train::train_step;
use serde_json::json;

use super::peak_rss_bytes;
use crate::commands::CommandResult;
use crate::commands::device::DeviceArg;
use crate::commands::output::say;

/// Arguments of `handloom bench train`.
#[derive(Args, Debug)]
pub struct BenchTrainArgs {
    /// Sizes and precision; without one, the textbook case: width 256, 4 layers, 16 x 128, dropout 0.1, GPT-2 (or with
    /// --set model.kind=bert --set objective.kind=mlm BERT)
    #[arg(value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    /// Override a configuration key
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Vocabulary size [default: 50257, of BERT 30522]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab: Option<u32>,
    /// Steps that count
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) steps: usize,
    /// Steps before them that do not
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) warmup: usize,
    #[command(flatten)]
    device: DeviceArg,
    /// On a GPU: launch every kernel of every step, instead of replaying a captured step as one CUDA graph
    #[arg(long)]
    pub(super) no_cuda_graph: bool,
    /// fp32, tf32 (on a GPU), bf16 or fp16; the same as --set train.precision=...
    #[arg(long)]
    precision: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
pub fn run(args: BenchTrainArgs) -> CommandResult {
    let mut settings = args.set.clone();
    settings.extend(args.precision.iter().map(|precision| format!("train.precision={precision}")));
    let config = match &args.config {
        Some(path) => RunConfig::load(Some(path), &settings)?,
        None => RunConfig::from_toml("", "the textbook case", &settings)?,
    };
    if args.steps == 0 {
        return Err("--steps is 0, expected at least 1".into());
    }
    let usual_vocab = match config.model.kind {
        ModelKind::Gpt2 => 50257,
        ModelKind::Bert => 30522,
    };
    let vocab = args.vocab.unwrap_or(usual_vocab);
    let mut model = model::new(&config, vocab as usize, None, None)?;
    model.params_mut().set_precision(config.train.precision)?;
    let (batch, time) = (config.train.batch, config.data.block);
    let mut reader = Stream { seed: 1, stream: 0, step: 0 }.reader();
    let mut next_batch = || random_batch(&config, vocab, &mut reader);
    match args.device.open()? {
        Device::Cuda(gpu) => return super::train_on_gpu::run(&args, &config, gpu, model, vocab, next_batch),
        Device::Cpu => config.train.precision.check_device(Device::Cpu)?,
    }
    let mut moments = Moments::zeros(&*model)?;
    let mut state = State { loss_scaler: config.loss_scaler(), ..State::default() };
    let mut times = Vec::new();
    let mut profiled = 0.0;
    storage::reset_peak();
    profile::enable();
    for step in 0..args.warmup + args.steps {
        if step == args.warmup {
            profile::take();
        }
        let batches = (0..config.train.accumulate).map(|_| next_batch()).collect::<Result<Vec<_>, _>>()?;
        let started = Instant::now();
        let whole = profile::scope("outside ops", Pass::Other);
        train_step(&mut *model, &mut moments, &mut state, &config, batches, 1_000_000)?;
        drop(whole);
        if step >= args.warmup {
            let seconds = started.elapsed().as_secs_f64();
            times.push(seconds);
            profiled += seconds;
        }
    }
    profile::disable();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let tokens = (batch * time * config.train.accumulate) as f64;
    let mut rows: Vec<_> = profile::take().into_iter().collect();
    rows.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.time));
    let steps = args.steps as f64;

    if args.json {
        let ops: Vec<_> = rows
            .iter()
            .map(|((op, pass), entry)| {
                json!({
                    "op": op,
                    "pass": format!("{pass:?}").to_lowercase(),
                    "calls_per_step": entry.calls as f64 / steps,
                    "ms_per_step": entry.time.as_secs_f64() * 1e3 / steps,
                    "share": entry.time.as_secs_f64() / profiled,
                })
            })
            .collect();
        let report = json!({
            "bench": "train",
            "device": "cpu",
            "threads": rayon::current_num_threads(),
            "simd": format!("{:?}", simd::level()).to_lowercase(),
            "precision": config.train.precision.to_string(),
            "model": model.describe(),
            "parameters": model.params().numel(),
            "batch": batch, "block": time, "accumulate": config.train.accumulate, "vocab": vocab,
            "ms_per_step": { "median": median * 1e3, "min": times[0] * 1e3, "max": times[times.len() - 1] * 1e3,
                "mean": profiled * 1e3 / steps },
            "tokens_per_s": tokens / median,
            "peak_tensor_bytes": storage::memory().peak,
            "peak_rss_bytes": peak_rss_bytes(),
            "ops": ops,
        });
        say(format_args!("{report}"));
        return Ok(());
    }
    say(format_args!(
        "{:.2} M parameters, {} x {} x {} tokens, {}, {} threads, {}",
        model.params().numel() as f64 / 1e6,
        config.train.accumulate,
        batch,
        time,
        config.train.precision,
        rayon::current_num_threads(),
        simd::name()
    ));
    say(format_args!(
        "step {:.1} ms median ({:.1} to {:.1}), {:.0} tokens/s, peak {:.0} MB of tensors, {:.0} MB resident\n",
        median * 1e3,
        times[0] * 1e3,
        times[times.len() - 1] * 1e3,
        tokens / median,
        storage::memory().peak as f64 / 1e6,
        peak_rss_bytes().unwrap_or(0) as f64 / 1e6
    ));
    say(format_args!("{:<22} {:<9} {:>6} {:>9} {:>7}", "op", "pass", "calls", "ms/step", "share"));
    let mut sum = 0.0;
    for ((op, pass), entry) in &rows {
        let ms = entry.time.as_secs_f64() * 1e3 / steps;
        sum += ms;
        let (calls, share) = (entry.calls as f64 / steps, 100.0 * entry.time.as_secs_f64() / profiled);
        say(format_args!(
            "{op:<22} {:<9} {calls:>6.0} {ms:>9.2} {share:>6.1}%",
            format!("{pass:?}").to_lowercase()
        ));
    }
    say(format_args!(
        "{:<22} {:<9} {:>6} {sum:>9.2}   (mean step {:.2} ms)",
        "sum",
        "",
        "",
        profiled * 1e3 / steps
    ));
    Ok(())
}

/// Rows of random tokens: no op's time depends on them. A masked model predicts each with probability
/// `objective.mask_prob`, the others are causal.
fn random_batch(config: &RunConfig, vocab: u32, reader: &mut Reader) -> Result<Batch> {
    let (batch, time) = (config.train.batch, config.data.block);
    let ids: Vec<i32> = (0..batch * time).map(|_| reader.below(vocab) as i32).collect();
    if config.objective.kind == ObjectiveKind::Clm {
        return Batch::causal_from_ids(&ids, batch, time);
    }
    const OUT_OF: u32 = 1 << 24;
    let chosen_below = (config.objective.mask_prob * OUT_OF as f64) as u32;
    let mut target = |id: &i32| if reader.below(OUT_OF) < chosen_below { *id } else { IGNORE_INDEX };
    let targets: Vec<i32> = ids.iter().map(&mut target).collect();
    Batch::new(&ids, &targets, time)
}
