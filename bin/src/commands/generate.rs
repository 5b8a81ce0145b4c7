//! `handloom generate`.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use handloom_model::error::Error;
use handloom_model::generate::{Sampling, generate};
use handloom_model::huggingface;
use handloom_model::tokenizer::Tokenizer;

use super::CommandResult;
use super::device::{ComputeArg, advise_on_memory};
use super::output::to_stdout;

/// Arguments of `handloom generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// A model directory (Hugging Face layout), or a run directory (its best checkpoint)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to continue; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    #[arg(long, value_name = "N", default_value_t = 120)]
    max_new_tokens: usize,
    /// Divides the logits: below 1 is more predictable, above 1 more varied
    #[arg(long, value_name = "F", default_value_t = 0.9)]
    temperature: f64,
    /// Only the N most probable tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    top_k: usize,
    /// Only the most probable tokens that reach this probability together; 1 for all
    #[arg(long, value_name = "F", default_value_t = 0.95)]
    top_p: f64,
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Always the most probable token
    #[arg(long)]
    greedy: bool,
    /// Tokenizer, when the model directory has none
    #[arg(long, value_name = "NAME|PATH")]
    tokenizer: Option<String>,
    #[command(flatten)]
    compute: ComputeArg,
    /// Print tokens per second on standard error
    #[arg(long)]
    stats: bool,
}

/// Runs the command.
pub fn run(args: GenerateArgs) -> CommandResult {
    let dir = huggingface::resolve(&args.model)?;
    let mut model = huggingface::load_model(&dir)?;
    args.compute.place(&mut model.params)?;
    let tokenizer = match &args.tokenizer {
        Some(name) => Tokenizer::open(name)?,
        None => Tokenizer::load(&dir)?,
    };
    let mut prompt = args.prompt;
    if prompt == "-" {
        prompt.clear();
        std::io::stdin()
            .read_to_string(&mut prompt)
            .map_err(|e| format!("--prompt -: cannot read standard input: {e}"))?;
    }
    let sampling = Sampling {
        greedy: args.greedy,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let mut stats = None;
    to_stdout(|out| {
        write!(out, "{prompt}")?;
        // The callback's error is the model's; what the system said of standard output is kept beside it.
        let mut failed = None;
        let generated = generate(&model, &tokenizer, &prompt, args.max_new_tokens, &sampling, |text| {
            write!(out, "{text}").and_then(|()| out.flush()).map_err(|e| {
                failed = Some(e);
                Error::Run("cannot write to standard output".into())
            })
        });
        if let Some(e) = failed {
            return Err(e.into());
        }
        stats = Some(generated.map_err(advise_on_memory)?);
        Ok(writeln!(out)?)
    })?;
    if let (true, Some(generated)) = (args.stats, stats) {
        let count = generated.tokens.len();
        let rate = count as f64 / generated.seconds;
        eprintln!("{} prompt tokens, {count} new ones at {rate:.1} tokens/s", generated.prompt_tokens);
    }
    Ok(())
}
