//! `handloom`: trains Transformers from scratch, and works with what it trained.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trains Transformers from scratch with its own tensor engine and kernels.
#[derive(Parser)]
#[command(name = "handloom", version, about, max_term_width = 100)]
#[command(
    after_help = "Start with: handloom train     (a small GPT on the novels of Jane Austen, about 3 minutes)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model: the embedded default run, or the one a TOML file describes
    Train(commands::train::TrainArgs),
    /// Loss and perplexity of a model on text
    Eval(commands::eval::EvalArgs),
    /// Continue a prompt
    Generate(commands::generate::GenerateArgs),
    /// What a masked language model expects at each [MASK] of a text
    Fill(commands::fill::FillArgs),
    /// Prepare, inspect and download data
    Data(commands::data::DataArgs),
    /// Train tokenizers, encode and decode
    Tokenizer(commands::tokenizer::TokenizerArgs),
    /// The table of ops and of the CUDA kernels behind them
    Ops(commands::ops::OpsArgs),
    /// Run a kernel from a PTX file on the emulated GPU: checks, counters, a trace
    Emulate(commands::emulate::EmulateArgs),
    /// Check every op against its f64 reference, on the device at hand
    Selftest(commands::selftest::SelftestArgs),
    /// What this machine has: processor, driver, GPUs
    Doctor(commands::doctor::DoctorArgs),
    /// Measure speed
    Bench(commands::bench::BenchArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => commands::train::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Fill(args) => commands::fill::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Tokenizer(args) => commands::tokenizer::run(args),
        Command::Ops(args) => commands::ops::run(args),
        Command::Emulate(args) => commands::emulate::run(args),
        Command::Selftest(args) => commands::selftest::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Bench(args) => commands::bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
