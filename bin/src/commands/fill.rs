//! `handloom fill`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use handloom_model::fill::{Mask, fill};
use handloom_model::huggingface;
use handloom_model::tokenizer::Tokenizer;

use super::CommandResult;
use super::device::{ComputeArg, advise_on_memory};
use super::output::to_stdout;

/// Arguments of `handloom fill`.
#[derive(Args, Debug)]
pub struct FillArgs {
    /// A model directory (Hugging Face layout), or a run directory (its best checkpoint)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The text, with [MASK] where a token is missing
    #[arg(long)]
    text: String,
    /// Candidates per mask
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Tokenizer, when the model directory has none
    #[arg(long, value_name = "NAME|PATH")]
    tokenizer: Option<String>,
    #[command(flatten)]
    compute: ComputeArg,
    /// Print one JSON array: an object per mask
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: FillArgs) -> CommandResult {
    let dir = huggingface::resolve(&args.model)?;
    let mut model = huggingface::load_bert(&dir)?;
    args.compute.place(&mut model.params)?;
    let tokenizer = match &args.tokenizer {
        Some(name) => Tokenizer::open(name)?,
        None => Tokenizer::load(&dir)?,
    };
    let masks = fill(&model, &tokenizer, &args.text, args.top_k as usize).map_err(advise_on_memory)?;
    to_stdout(|out| {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&masks)?)?;
            return Ok(());
        }
        print(out, &args.text, &masks)
    })
}

/// Each mask with its candidates.
pub fn print(out: &mut dyn Write, text: &str, masks: &[Mask]) -> CommandResult {
    writeln!(out, "{text}")?;
    for (i, mask) in masks.iter().enumerate() {
        writeln!(out, "mask {} (token {})", i + 1, mask.position)?;
        for prediction in &mask.predictions {
            writeln!(out, "  {:>6.2} %  {}", 100.0 * prediction.probability, prediction.token)?;
        }
    }
    Ok(())
}
