//! `handloom bench`: measures, with the machine and the method named beside the figures.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use handloom_engine::philox::Stream;
use handloom_engine::profile::{self, Pass};
use handloom_engine::{cpu::simd, storage};
use handloom_model::config::RunConfig;
use handloom_model::generate::{Sampler, Sampling};
use handloom_model::gpt2::{Gpt2, KvCache};
use handloom_model::layers::Forward;
use handloom_model::objective::Batch;
use handloom_model::train::checkpoint::{Moments, State};
use handloom_model::train::loss_scaler::LossScaler;
use handloom_model::train::train_step;
use serde_json::json;

use super::CommandResult;

/// Arguments of `handloom bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// A training step, on random tokens: time, tokens/s, memory, and where the time goes op by op
    Train(BenchTrainArgs),
    /// Generation with the KV cache: tokens per second, prompt included
    Generate(BenchGenerateArgs),
}

#[derive(Args, Debug)]
struct BenchGenerateArgs {
    /// Override a key of [model]; the default is GPT-2's textbook case
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Vocabulary size
    #[arg(long, value_name = "N", default_value_t = 50257)]
    vocab: usize,
    /// Token ids of the prompt
    #[arg(long, value_name = "ID", num_args = 1.., default_values_t = [37573, 4673, 318])]
    prompt: Vec<i32>,
    #[arg(long, value_name = "N", default_value_t = 120)]
    new_tokens: usize,
    /// Runs that count, after one that does not
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct BenchTrainArgs {
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
pub fn run(args: BenchArgs) -> CommandResult {
    match args.command {
        BenchCommand::Train(args) => bench_train(args),
        BenchCommand::Generate(args) => bench_generate(args),
    }
}

fn bench_train(args: BenchTrainArgs) -> CommandResult {
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
    let fp16 = config.train.precision == handloom_model::params::Precision::Fp16;
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
        println!("{report}");
        return Ok(());
    }
    println!(
        "{:.2} M parameters, {} x {} x {} tokens, {:?}, {} threads, {:?}",
        model.params.numel() as f64 / 1e6,
        config.train.accumulate,
        batch,
        time,
        config.train.precision,
        rayon::current_num_threads(),
        simd::level()
    );
    println!(
        "step {:.1} ms median ({:.1} to {:.1}), {:.0} tokens/s, peak {:.0} MB of tensors, {:.0} MB resident\n",
        median * 1e3,
        times[0] * 1e3,
        times[times.len() - 1] * 1e3,
        tokens / median,
        storage::memory().peak as f64 / 1e6,
        peak_rss_bytes().unwrap_or(0) as f64 / 1e6
    );
    println!("{:<22} {:<9} {:>6} {:>9} {:>7}", "op", "pass", "calls", "ms/step", "share");
    let mut sum = 0.0;
    for ((op, pass), entry) in &rows {
        let ms = entry.time.as_secs_f64() * 1e3 / steps;
        sum += ms;
        let (calls, share) = (entry.calls as f64 / steps, 100.0 * entry.time.as_secs_f64() / profiled);
        println!("{op:<22} {:<9} {calls:>6.0} {ms:>9.2} {share:>6.1}%", format!("{pass:?}").to_lowercase());
    }
    println!("{:<22} {:<9} {:>6} {sum:>9.2}   (mean step {:.2} ms)", "sum", "", "", profiled * 1e3 / steps);
    Ok(())
}

fn bench_generate(args: BenchGenerateArgs) -> CommandResult {
    let config = RunConfig::from_toml("", "the textbook case", &args.set)?;
    if args.runs == 0 || args.new_tokens == 0 || args.prompt.is_empty() {
        return Err("--runs, --new-tokens and --prompt need at least one each".into());
    }
    let mut model = Gpt2::new(config.gpt2(args.vocab, None))?;
    model.initialise(config.model.init, config.train.seed)?;
    model.params.set_precision(config.train.precision)?;
    let fwd = Forward::inference(&model.params);
    let mut rates = Vec::new();
    for run in 0..=args.runs {
        let mut sampler = Sampler::new(Sampling { seed: run as u64, ..Sampling::default() })?;
        let started = Instant::now();
        let mut cache = KvCache::new(&model);
        let mut next = args.prompt.clone();
        for _ in 0..args.new_tokens {
            let logits = model.next_logits(&fwd, &mut cache, &next)?;
            next = vec![sampler.next(&logits)? as i32];
        }
        if run > 0 {
            rates.push(args.new_tokens as f64 / started.elapsed().as_secs_f64());
        }
    }
    rates.sort_by(f64::total_cmp);
    let (median, min, max) = (rates[rates.len() / 2], rates[0], rates[rates.len() - 1]);
    if args.json {
        let report = json!({
            "bench": "generate",
            "device": "cpu",
            "threads": rayon::current_num_threads(),
            "new_tokens": args.new_tokens,
            "tokens_per_s": { "median": median, "min": min, "max": max },
            "peak_rss_bytes": peak_rss_bytes(),
        });
        println!("{report}");
    } else {
        println!("{median:.1} tokens/s median ({min:.1} to {max:.1}), {} new tokens a run", args.new_tokens);
    }
    Ok(())
}

/// The process's largest resident memory, where the system tells.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
}
