//! `handloom bench train` on a GPU: the trainer's own step, with its figures a step late, and what it costs the host.

use handloom_engine::device::{Cuda, Device};
use handloom_model::config::RunConfig;
use handloom_model::error::Error;
use handloom_model::model::LanguageModel;
use handloom_model::objective::Batch;
use handloom_model::train::DeviceStep;
use handloom_model::train::checkpoint::{Moments, State};
use serde_json::json;

use super::train::BenchTrainArgs;
use crate::commands::CommandResult;
use crate::commands::output::say;

/// Trains `model` on what `next_batch` gives and reports.
pub fn run(
    args: &BenchTrainArgs,
    config: &RunConfig,
    gpu: Cuda,
    mut model: Box<dyn LanguageModel>,
    vocab: u32,
    mut next_batch: impl FnMut() -> Result<Batch, Error>,
) -> CommandResult {
    let device = Device::Cuda(gpu);
    model.params_mut().to_device(device)?;
    let mut moments = Moments::zeros(&*model)?;
    let mut state = State { loss_scaler: config.loss_scaler(), ..State::default() };
    let (warmup, all) = (args.warmup as u64, (args.warmup + args.steps) as u64);
    let mut step = DeviceStep::new(&*model, &state, config, all + 1, !args.no_cuda_graph)?;
    gpu.gpu().reset_peak();
    let mut times = Vec::new();
    // One step more: a step's figures come with the next one, and its time is from reading to reading.
    for _ in 0..=all {
        let batches = (0..config.train.accumulate).map(|_| next_batch()).collect::<Result<Vec<_>, _>>()?;
        let measured = step.step(&mut *model, &mut moments, &mut state, config, batches)?;
        times.extend(measured.filter(|m| m.step > warmup).and_then(|m| m.ms_per_step));
    }
    step.finish(&*model, &mut state, config)?;
    times.sort_by(f64::total_cmp);

    let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    let (batch, time, accumulate) = (config.train.batch, config.data.block, config.train.accumulate);
    let tokens_per_s = (batch * time * accumulate) as f64 / median * 1e3;
    let (eager, replayed) = step.host_costs();
    let kernels = step.graph_kernels();
    let cost = if kernels.is_some() { replayed } else { eager };
    let (precision, peak) = (config.train.precision.to_string(), gpu.buffers().peak);
    if args.json {
        let report = json!({
            "bench": "train",
            "device": device.to_string(),
            "device_name": gpu.name(),
            "precision": precision,
            "parameters": model.params().numel(),
            "batch": batch, "block": time, "accumulate": accumulate, "vocab": vocab,
            "ms_per_step": { "median": median, "min": least, "max": most, "mean": mean },
            "tokens_per_s": tokens_per_s,
            "peak_tensor_bytes": peak,
            "reserved_bytes": gpu.buffers().reserved,
            "graph_kernels": kernels,
            "host_ms_per_step": cost.ms_per_step(),
            "launches_per_step": cost.launches_per_step(),
            "eager_host_ms_per_step": (eager.steps > 0).then(|| eager.ms_per_step()),
            "eager_launches_per_step": (eager.steps > 0).then(|| eager.launches_per_step()),
        });
        say(format_args!("{report}"));
        return Ok(());
    }
    say(format_args!(
        "{:.2} M parameters, {accumulate} x {batch} x {time} tokens, {precision}, {device} ({})",
        model.params().numel() as f64 / 1e6,
        gpu.name(),
    ));
    say(format_args!(
        "step {median:.2} ms median ({least:.2} to {most:.2}), {tokens_per_s:.0} tokens/s, peak {:.0} MB",
        peak as f64 / 1e6
    ));
    for (name, cost) in [("kernel by kernel", eager), ("as a CUDA graph", replayed)] {
        if cost.steps > 0 {
            let (ms, launches) = (cost.ms_per_step(), cost.launches_per_step());
            say(format_args!("host {ms:.2} ms and {launches:.0} launches a step, {name}"));
        }
    }
    Ok(())
}
