//! `handloom bench train`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use handloom_engine::philox::Stream;
use handloom_engine::profile::{self, Pass};
use handloom_engine::{cpu::simd, storage};
use handloom_model::config::RunConfig;
use handloom_model::gpt2::Gpt2;
use handloom_model::objective::Batch;
use handloom_model::params::Precision;
use handloom_model::train::checkpoint::{Moments, State};
use handloom_model::train::loss_scaler::LossScaler;
use handloom_model::train::train_step;
use serde_json::json;

use super::peak_rss_bytes;
use crate::commands::CommandResult;
use crate::commands::output::say;

/// Arguments of `handloom bench train`.
#[derive(Args, Debug)]
pub struct BenchTrainArgs {
    /// Sizes and precision; without one, GPT-2's textbook case: width 256, 4 layers, 50,257 tokens, 16 x 128
    #[arg(value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    /// Override a configuration key
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Vocabulary size
    #[arg(long, value_name = "N", default_value_t = 50257)]
    vocab: usize,
    /// Steps that count
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Steps before them that do not
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: BenchTrainArgs) -> CommandResult {
    let config = match &args.config {
        Some(path) => RunConfig::load(Some(path), &args.set)?,
        None => RunConfig::from_toml("", "the textbook case", &args.set)?,
    };
    if args.steps == 0 {
        return Err("--steps is 0, expected at least 1".into());
    }
    let mut model = Gpt2::new(config.gpt2(args.vocab, None))?;
    model.initialise(config.model.init, config.train.seed)?;
    model.params.set_precision(config.train.precision)?;
    let mut moments = Moments::zeros(&model);
    let fp16 = config.train.precision == Precision::Fp16;
    let mut state = State { loss_scaler: fp16.then(LossScaler::default), ..State::default() };

    let (batch, time) = (config.train.batch, config.data.block);
    let mut reader = Stream { seed: 1, stream: 0, step: 0 }.reader();
    let mut random_batch = || {
        let ids: Vec<i32> = (0..batch * time).map(|_| reader.below(args.vocab as u32) as i32).collect();
        Batch::causal_from_ids(&ids, batch, time)
    };
    let mut times = Vec::new();
    let mut profiled = 0.0;
    storage::reset_peak();
    profile::enable();
    for step in 0..args.warmup + args.steps {
        if step == args.warmup {
            profile::take();
        }
        let batches = (0..config.train.accumulate).map(|_| random_batch()).collect::<Result<Vec<_>, _>>()?;
        let started = Instant::now();
        let whole = profile::scope("outside ops", Pass::Other);
        train_step(&mut model, &mut moments, &mut state, &config, batches, 1_000_000)?;
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
            "precision": format!("{:?}", config.train.precision).to_lowercase(),
            "parameters": model.params.numel(),
            "batch": batch, "block": time, "accumulate": config.train.accumulate, "vocab": args.vocab,
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
        "{:.2} M parameters, {} x {} x {} tokens, {:?}, {} threads, {:?}",
        model.params.numel() as f64 / 1e6,
        config.train.accumulate,
        batch,
        time,
        config.train.precision,
        rayon::current_num_threads(),
        simd::level()
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
