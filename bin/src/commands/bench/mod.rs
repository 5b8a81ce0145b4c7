//! `handloom bench`: measures, with the machine and the method named beside the figures.

mod generate;
mod op;
mod train;
mod train_on_gpu;

use clap::{Args, Subcommand};

use super::CommandResult;

/// Arguments of `handloom bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// A training step, on random tokens: time, tokens/s, memory, and where the time goes op by op
    Train(train::BenchTrainArgs),
    /// Generation with the KV cache: tokens per second, prompt included
    Generate(generate::BenchGenerateArgs),
    /// One op, forward and backward, at the sizes of its card (handloom ops lists them)
    Op(op::BenchOpArgs),
}

/// Runs the command.
pub fn run(args: BenchArgs) -> CommandResult {
    match args.command {
        BenchCommand::Train(args) => train::run(args),
        BenchCommand::Generate(args) => generate::run(args),
        BenchCommand::Op(args) => op::run(args),
    }
}

/// The process's largest resident memory, where the system tells.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
}
