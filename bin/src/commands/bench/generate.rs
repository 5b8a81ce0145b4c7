//! `handloom bench generate`.

use std::time::Instant;

use clap::Args;
use handloom_engine::device::Device;
use handloom_model::config::RunConfig;
use handloom_model::generate::{Sampler, Sampling};
use handloom_model::gpt2::{Gpt2, KvCache};
use handloom_model::layers::Forward;
use handloom_model::params::Precision;
use serde_json::json;

use super::peak_rss_bytes;
use crate::commands::CommandResult;
use crate::commands::device::DeviceArg;
use crate::commands::output::say;

/// Arguments of `handloom bench generate`.
#[derive(Args, Debug)]
pub struct BenchGenerateArgs {
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
    #[command(flatten)]
    device: DeviceArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: BenchGenerateArgs) -> CommandResult {
    let config = RunConfig::from_toml("", "the textbook case", &args.set)?;
    if args.runs == 0 || args.new_tokens == 0 || args.prompt.is_empty() {
        return Err("--runs, --new-tokens and --prompt need at least one each".into());
    }
    let mut model = Gpt2::new(config.gpt2(args.vocab, None))?;
    model.initialise(config.model.init, config.train.seed)?;
    let device = args.device.open()?;
    config.train.precision.check_device(device)?;
    model.params.set_precision(config.train.precision)?;
    model.params.to_device(device)?;
    if let Device::Cuda(gpu) = device {
        gpu.gpu().set_tf32(config.train.precision == Precision::Tf32);
    }
    let fwd = Forward::inference(&model.params);
    let mut rates = Vec::new();
    // One cache for all runs, as a server would keep it: on a GPU, the graph of a token's pass with it.
    let mut cache = KvCache::new(&model)?;
    for run in 0..=args.runs {
        let mut sampler = Sampler::new(Sampling { seed: run as u64, ..Sampling::default() })?;
        let started = Instant::now();
        cache.clear();
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
            "device": device.to_string(),
            "graph_kernels": cache.graph_kernels(),
            "threads": rayon::current_num_threads(),
            "new_tokens": args.new_tokens,
            "tokens_per_s": { "median": median, "min": min, "max": max },
            "peak_rss_bytes": peak_rss_bytes(),
        });
        say(format_args!("{report}"));
    } else {
        say(format_args!(
            "{median:.1} tokens/s median ({min:.1} to {max:.1}), {} new tokens a run",
            args.new_tokens
        ));
    }
    Ok(())
}
