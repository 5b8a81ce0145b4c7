//! Measures the emulator: lane-instructions per second of an f32 loop, and two matrix products.
//!
//! `cargo run --release -p handloom-emulator --example speed`
//!
//! Rates are of the best of three launches by the clock, and of the processor time of all three (Linux only), which
//! other programs on the machine disturb less.

use std::time::Instant;

use handloom_emulator::{Arg, Checks, Device, LaunchConfig, Module, Options, Result};

const BASIC: &str = include_str!("../tests/ptx/basic.ptx");
const SHARED: &str = include_str!("../tests/ptx/shared.ptx");
const TENSOR: &str = include_str!("../tests/ptx/tensor.ptx");
const LAUNCHES: u32 = 3;

/// Processor seconds of this process, all threads; 0 where the system does not say.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15 after the name in parentheses: user and system time in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

struct Case<'a> {
    name: String,
    ptx: &'a str,
    kernel: &'a str,
    config: LaunchConfig,
    /// Work of a launch, in `unit`s.
    work: f64,
    unit: &'a str,
}

fn run(device: &mut Device, case: &Case, args: &[Arg]) -> Result<()> {
    let module = device.load(&Module::parse(case.ptx)?)?;
    let (mut best, before) = (f64::INFINITY, processor_seconds());
    for _ in 0..LAUNCHES {
        let start = Instant::now();
        let report = device.launch(&module, case.kernel, case.config, args)?;
        best = best.min(start.elapsed().as_secs_f64());
        if !report.is_clean() {
            print!("{}", report.text());
        }
    }
    let processor = (processor_seconds() - before) / LAUNCHES as f64;
    println!(
        "{:<42} {best:>8.3} s {:>10.1} {unit}/s {processor:>8.3} processor s {:>10.1} {unit}/processor s",
        case.name,
        case.work / best,
        case.work / processor,
        unit = case.unit,
    );
    Ok(())
}

/// A square product of `n` by `n` matrices of `bytes`-byte elements.
fn product(device: &mut Device, case: &Case, n: u64, bytes: u64) -> Result<()> {
    let (a, b, c) = (
        device.allocate(n * n * bytes, "a")?,
        device.allocate(n * n * bytes, "b")?,
        device.allocate(n * n * 4, "c")?,
    );
    device.write(a, &vec![0; (n * n * bytes) as usize])?;
    device.write(b, &vec![0; (n * n * bytes) as usize])?;
    let size = n as i32;
    run(device, case, &[c.into(), a.into(), b.into(), size.into(), size.into(), size.into()])
}

fn main() -> Result<()> {
    for checks in [true, false] {
        let mode = if checks { "checks and counters" } else { "no checks, no counters" };
        let device = |threads| {
            let checked = if checks { Checks::ALL } else { Checks::NONE };
            Device::new(Options { checks: checked, counters: checks, threads, ..Options::default() })
        };
        let (blocks, threads, steps) = (8u32, 256u32, 60_000i32);
        let mut d = device(1);
        let out = d.allocate((blocks * threads * 4) as u64, "out")?;
        // Eight fused multiply-adds a step; the loop adds three instructions every four steps.
        let case = Case {
            name: format!("fma_loop, 1 thread, {mode}"),
            ptx: BASIC,
            kernel: "fma_loop",
            config: LaunchConfig::linear(blocks, threads),
            work: (blocks * threads) as f64 * steps as f64 * 8.75 / 1e6,
            unit: "M lane-instr",
        };
        run(&mut d, &case, &[out.into(), 0.999f32.into(), 0.5f32.into(), steps.into()])?;
        let case = Case {
            name: format!("matmul_tiled 256^3, 1 thread, {mode}"),
            ptx: SHARED,
            kernel: "matmul_tiled",
            config: LaunchConfig {
                grid: [16, 16, 1],
                block: [16, 16, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
            },
            work: 256f64.powi(3) / 1e6,
            unit: "M mul-add",
        };
        product(&mut device(1), &case, 256, 4)?;
        let case = Case {
            name: format!("matmul_bf16 1024^3, {mode}"),
            ptx: TENSOR,
            kernel: "matmul_bf16",
            config: LaunchConfig {
                grid: [16, 16, 1],
                block: [128, 1, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
            },
            work: 1024f64.powi(3) / 1e6,
            unit: "M mul-add",
        };
        product(&mut device(0), &case, 1024, 2)?;
    }
    Ok(())
}
