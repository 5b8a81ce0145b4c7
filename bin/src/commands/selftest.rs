//! `handloom selftest`: every case of every op against its f64 reference, on the device at hand.

use std::time::Instant;

use clap::Args;
use handloom_engine::cards::ALL;
use handloom_engine::check::{self, Outcome};
use handloom_engine::device::{Device, Gpu};
use handloom_engine::dtype::DType;
use handloom_kernels::check::matmul;
use handloom_kernels::matmul::plan::Math;
use serde_json::json;

use super::CommandResult;
use super::device::DeviceArg;
use super::output::say;

/// Arguments of `handloom selftest`.
#[derive(Args, Debug)]
pub struct SelftestArgs {
    /// Ops whose name starts with this; all without one
    #[arg(value_name = "OP")]
    op: Option<String>,
    #[command(flatten)]
    device: DeviceArg,
    /// Only this dtype: f32, f16 or bf16
    #[arg(long)]
    dtype: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When a case fails, after all have run.
pub fn run(args: SelftestArgs) -> CommandResult {
    let all = [DType::F32, DType::F16, DType::BF16];
    let dtypes: Vec<DType> = all
        .into_iter()
        .filter(|dtype| args.dtype.as_deref().is_none_or(|wanted| wanted == dtype.name()))
        .collect();
    if dtypes.is_empty() {
        let wanted = args.dtype.unwrap_or_default();
        return Err(format!("--dtype {wanted}: expected f32, f16 or bf16").into());
    }
    let wanted = args.op.unwrap_or_default();
    if !TILES.starts_with(&wanted) && !ALL.iter().any(|card| card.name.starts_with(&wanted)) {
        return Err(format!("no op is called {wanted}; `handloom ops` lists them").into());
    }
    let device = args.device.open()?;
    let (mut cases, mut failures) = (0, 0);
    let mut report = |name: &str, dtype: DType, check: &dyn Fn() -> Outcome| {
        let started = Instant::now();
        let outcome = check();
        cases += outcome.cases;
        failures += outcome.failures.len();
        let (ran, failed, skipped) = (outcome.cases, outcome.failures.len(), outcome.skipped);
        if args.json {
            say(json!({
                "selftest": name, "dtype": dtype.name(), "device": device.to_string(), "cases": ran,
                "failed": failed, "skipped": skipped, "failures": outcome.failures,
                "seconds": started.elapsed().as_secs_f64(),
            }));
            return;
        }
        let verdict = if failed == 0 { "ok".to_string() } else { format!("{failed} FAIL") };
        say(format_args!("{name:<30} {:<5} {ran:>3} cases  {verdict}", dtype.name()));
        for failure in &outcome.failures {
            say(format_args!("    {failure}"));
        }
    };
    for card in ALL.iter().filter(|card| card.name.starts_with(&wanted)) {
        for &dtype in &dtypes {
            report(card.name, dtype, &|| check::all(dtype, device, &[], |other| other.name == card.name));
        }
    }
    if let Device::Cuda(gpu) = device
        && TILES.starts_with(&wanted)
    {
        for &dtype in &dtypes {
            report(TILES, dtype, &|| tiles(gpu.gpu(), dtype));
        }
    }
    if failures > 0 {
        return Err(format!("{failures} of {cases} cases fail on {device}").into());
    }
    if !args.json {
        say(format_args!("{cases} cases on {device}: all within their tolerances"));
    }
    Ok(())
}

/// Products by every tile there is, not only by the one that the plan chooses for a shape.
const TILES: &str = "matmul_tiles";

fn tiles(gpu: &'static Gpu, dtype: DType) -> Outcome {
    let maths: &[Math] = match dtype {
        DType::F16 => &[Math::F16],
        DType::BF16 => &[Math::Bf16],
        _ => &[Math::F32, Math::Tf32],
    };
    let mut outcome = Outcome::default();
    for &math in maths {
        for case in matmul::tiles(gpu, math).flat_map(|tile| matmul::edges(math, tile)) {
            outcome.cases += 1;
            outcome.failures.extend(case.check(gpu).err());
        }
    }
    outcome
}
