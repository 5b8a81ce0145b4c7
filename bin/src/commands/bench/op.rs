//! `handloom bench op`: one op at a time, forward and backward.
//!
//! On the CPU, wall time of each run. On a GPU, device time: several runs over rotating inputs are captured as one graph, so that
//! neither the host nor the cache is what is measured, and events around its launches give the time.

use std::time::Instant;

use clap::Args;
use handloom_engine::cards::{self, Card, Case, Input, Role};
use handloom_engine::device::{Cuda, Device};
use handloom_engine::dtype::DType;
use handloom_engine::error::Error;
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::matmul::matmul;
use handloom_engine::philox::Stream;
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;
use handloom_kernels::graph::Graph;
use serde_json::json;

use crate::commands::CommandResult;
use crate::commands::device::DeviceArg;
use crate::commands::output::say;

/// Input bytes to rotate over on a GPU: more than twice the second-level cache of an H100 (50 MB).
const ROTATE_BYTES: f64 = 128e6;
/// Sets of inputs at most.
const MOST_SETS: usize = 16;

/// Arguments of `handloom bench op`.
#[derive(Args, Debug)]
pub struct BenchOpArgs {
    /// An op's name, or a part of it; all without one
    #[arg(value_name = "OP")]
    op: Option<String>,
    /// Sizes in the order that `handloom ops` names them, for example 65536x768; the card's without it
    #[arg(long, value_name = "SIZES")]
    shape: Option<String>,
    /// f32, f16 or bf16
    #[arg(long, default_value = "f32")]
    dtype: String,
    #[command(flatten)]
    device: DeviceArg,
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
    let exact = cards::ALL.iter().any(|card| card.name == wanted);
    let fits = |card: &&Card| if exact { card.name == wanted } else { card.name.contains(wanted) };
    let chosen: Vec<&Card> = cards::ALL.iter().copied().filter(fits).collect();
    if chosen.is_empty() {
        return Err(format!("no op is called {wanted}; `handloom ops` lists them").into());
    }
    let device = args.device.open()?;
    let ceilings = match device {
        Device::Cuda(gpu) if !gpu.is_emulated() => Some(Ceilings::measure(gpu, dtype)?),
        _ => None,
    };
    if !args.json {
        if let Device::Cuda(gpu) = device {
            say(format_args!("{}", gpu.name()));
        }
        if let Some(Ceilings { copy_gb_per_s, matmul_gflops }) = ceilings {
            say(format_args!(
                "copy {copy_gb_per_s:.0} GB/s, own {dtype} product of 4096^3 {matmul_gflops:.0} GFLOP/s"
            ));
        }
        let (gflops, gbs) = ("GFLOP/s", "GB/s");
        say(format_args!(
            "{:<30} {:<24} {:>11} {gflops:>9} {gbs:>7} {:>12}",
            "op", "sizes", "forward ms", "backward ms"
        ));
    }
    for card in chosen {
        let case = sized(card, args.shape.as_deref())?;
        let (forward, backward) = match device {
            Device::Cpu => measure_cpu(card, &case, dtype, args.runs)?,
            Device::Cuda(gpu) => measure_gpu(card, &case, dtype, args.runs, gpu)?,
        };
        let (flops, bytes) = ((card.flops)(case.sizes), (card.bytes)(case.sizes, dtype));
        let (gflops, gbs) = (flops / forward / 1e9, bytes / forward / 1e9);
        if args.json {
            let threads = (device == Device::Cpu).then(rayon::current_num_threads);
            say(json!({
                "bench": "op", "op": card.name, "sizes": case.sizes, "size_names": card.size_names,
                "dtype": dtype.name(), "device": device.to_string(), "threads": threads,
                "forward_ms": forward * 1e3, "backward_ms": backward * 1e3, "flops": flops, "bytes": bytes,
                "forward_gflops": gflops, "forward_gb_per_s": gbs,
                "copy_gb_per_s": ceilings.map(|ceilings| ceilings.copy_gb_per_s),
                "matmul_gflops": ceilings.map(|ceilings| ceilings.matmul_gflops),
                "share_of_copy": ceilings.map(|ceilings| gbs / ceilings.copy_gb_per_s),
                "share_of_matmul": ceilings.map(|ceilings| gflops / ceilings.matmul_gflops),
            }));
        } else {
            let sizes = case.sizes.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("x");
            let (forward, backward) = (forward * 1e3, backward * 1e3);
            say(format_args!(
                "{:<30} {sizes:<24} {forward:>11.4} {gflops:>9.1} {gbs:>7.1} {backward:>12.4}",
                card.name
            ));
        }
    }
    if !args.json && matches!(device, Device::Cuda(gpu) if gpu.is_emulated()) {
        say("these are times of an emulated GPU: they say nothing about a real one");
    }
    Ok(())
}

/// The card's benchmark case, at other sizes when `shape` names some.
fn sized(card: &Card, shape: Option<&str>) -> Result<Case, String> {
    let Some(shape) = shape else { return Ok(card.bench) };
    let sizes: Result<Vec<usize>, _> = shape.split('x').map(str::parse).collect();
    let sizes = sizes.map_err(|_| format!("--shape {shape}: expected sizes like 65536x768"))?;
    let names = card.size_names.split_whitespace().count();
    if sizes.len() != names {
        return Err(format!("--shape {shape}: {} takes {names} sizes ({})", card.name, card.size_names));
    }
    Ok(Case { sizes: Vec::leak(sizes), ..card.bench })
}

/// The case's inputs on the CPU.
fn inputs(card: &Card, case: &Case, dtype: DType) -> Result<Vec<(Role, Tensor)>, Error> {
    let mut reader = Stream { seed: 1, stream: 0, step: 0 }.reader();
    let tensor = |input: &Input| {
        let (data, shape) = (&input.array.data, &input.array.shape);
        Ok((
            input.role,
            match input.role {
                Role::Ids => Tensor::from_slice(&data.iter().map(|x| *x as i32).collect::<Vec<_>>(), shape)?,
                _ => cast(
                    &Tensor::from_slice(&data.iter().map(|x| *x as f32).collect::<Vec<_>>(), shape)?,
                    dtype,
                )?,
            },
        ))
    };
    (card.inputs)(case, &mut reader).iter().map(tensor).collect()
}

fn leaves(tape: &Tape, inputs: &[(Role, Tensor)], dtype: DType) -> Vec<Tensor> {
    let leaf = |(role, value): &(Role, Tensor)| match role {
        Role::Activation => tape.leaf(value, dtype),
        Role::Parameter => tape.leaf(value, DType::F32),
        Role::Ids => value.clone(),
    };
    inputs.iter().map(leaf).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Median seconds of forward (on the tape) and of backward.
fn measure_cpu(card: &Card, case: &Case, dtype: DType, runs: usize) -> Result<(f64, f64), Error> {
    let inputs = inputs(card, case, dtype)?;
    let mut times = (Vec::new(), Vec::new());
    for run in 0..runs + 2 {
        let tape = Tape::new();
        let x = leaves(&tape, &inputs, dtype);
        let started = Instant::now();
        let out = (card.forward)(case, &x)?;
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
    Ok((median(times.0), median(times.1)))
}

/// Median device seconds of forward (on the tape), and of backward as the difference to forward and backward together.
fn measure_gpu(card: &Card, case: &Case, dtype: DType, runs: usize, gpu: Cuda) -> Result<(f64, f64), Error> {
    let device = Device::Cuda(gpu);
    let each = (card.bytes)(case.sizes, dtype).max(1.0);
    let sets =
        if gpu.is_emulated() { 1 } else { ((ROTATE_BYTES / each).ceil() as usize).clamp(2, MOST_SETS) };
    // The same values in other memory: what counts is where they lie.
    let host = inputs(card, case, dtype)?;
    let place = |_| -> Result<Vec<(Role, Tensor)>, Error> {
        host.iter().map(|(role, value)| Ok((*role, value.to_device(device)?))).collect()
    };
    let inputs: Vec<Vec<(Role, Tensor)>> = (0..sets).map(place).collect::<Result<_, _>>()?;
    let forward = |x: &[(Role, Tensor)]| -> Result<(Tape, Tensor), Error> {
        let tape = Tape::new();
        let out = (card.forward)(case, &leaves(&tape, x, dtype))?;
        Ok((tape, out))
    };
    let both = |x: &[(Role, Tensor)]| -> Result<(), Error> {
        let (tape, out) = forward(x)?;
        tape.backward(&out, out.detach(), &mut tape.gradients())
    };
    let forward_time = graph_time(gpu, &inputs, runs, |x| forward(x).map(drop))?;
    let both_time = graph_time(gpu, &inputs, runs, |x| both(x))?;
    Ok((forward_time, (both_time - forward_time).max(0.0)))
}

/// Median device seconds of `f` over one input, with all inputs in one graph.
fn graph_time<X>(
    gpu: Cuda,
    inputs: &[X],
    runs: usize,
    f: impl Fn(&X) -> Result<(), Error>,
) -> Result<f64, Error> {
    f(&inputs[0])?; // loads the kernels
    gpu.synchronize()?;
    let (graph, ()) = Graph::capture(gpu.gpu(), || inputs.iter().try_for_each(&f))?;
    let (start, end) = (gpu.gpu().event()?, gpu.gpu().event()?);
    let mut times = Vec::new();
    for run in 0..runs + 2 {
        start.record()?;
        graph.launch()?;
        end.record()?;
        end.wait()?;
        if run >= 2 {
            times.push(end.ms_since(&start)? as f64 * 1e-3 / inputs.len() as f64);
        }
    }
    Ok(median(times))
}

/// What this device reaches on the two simplest jobs, measured now.
#[derive(Clone, Copy)]
struct Ceilings {
    /// A copy within the device, bytes read plus bytes written.
    copy_gb_per_s: f64,
    /// This project's own product of 4096^3.
    matmul_gflops: f64,
}

impl Ceilings {
    fn measure(gpu: Cuda, dtype: DType) -> Result<Ceilings, Error> {
        let device = Device::Cuda(gpu);
        let elements = 256 << 20;
        let (from, mut to) = (
            Tensor::zeros(&[elements], DType::F32, device)?,
            Tensor::empty(&[elements], DType::F32, device)?,
        );
        let to = std::cell::RefCell::new(&mut to);
        let seconds = graph_time(gpu, &[()], 10, |()| {
            Ok(gpu.copy(to.borrow_mut().cuda_slice_mut()?, from.cuda_slice()?)?)
        })?;
        let copy_gb_per_s = 2.0 * 4.0 * elements as f64 / seconds / 1e9;
        let n = 4096;
        let mut reader = Stream { seed: 2, stream: 0, step: 0 }.reader();
        let data: Vec<f32> = (0..n * n).map(|_| reader.uniform() - 0.5).collect();
        let square = cast(&Tensor::from_slice(&data, &[n, n])?, dtype)?.to_device(device)?;
        let seconds = graph_time(gpu, &[()], 10, |()| matmul(&square, &square).map(drop))?;
        Ok(Ceilings { copy_gb_per_s, matmul_gflops: 2.0 * (n as f64).powi(3) / seconds / 1e9 })
    }
}
