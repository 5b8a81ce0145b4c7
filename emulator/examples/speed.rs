//! Measures the emulator: lane-instructions per second of an f32 loop, and a tensor-core matmul.
//!
//! `cargo run --release -p handloom-emulator --example speed`

use std::time::Instant;

use handloom_emulator::{Arg, Checks, Device, LaunchConfig, Module, Options};

fn device(checks: bool, threads: usize) -> Device {
    Device::new(Options {
        checks: if checks { Checks::ALL } else { Checks::NONE },
        counters: checks,
        threads,
        ..Options::default()
    })
}

/// Best time of three launches, in seconds, and the lane-instructions of one.
fn time(
    device: &mut Device,
    ptx: &str,
    kernel: &str,
    config: LaunchConfig,
    args: &[Arg],
) -> handloom_emulator::Result<f64> {
    let module = device.load(&Module::parse(ptx)?)?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        let report = device.launch(&module, kernel, config, args)?;
        best = best.min(start.elapsed().as_secs_f64());
        if !report.is_clean() {
            print!("{}", report.text());
        }
    }
    Ok(best)
}

fn main() -> handloom_emulator::Result<()> {
    let basic = include_str!("../tests/ptx/basic.ptx");
    let tensor = include_str!("../tests/ptx/tensor.ptx");
    let shared = include_str!("../tests/ptx/shared.ptx");
    println!("{:<44} {:>10} {:>24}", "kernel", "seconds", "rate");
    for checks in [true, false] {
        let mode = if checks { "checks and counters on" } else { "checks and counters off" };
        let mut d = device(checks, 1);
        let (blocks, threads, steps) = (8u32, 256u32, 20_000i32);
        let out = d.allocate((blocks * threads * 4) as u64, "out")?;
        let args = [out.into(), 0.999f32.into(), 0.5f32.into(), steps.into()];
        let t = time(&mut d, basic, "fma_loop", LaunchConfig::linear(blocks, threads), &args)?;
        // Eight fused multiply-adds a step; the loop adds three instructions every four steps.
        let instructions = (blocks * threads) as f64 * steps as f64 * (8.0 + 0.75);
        println!(
            "{:<44} {t:>10.4} {:>12.0} M lane-instr/s",
            format!("fma_loop, 1 thread, {mode}"),
            instructions / t / 1e6
        );

        let mut d = device(checks, 1);
        let n = 256u64;
        let (a, b, c) =
            (d.allocate(n * n * 4, "a")?, d.allocate(n * n * 4, "b")?, d.allocate(n * n * 4, "c")?);
        d.write(a, &vec![0; (n * n * 4) as usize])?;
        d.write(b, &vec![0; (n * n * 4) as usize])?;
        let args = [c.into(), a.into(), b.into(), (n as i32).into(), (n as i32).into(), (n as i32).into()];
        let config =
            LaunchConfig { grid: [16, 16, 1], block: [16, 16, 1], cluster: [1; 3], dynamic_shared: 0 };
        let t = time(&mut d, shared, "matmul_tiled", config, &args)?;
        println!(
            "{:<44} {t:>10.4} {:>12.1} M multiply-adds/s",
            format!("matmul_tiled 256^3, 1 thread, {mode}"),
            (n * n * n) as f64 / t / 1e6
        );

        let mut d = device(checks, 0);
        let n = 1024u64;
        let (a, b, c) =
            (d.allocate(n * n * 2, "a")?, d.allocate(n * n * 2, "b")?, d.allocate(n * n * 4, "c")?);
        d.write(a, &vec![0; (n * n * 2) as usize])?;
        d.write(b, &vec![0; (n * n * 2) as usize])?;
        let args = [c.into(), a.into(), b.into(), (n as i32).into(), (n as i32).into(), (n as i32).into()];
        let config =
            LaunchConfig { grid: [16, 16, 1], block: [128, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
        let t = time(&mut d, tensor, "matmul_bf16", config, &args)?;
        println!(
            "{:<44} {t:>10.4} {:>12.2} G multiply-adds/s",
            format!("matmul_bf16 1024^3, all threads, {mode}"),
            (n * n * n) as f64 / t / 1e9
        );
    }
    Ok(())
}
