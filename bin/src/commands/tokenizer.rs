//! `handloom tokenizer`: train one, encode, decode, look inside.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use handloom_model::data::{Source, Split};
use handloom_model::tokenizer::{Tokenizer, TokenizerKind, TrainOptions, train};

use super::output::to_stdout;

/// Arguments of `handloom tokenizer`.
#[derive(Args, Debug)]
pub struct TokenizerArgs {
    #[command(subcommand)]
    command: TokenizerCommand,
}

#[derive(Subcommand, Debug)]
enum TokenizerCommand {
    /// Train a tokenizer on files and write its tokenizer.json
    Train(TrainArgs),
    /// Print the ids of a text
    Encode(EncodeArgs),
    /// Print the text of ids
    Decode(DecodeArgs),
    /// Print a tokenizer's kind, size, special tokens and fingerprint
    Inspect(InspectArgs),
}

#[derive(Args, Debug)]
struct TrainArgs {
    /// bpe (byte-level, as GPT-2), wordpiece (lower case, as BERT) or unigram (as T5)
    #[arg(long, value_enum, default_value = "bpe")]
    kind: Kind,
    /// Number of tokens, special tokens included
    #[arg(long, value_name = "N")]
    vocab_size: usize,
    /// A further special token (may be repeated)
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Where to write: a directory (gets a tokenizer.json) or a file ending in .json
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Text files, .jsonl files, or embedded:austen
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Bpe,
    Wordpiece,
    Unigram,
}

#[derive(Args, Debug)]
struct EncodeArgs {
    /// gpt2, austen, austen-2048, austen-wordpiece, or the path of a tokenizer
    #[arg(long, default_value = "gpt2", value_name = "NAME|PATH")]
    tokenizer: String,
    /// Print each id with its token, one a line
    #[arg(long)]
    tokens: bool,
    /// The text; standard input without it
    text: Option<String>,
}

#[derive(Args, Debug)]
struct DecodeArgs {
    /// gpt2, austen, austen-2048, austen-wordpiece, or the path of a tokenizer
    #[arg(long, default_value = "gpt2", value_name = "NAME|PATH")]
    tokenizer: String,
    /// Leave special tokens out
    #[arg(long)]
    skip_special: bool,
    /// The ids, separated by spaces or commas; standard input without them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Args, Debug)]
struct InspectArgs {
    /// gpt2, austen, austen-2048, austen-wordpiece, or the path of a tokenizer
    #[arg(value_name = "NAME|PATH")]
    tokenizer: String,
}

/// Runs `handloom tokenizer`. The error's text is one line for the user.
pub fn run(args: TokenizerArgs) -> Result<(), Box<dyn std::error::Error>> {
    to_stdout(|out| match args.command {
        TokenizerCommand::Train(args) => run_train(args, out),
        TokenizerCommand::Encode(args) => run_encode(args, out),
        TokenizerCommand::Decode(args) => run_decode(args, out),
        TokenizerCommand::Inspect(args) => run_inspect(args, out),
    })
}

fn run_train(args: TrainArgs, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let mut texts = Vec::new();
    for name in &args.files {
        let source = Source::parse(name, Split::Train)?;
        if source.is_shard() {
            return Err(
                format!("tokenizer training: {name} holds tokens; a tokenizer is trained on text").into()
            );
        }
        source.for_documents(|documents, _| {
            texts.extend(documents.iter().map(|d| d.text.clone()));
            Ok(())
        })?;
    }
    let kind = match args.kind {
        Kind::Bpe => TokenizerKind::Bpe,
        Kind::Wordpiece => TokenizerKind::WordPiece,
        Kind::Unigram => TokenizerKind::Unigram,
    };
    let options = TrainOptions {
        kind,
        vocab_size: args.vocab_size,
        special: args.special,
        show_progress: std::io::stderr().is_terminal(),
    };
    let tokenizer = train(texts, &options)?;
    let path = if args.out.extension().is_some_and(|ext| ext == "json") {
        args.out
    } else {
        args.out.join("tokenizer.json")
    };
    tokenizer.save_as(&path)?;
    writeln!(out, "{}: {} with {} tokens", path.display(), tokenizer.kind(), tokenizer.vocab_size())?;
    Ok(())
}

fn run_encode(args: EncodeArgs, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let text = match args.text {
        Some(text) => text,
        None => standard_input("text to encode")?,
    };
    let ids = tokenizer.encode(&text)?;
    if args.tokens {
        for id in ids {
            writeln!(out, "{id}\t{}", tokenizer.id_to_token(id).unwrap_or_default())?;
        }
    } else {
        writeln!(out, "{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))?;
    }
    Ok(())
}

fn run_decode(args: DecodeArgs, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let words = if args.ids.is_empty() { vec![standard_input("ids to decode")?] } else { args.ids };
    let mut ids = Vec::new();
    for word in words.iter().flat_map(|w| w.split([' ', ',', '\n', '\t', '[', ']'])).filter(|w| !w.is_empty())
    {
        let id = word.parse::<u32>();
        ids.push(
            id.map_err(|_| format!("tokenizer decode: \"{word}\" is not an id; expected whole numbers"))?,
        );
    }
    let text = if args.skip_special { tokenizer.decode_plain(&ids)? } else { tokenizer.decode(&ids)? };
    writeln!(out, "{text}")?;
    Ok(())
}

fn run_inspect(args: InspectArgs, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    writeln!(out, "kind         {}", tokenizer.kind())?;
    writeln!(out, "vocabulary   {} tokens", tokenizer.vocab_size())?;
    let end = tokenizer.end_of_text().and_then(|id| Some((id, tokenizer.id_to_token(id)?)));
    match end {
        Some((id, token)) => writeln!(out, "end of text  {token} ({id})")?,
        None => writeln!(out, "end of text  none")?,
    }
    let special = tokenizer.special_tokens();
    let shown: Vec<String> = special.iter().take(8).map(|(id, token)| format!("{token} ({id})")).collect();
    let more = special.len().saturating_sub(shown.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    writeln!(out, "special      {}{rest}", shown.join(", "))?;
    writeln!(out, "fingerprint  {}", tokenizer.fingerprint())?;
    Ok(())
}

fn standard_input(what: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|e| format!("tokenizer: cannot read the {what} from standard input: {e}"))?;
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        format!("tokenizer: the {what} on standard input is not UTF-8 at byte offset {offset}")
    })
}
