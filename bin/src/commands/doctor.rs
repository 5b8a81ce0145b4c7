//! `handloom doctor`: what this machine has, and what that means for training here.

use clap::Args;
use handloom_engine::cpu::simd;
use handloom_engine::device::{Device, Driver};
use handloom_kernels::device::{device_count, driver_version};
use handloom_kernels::{manifest, ptx};
use serde_json::{Value, json};

use super::CommandResult;
use super::output::say;

/// Arguments of `handloom doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: DoctorArgs) -> CommandResult {
    let report = json!({
        "cpu": {
            "threads": rayon::current_num_threads(),
            "vectors": simd::name(),
        },
        "cuda": driver(Driver::Installed),
        "emulator": driver(Driver::Emulated),
        "kernels": {
            "entries": ptx::entries().len(),
            "modules": ptx::modules().len(),
            "compiler": manifest::embedded().compiler,
            "ptx_version": manifest::embedded().ptx_version,
            "targets": ["sm_80", "sm_90a"],
        },
    });
    if args.json {
        say(&report);
        return Ok(());
    }
    say(format_args!(
        "cpu        {} threads, {} kernels",
        report["cpu"]["threads"],
        text(&report["cpu"]["vectors"])
    ));
    say(format_args!("cuda       {}", describe(&report["cuda"])));
    say(format_args!("emulator   {}", describe(&report["emulator"])));
    let kernels = &report["kernels"];
    say(format_args!(
        "kernels    {} in {} modules, PTX {} for sm_80 and newer, by {}",
        kernels["entries"],
        kernels["modules"],
        text(&kernels["ptx_version"]),
        text(&kernels["compiler"])
    ));
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Newest PTX version a driver of CUDA `version` (12040 for 12.4) compiles: PTX ISA, release notes.
fn newest_ptx(version: i32) -> String {
    match version {
        ..12000 => "7.8 or older".into(),
        12000..13000 => format!("8.{}", (version % 1000) / 10),
        13000.. => format!("9.{}", (version % 1000) / 10),
    }
}

fn driver(driver: Driver) -> Value {
    let devices = || -> Result<Value, handloom_engine::error::Error> {
        let count = device_count(driver)?;
        let version = driver_version(driver)?;
        let mut devices = Vec::new();
        for ordinal in 0..count {
            let Device::Cuda(gpu) = Device::cuda(driver, ordinal)? else { continue };
            let (free, total) = gpu.memory()?;
            let limits = gpu.limits();
            let (major, minor) = limits.compute_capability;
            devices.push(json!({
                "ordinal": ordinal, "name": gpu.name(), "compute_capability": format!("{major}.{minor}"),
                "multiprocessors": limits.multiprocessors, "free_bytes": free, "total_bytes": total,
                "shared_bytes_per_block": limits.shared_bytes_per_block,
            }));
        }
        Ok(json!({
            "available": true, "driver_cuda": format!("{}.{}", version / 1000, version % 1000 / 10),
            "newest_ptx": newest_ptx(version), "devices": devices,
        }))
    };
    devices().unwrap_or_else(|error| json!({ "available": false, "reason": error.to_string() }))
}

/// One line for a driver and one for each of its devices.
fn describe(report: &Value) -> String {
    if report["available"] != true {
        return text(&report["reason"]).to_string();
    }
    let gib = |value: &Value| value.as_f64().unwrap_or(0.0) / (1u64 << 30) as f64;
    let mut lines = format!(
        "driver of CUDA {}, compiles PTX up to {}",
        text(&report["driver_cuda"]),
        text(&report["newest_ptx"])
    );
    for device in report["devices"].as_array().into_iter().flatten() {
        lines += &format!(
            "\n           {}: {}, sm_{}, {} multiprocessors, {:.1} of {:.1} GiB free",
            device["ordinal"],
            text(&device["name"]),
            text(&device["compute_capability"]).replace('.', ""),
            device["multiprocessors"],
            gib(&device["free_bytes"]),
            gib(&device["total_bytes"])
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_compile_the_ptx_of_their_cuda_version() {
        assert_eq!(newest_ptx(11080), "7.8 or older");
        assert_eq!(newest_ptx(12040), "8.4");
        assert_eq!(newest_ptx(13000), "9.0");
    }
}
