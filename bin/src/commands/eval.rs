//! `handloom eval`.

use std::path::PathBuf;

use clap::Args;
use handloom_model::config::{ObjectiveKind, RunConfig};
use handloom_model::eval::evaluate;
use handloom_model::huggingface;
use handloom_model::objective::Objective;
use handloom_model::tokenizer::Tokenizer;

use super::CommandResult;
use super::device::{ComputeArg, advise_on_memory};
use super::output::to_stdout;
use super::progress::Bar;

/// Arguments of `handloom eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// A model directory (Hugging Face layout), or a run directory (its best checkpoint)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text, .jsonl or .bin files, or embedded:austen (its held-out part) [default: data.valid]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<String>,
    /// Override a key of [data] or [objective], or train.pack, for example --set data.block=64
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Tokenizer, when the model directory has none
    #[arg(long, value_name = "NAME|PATH")]
    tokenizer: Option<String>,
    #[command(flatten)]
    compute: ComputeArg,
    /// Rows per batch
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: EvalArgs) -> CommandResult {
    let dir = huggingface::resolve(&args.model)?;
    let mut model = huggingface::load(&dir)?;
    args.compute.place(model.params_mut())?;
    let tokenizer = match &args.tokenizer {
        Some(name) => Tokenizer::open(name)?,
        None => Tokenizer::load(&dir)?,
    };
    // Blocks are as long as the model's context unless set otherwise.
    let context = model.context();
    let mut settings = vec![format!("model.context={context}"), format!("data.block={}", context.min(1024))];
    if !args.data.is_empty() {
        settings.push(format!("data.valid={}", args.data.join(",")));
    }
    let settable = |setting: &&String| {
        !["data.", "objective.", "train.pack="].iter().any(|start| setting.starts_with(start))
    };
    if let Some(other) = args.set.iter().find(settable) {
        return Err(format!(
            "--set {other}: only keys of [data], [objective] and train.pack can be set here"
        )
        .into());
    }
    if model.objective() == ObjectiveKind::Mlm {
        settings.extend(["model.kind=bert".to_owned(), "objective.kind=mlm".to_owned()]);
    }
    settings.extend(args.set);
    let config = RunConfig::from_toml("", "eval", &settings)?;
    if args.batch == 0 {
        return Err("--batch is 0, expected at least 1".into());
    }
    let bar = Bar::default();
    if tokenizer.vocab_size() > model.vocab_size() {
        let (tokens, vocab) = (tokenizer.vocab_size(), model.vocab_size());
        return Err(format!(
            "the tokenizer has {tokens} tokens, the model {vocab}; they do not belong together"
        )
        .into());
    }
    let objective = Objective::new(&config, &tokenizer)?;
    let blocks = config.data.open_valid_as(objective.layout(), &tokenizer, &bar)?;
    let blocks = blocks.ok_or("there is no data to evaluate on; give --data FILE")?;
    let result = evaluate(&*model, &objective, &blocks, args.batch, |_, _| {}).map_err(advise_on_memory)?;
    let text = if args.json {
        serde_json::to_string(&result)?
    } else {
        let accuracy =
            result.masked_accuracy.map(|share| format!(", masked accuracy {:.2} %", 100.0 * share));
        let (loss, perplexity, tokens) = (result.loss, result.perplexity, result.tokens);
        let accuracy = accuracy.unwrap_or_default();
        format!("loss {loss:.4}, perplexity {perplexity:.2}{accuracy} over {tokens} tokens")
    };
    to_stdout(|out| Ok(writeln!(out, "{text}")?))
}
