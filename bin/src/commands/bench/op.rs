//! `handloom bench op`.

use std::time::Instant;

use clap::Args;
use handloom_engine::cards::{self, Card, Role};
use handloom_engine::dtype::DType;
use handloom_engine::error::Error;
use handloom_engine::ops::cast::cast;
use handloom_engine::philox::Stream;
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;
use serde_json::json;

use crate::commands::CommandResult;
use crate::commands::output::say;

/// Arguments of `handloom bench op`.
#[derive(Args, Debug)]
pub struct BenchOpArgs {
    /// An op's name, or a part of it; all without one
    #[arg(value_name = "OP")]
    op: Option<String>,
    /// f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Runs that count, after two that do not
    #[arg(long, value_name = "N", default_value_t = 10)]
    runs: usize,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: BenchOpArgs) -> CommandResult {
    let dtype = match args.dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("--dtype {other}: expected f32, f16 or bf16").into()),
    };
    if args.runs == 0 {
        return Err("--runs is 0, expected at least 1".into());
    }
    let wanted = args.op.as_deref().unwrap_or("");
    let chosen: Vec<&Card> = cards::ALL.iter().copied().filter(|card| card.name.contains(wanted)).collect();
    if chosen.is_empty() {
        return Err(format!("no op is called {wanted}; `handloom ops` lists them").into());
    }
    if !args.json {
        let (gflops, gbs) = ("GFLOP/s", "GB/s");
        say(format_args!(
            "{:<30} {:<24} {:>11} {gflops:>8} {gbs:>7} {:>12}",
            "op", "sizes", "forward ms", "backward ms"
        ));
    }
    for card in chosen {
        let (forward, backward) = measure(card, dtype, args.runs)?;
        let sizes = card.bench.sizes;
        let gflops = (card.flops)(sizes) / forward / 1e9;
        let gbs = (card.bytes)(sizes, dtype) / forward / 1e9;
        if args.json {
            let report = json!({
                "bench": "op", "op": card.name, "sizes": sizes, "size_names": card.size_names,
                "dtype": dtype.name(), "device": "cpu", "threads": rayon::current_num_threads(),
                "forward_ms": forward * 1e3, "backward_ms": backward * 1e3,
                "forward_gflops": gflops, "forward_gb_per_s": gbs,
            });
            say(format_args!("{report}"));
        } else {
            let sizes = sizes.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("x");
            let (forward, backward) = (forward * 1e3, backward * 1e3);
            say(format_args!(
                "{:<30} {sizes:<24} {forward:>11.3} {gflops:>8.1} {gbs:>7.1} {backward:>12.3}",
                card.name
            ));
        }
    }
    Ok(())
}

/// Median seconds of forward (on the tape) and of backward.
fn measure(card: &Card, dtype: DType, runs: usize) -> Result<(f64, f64), Error> {
    let mut reader = Stream { seed: 1, stream: 0, step: 0 }.reader();
    let inputs = (card.inputs)(&card.bench, &mut reader);
    let mut values = Vec::new();
    for input in &inputs {
        let (data, shape) = (&input.array.data, &input.array.shape);
        values.push(match input.role {
            Role::Ids => Tensor::from_slice(&data.iter().map(|x| *x as i32).collect::<Vec<_>>(), shape)?,
            _ => {
                cast(&Tensor::from_slice(&data.iter().map(|x| *x as f32).collect::<Vec<_>>(), shape)?, dtype)?
            }
        });
    }
    let mut times = (Vec::new(), Vec::new());
    for run in 0..runs + 2 {
        let tape = Tape::new();
        let leaf = |(input, value): (&cards::Input, &Tensor)| match input.role {
            Role::Activation => tape.leaf(value, dtype),
            Role::Parameter => tape.leaf(value, DType::F32),
            Role::Ids => value.clone(),
        };
        let x: Vec<Tensor> = inputs.iter().zip(&values).map(leaf).collect();
        let started = Instant::now();
        let out = (card.forward)(&card.bench, &x)?;
        let forward = started.elapsed().as_secs_f64();
        let dout = out.detach();
        let mut grads = tape.gradients();
        let started = Instant::now();
        tape.backward(&out, dout, &mut grads)?;
        if run >= 2 {
            times.0.push(forward);
            times.1.push(started.elapsed().as_secs_f64());
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok((median(times.0), median(times.1)))
}
