//! `handloom ops`: the table of ops, from their cards, and of the CUDA kernels behind them.

use clap::Args;
use handloom_engine::cards;
use handloom_kernels::{manifest, ptx};
use serde_json::json;

use super::CommandResult;
use super::output::say;

/// Arguments of `handloom ops`.
#[derive(Args, Debug)]
pub struct OpsArgs {
    /// The CUDA kernels instead: registers, shared memory, spills and occupancy, on sm_80 or the one they are for
    #[arg(long)]
    kernels: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: OpsArgs) -> CommandResult {
    if args.kernels {
        kernels(args.json);
    } else {
        ops(args.json);
    }
    Ok(())
}

fn ops(as_json: bool) {
    for card in cards::ALL {
        let kernels: Vec<&str> =
            ptx::entries().iter().filter(|entry| stem(entry) == card.op).map(|entry| entry.name).collect();
        if as_json {
            let cases: Vec<_> =
                card.cases.iter().map(|case| json!({ "sizes": case.sizes, "why": case.why })).collect();
            say(json!({
                "op": card.op, "name": card.name, "formula": card.formula, "source": card.source,
                "size_names": card.size_names, "cases": cases, "kernels": kernels,
            }));
            continue;
        }
        say(format_args!("{:<30} {}", card.name, card.formula));
        say(format_args!(
            "{:<30} sizes {}; {} test cases; {} CUDA kernels in {}.cu; {}",
            "",
            card.size_names,
            card.cases.len(),
            kernels.len(),
            card.op,
            card.source
        ));
    }
}

/// The stem of the file an entry comes from.
fn stem(entry: &ptx::Entry) -> &'static str {
    ptx::modules()[entry.module].stem
}

fn kernels(as_json: bool) {
    if !as_json {
        say(format_args!(
            "{:<48} {:>9} {:>9} {:>6} {:>6} {:>8} {:>10}",
            "kernel", "registers", "shared B", "spills", "stack", "threads", "blocks/SM"
        ));
    }
    for entry in ptx::entries() {
        let Some(usage) = manifest::embedded().usage(entry.name) else { continue };
        // Without __launch_bounds__ the launcher decides, and dynamic shared memory is the launcher's too.
        let resident = entry.threads.map(|threads| usage.resident_blocks(threads, 0));
        if as_json {
            say(json!({
                "kernel": entry.name, "file": stem(entry), "registers": usage.registers,
                "shared_bytes": usage.shared_bytes, "spill_bytes": usage.spill_bytes, "stack_bytes": usage.stack_bytes,
                "threads": entry.threads, "blocks_per_multiprocessor": resident,
            }));
            continue;
        }
        let number = |value: Option<u32>| value.map_or("-".to_string(), |value| value.to_string());
        say(format_args!(
            "{:<48} {:>9} {:>9} {:>6} {:>6} {:>8} {:>10}",
            entry.name,
            usage.registers,
            usage.shared_bytes,
            usage.spill_bytes,
            usage.stack_bytes,
            number(entry.threads),
            number(resident)
        ));
    }
}
