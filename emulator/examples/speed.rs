//! Measures the emulator: lane-instructions per second of an f32 loop, matrix products, and launches.
//!
//! `cargo run --release -p handloom-emulator --example speed`
//!
//! Rates are of the best of three launches by the clock, and of the processor time of all three (Linux only), which
//! other programs on the machine disturb less.

use std::time::Instant;

use handloom_emulator::tensormap::{Tiled, encode_tiled};
use handloom_emulator::{Arch, Arg, Checks, Device, Error, LaunchConfig, Module, Options, Result};

const BASIC: &str = include_str!("../tests/ptx/basic.ptx");
const SHARED: &str = include_str!("../tests/ptx/shared.ptx");
const TENSOR: &str = include_str!("../tests/ptx/tensor.ptx");
const HOPPER: &str = include_str!("../tests/ptx/hopper.ptx");
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

/// A product by wgmma, of bf16 matrices that tensor copies bring.
fn hopper_product(device: &mut Device, n: u64, mode: &str) -> Result<()> {
    let (a, b, c) = (
        device.allocate(n * n * 2, "a")?,
        device.allocate(n * n * 2, "b")?,
        device.allocate(n * n * 4, "c")?,
    );
    device.write(a, &vec![0; (n * n * 2) as usize])?;
    device.write(b, &vec![0; (n * n * 2) as usize])?;
    let map = |address, rows| {
        let tiled = Tiled {
            data_type: 9,
            address,
            dims: &[n, n],
            strides: &[2 * n],
            box_dims: &[64, rows],
            element_strides: &[1, 1],
            interleave: 0,
            swizzle: 3,
            l2_promotion: 0,
            oob_fill: 0,
        };
        encode_tiled(&tiled).map(|bytes| Arg(bytes.to_vec())).map_err(Error::Memory)
    };
    let blocks = (n / 128) as u32;
    let case = Case {
        name: format!("matmul by wgmma {n}^3, {mode}"),
        ptx: HOPPER,
        kernel: "matmul",
        config: LaunchConfig {
            grid: [blocks, blocks, 1],
            block: [384, 1, 1],
            cluster: [1; 3],
            dynamic_shared: 3 * 2 * 128 * 64 * 2 + 64,
        },
        work: (n as f64).powi(3) / 1e6,
        unit: "M mul-add",
    };
    let size = n as i32;
    run(device, &case, &[map(a, 128)?, map(b, 64)?, c.into(), size.into(), size.into()])
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
        let checked = if checks { Checks::ALL } else { Checks::NONE };
        let options = Options { checks: checked, counters: checks, ..Options::default() };
        let Some(arch) = Arch::named("sm_90a") else { continue };
        hopper_product(&mut Device::new(Options { arch, ..options }), 1024, mode)?;
        overhead(&mut device(1), mode)?;
    }
    Ok(())
}

/// What a launch of one small block costs.
fn overhead(device: &mut Device, mode: &str) -> Result<()> {
    let module = device.load(&Module::parse(BASIC)?)?;
    let x = device.allocate(128, "x")?;
    device.write(x, &[0; 128])?;
    let (args, launches) = ([x.into(), x.into(), x.into(), 32i32.into()], 20_000);
    let (start, before) = (Instant::now(), processor_seconds());
    for _ in 0..launches {
        device.launch(&module, "vector_add", LaunchConfig::linear(1, 32), &args)?;
    }
    println!(
        "{:<42} {:>8.2} us {:>34.2} processor us",
        format!("launch of one warp, {mode}"),
        start.elapsed().as_secs_f64() * 1e6 / launches as f64,
        (processor_seconds() - before) * 1e6 / launches as f64
    );
    Ok(())
}
