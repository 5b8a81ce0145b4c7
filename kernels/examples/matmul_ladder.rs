//! The ladder of matmul: runs every rung, checks it against f64 and measures it.
//!
//! `cargo run --release -p handloom-kernels --example matmul_ladder [-- --device cuda|emulator] [--size N]`
//!
//! On a GPU: time by events over 20 launches after 3, N = 4096. On the emulated GPU (the default where there is no driver): what a
//! launch does, per multiply-add, N = 256. Every element is compared at N up to 512, 4096 of them beyond. The emulated GPU needs
//! `cargo build --release -p handloom-emulator-driver` first.

use handloom_kernels::arena::Buffer;
use handloom_kernels::device::{Driver, Gpu, device_count};
use handloom_kernels::elem::Elem;
use handloom_kernels::study::{MATMUL, Rung, matmul};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let (driver, size) = arguments()?;
    let report = std::env::temp_dir().join(format!("matmul-ladder-{}.json", std::process::id()));
    if driver == Driver::Emulated {
        // SAFETY: no other thread has been started yet.
        unsafe { std::env::set_var("HANDLOOM_EMULATOR", format!("report={}", report.display())) };
    }
    let gpu: &'static Gpu = Box::leak(Box::new(Gpu::open(driver, 0)?));
    let n = size.unwrap_or(if gpu.is_emulated() { 256 } else { 4096 });
    let outcome = ladder(gpu, n, &report);
    // Absent where nothing was emulated.
    let _ = std::fs::remove_file(&report);
    outcome
}

/// `--device` (the installed driver where there is one) and `--size`.
fn arguments() -> Outcome<(Driver, Option<usize>)> {
    let (mut driver, mut size) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match (arg.as_str(), value.as_str()) {
            ("--device", "cuda") => driver = Some(Driver::Installed),
            ("--device", "emulator") => driver = Some(Driver::Emulated),
            ("--size", size_text) => size = Some(size_text.parse()?),
            _ => {
                let message = format!("{arg} {value}: expected --device cuda|emulator or --size N");
                return Err(message.into());
            }
        }
    }
    let found = || match device_count(Driver::Installed) {
        Ok(_) => Driver::Installed,
        Err(_) => Driver::Emulated,
    };
    Ok((driver.unwrap_or_else(found), size))
}

fn ladder(gpu: &'static Gpu, n: usize, report: &std::path::Path) -> Outcome<()> {
    let operand = |seed: u64| (0..n * n).map(|i| uniform(seed, i)).collect::<Vec<f32>>();
    let (lhs, rhs) = (operand(1), operand(2));
    let (lhs_device, rhs_device) = (upload(gpu, &lhs)?, upload(gpu, &rhs)?);
    let mut out = gpu.buffer(Elem::F32, n * n)?;
    println!("{}, N = {n}", gpu.name());
    if gpu.is_emulated() {
        println!(
            "per multiply-add: lane instructions, bytes of global sectors, passes over shared memory x 32 (and the least possible)"
        );
    }
    for rung in &MATMUL {
        gpu.fill_bytes(out.slice_mut(), 0xff)?;
        let run = |out: &mut Buffer| {
            matmul(gpu, rung, out.slice_mut(), lhs_device.slice(), rhs_device.slice(), n, n, n)
        };
        run(&mut out)?;
        let mut got = vec![0; 4 * n * n];
        gpu.download(&mut got, out.slice())?;
        check(rung, &got, &lhs, &rhs, n)?;
        let figures = if gpu.is_emulated() {
            counts(report, rung, n)?
        } else {
            (0..3).try_for_each(|_| run(&mut out))?;
            let (start, end) = (gpu.event()?, gpu.event()?);
            start.record()?;
            (0..20).try_for_each(|_| run(&mut out))?;
            end.record()?;
            end.wait()?;
            let ms = end.ms_since(&start)? / 20.0;
            format!("{ms:9.3} ms {:9.1} GFLOP/s", 2.0 * (n as f64).powi(3) / ms as f64 / 1e6)
        };
        println!("{:<26} {figures}   {}", rung.entry, rung.idea);
    }
    Ok(())
}

/// In [-1, 1), from the position alone.
fn uniform(seed: u64, i: usize) -> f32 {
    let mut z = (seed << 40).wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((z ^ (z >> 27)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn upload(gpu: &'static Gpu, data: &[f32]) -> Outcome<Buffer> {
    let mut buffer = gpu.buffer(Elem::F32, data.len())?;
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    gpu.upload(buffer.slice_mut(), &bytes)?;
    Ok(buffer)
}

/// Fails when an element's error exceeds twice that of an ordered f32 sum.
fn check(rung: &Rung, got: &[u8], lhs: &[f32], rhs: &[f32], n: usize) -> Outcome<()> {
    let step = if n <= 512 { 1 } else { n * n / 4096 + 1 };
    let (mut worst, mut plain_worst) = (0.0f64, 0.0f64);
    for at in (0..n * n).step_by(step) {
        let (i, j) = (at / n, at % n);
        let (mut exact, mut plain) = (0.0f64, 0.0f32);
        for p in 0..n {
            exact += lhs[i * n + p] as f64 * rhs[p * n + j] as f64;
            plain = lhs[i * n + p].mul_add(rhs[p * n + j], plain);
        }
        let word = [got[4 * at], got[4 * at + 1], got[4 * at + 2], got[4 * at + 3]];
        let error = (f32::from_le_bytes(word) as f64 - exact).abs();
        // NaN fails: it is not at most anything.
        if error.is_nan() {
            return Err(format!("{}: element ({i}, {j}) is NaN", rung.entry).into());
        }
        (worst, plain_worst) = (worst.max(error), plain_worst.max((plain as f64 - exact).abs()));
    }
    if worst > 2.0 * plain_worst + f32::EPSILON as f64 {
        let message = format!("{}: error {worst:e}, an ordered f32 sum has {plain_worst:e}", rung.entry);
        return Err(message.into());
    }
    Ok(())
}

/// Figures of the emulator's report on the last launch.
fn counts(report: &std::path::Path, rung: &Rung, n: usize) -> Outcome<String> {
    let text = std::fs::read_to_string(report)?;
    let line = text.lines().rev().find(|line| line.contains(&format!("\"{}\"", rung.entry)));
    let launch: serde_json::Value = serde_json::from_str(line.ok_or("the emulator wrote no report")?)?;
    let total = &launch["counters"]["total"];
    let sum = |classes: &[&str], field: &str| -> f64 {
        classes.iter().map(|class| total["classes"][class][field].as_f64().unwrap_or(0.0)).sum()
    };
    let products = (n as f64).powi(3);
    let global = 32.0 * sum(&["LoadGlobal", "StoreGlobal", "AsyncCopy"], "transfers");
    let shared = |field| 32.0 * sum(&["LoadShared", "StoreShared"], field);
    Ok(format!(
        "{:7.2} {:8.3} {:7.3} ({:.3})",
        total["lane_instructions"].as_f64().unwrap_or(f64::NAN) / products,
        global / products,
        shared("transfers") / products,
        shared("ideal") / products,
    ))
}
