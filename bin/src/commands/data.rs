//! `handloom data`: tokenise into the cache or into shards, look at a data set, download one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use handloom_model::data::{Blocks, DataError, Source, Split, TokenStream, default_cache_dir, write_shards};
use handloom_model::tokenizer::Tokenizer;

use super::download;
use super::output::to_stdout;
use super::progress::Bar;

/// Arguments of `handloom data`.
#[derive(Args, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand, Debug)]
enum DataCommand {
    /// Tokenise sources into the token cache, or with --out into llm.c .bin shards
    Prepare(PrepareArgs),
    /// Print what a source holds: documents, tokens, blocks, a sample, the most frequent tokens
    Inspect(InspectArgs),
    /// Download a data set from the Hugging Face hub
    Download(DownloadArgs),
}

#[derive(Args, Debug)]
struct Common {
    /// gpt2, austen, austen-2048, austen-wordpiece, or the path of a tokenizer
    #[arg(long, default_value = "austen", value_name = "NAME|PATH")]
    tokenizer: String,
    /// Directory of the token cache [default: $HANDLOOM_CACHE or the platform's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct PrepareArgs {
    #[command(flatten)]
    common: Common,
    /// Write shards PREFIX_000000.bin, PREFIX_000001.bin, ...
    #[arg(long, value_name = "PREFIX")]
    out: Option<PathBuf>,
    /// Tokens in a shard
    #[arg(long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    shard_tokens: u32,
    /// Text files, .jsonl files, .bin shards, embedded:austen/train or embedded:austen/valid
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
}

#[derive(Args, Debug)]
struct InspectArgs {
    #[command(flatten)]
    common: Common,
    /// Tokens in a block
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    block: u32,
    /// How many of the most frequent tokens to print
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Which block to print as a sample
    #[arg(long, value_name = "I", default_value_t = 0)]
    sample: usize,
    /// A text file, a .jsonl file, a .bin shard, embedded:austen/train or embedded:austen/valid
    source: String,
}

#[derive(Args, Debug)]
struct DownloadArgs {
    /// Which data set
    #[arg(value_enum)]
    name: DataSet,
    /// Where to put its files
    #[arg(long, value_name = "DIR", default_value = "wikitext-2")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DataSet {
    /// WikiText-2, raw text (Merity et al. 2016, CC BY-SA 3.0)
    #[value(name = "wikitext-2")]
    WikiText2,
}

/// Runs `handloom data`. The error's text is one line for the user.
pub fn run(args: DataArgs) -> Result<(), Box<dyn std::error::Error>> {
    to_stdout(|out| match args.command {
        DataCommand::Prepare(args) => run_prepare(args, out),
        DataCommand::Inspect(args) => run_inspect(args, out),
        DataCommand::Download(DownloadArgs { name: DataSet::WikiText2, out: dir }) => {
            download::wikitext_2(&dir, out)
        }
    })
}

fn open(sources: &[String], common: &Common, tokenizer: &Tokenizer) -> Result<TokenStream, DataError> {
    let cache = common.cache.clone().or_else(default_cache_dir);
    TokenStream::open(sources, Split::Train, tokenizer, cache.as_deref(), &Bar::default())
}

fn run_prepare(args: PrepareArgs, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(&args.common.tokenizer)?;
    let stream = open(&args.sources, &args.common, &tokenizer)?;
    writeln!(out, "{} documents, {} tokens", stream.documents(), stream.len())?;
    if let Some(prefix) = args.out {
        let paths =
            write_shards(&prefix, stream.len(), args.shard_tokens, |start, out| stream.fill(start, out))?;
        for path in paths {
            writeln!(out, "{}", path.display())?;
        }
    }
    Ok(())
}

fn run_inspect(args: InspectArgs, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(&args.common.tokenizer)?;
    let source = Source::parse(&args.source, Split::Train)?;
    let stream = open(std::slice::from_ref(&args.source), &args.common, &tokenizer)?;
    writeln!(out, "source       {source}")?;
    writeln!(
        out,
        "tokenizer    {} ({}, {} tokens)",
        args.common.tokenizer,
        tokenizer.kind(),
        tokenizer.vocab_size()
    )?;
    writeln!(out, "documents    {}", stream.documents())?;
    writeln!(out, "tokens       {}", stream.len())?;
    let counts = count(&stream);
    writeln!(
        out,
        "distinct     {} of the vocabulary's {} tokens occur",
        counts.len(),
        tokenizer.vocab_size()
    )?;

    let total = stream.len();
    let entropy = unigram_entropy(counts.values().copied());
    writeln!(
        out,
        "entropy      {entropy:.4} nats a token, perplexity {:.1}: the loss of a model that knows frequencies only",
        entropy.exp()
    )?;

    let block = args.block as usize;
    let blocks = Blocks::new(stream, block, None, &args.source)?;
    writeln!(
        out,
        "blocks       {} of {block} tokens, {} tokens left over",
        blocks.num_blocks(),
        blocks.unused_tokens()
    )?;
    if args.sample >= blocks.num_blocks() {
        return Err(format!(
            "data inspect: --sample {} is beyond the last block, {}",
            args.sample,
            blocks.num_blocks() - 1
        )
        .into());
    }
    let mut ids = vec![0; block];
    blocks.fill(args.sample, &mut ids);
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    writeln!(out, "block {:<6} {}", args.sample, tokenizer.decode(&ids)?.escape_debug())?;

    let mut frequent: Vec<(u32, u64)> = counts.into_iter().collect();
    frequent.sort_by_key(|&(id, count)| (Reverse(count), id));
    writeln!(out, "frequent     count   share   id  token")?;
    for (id, count) in frequent.into_iter().take(args.top) {
        let share = 100.0 * count as f64 / total as f64;
        let token = tokenizer.decode(&[id])?;
        writeln!(out, "      {count:>12} {share:>6.2}% {id:>5}  {token:?}")?;
    }
    Ok(())
}

/// -sum p ln p of the tokens' shares.
fn unigram_entropy(counts: impl Iterator<Item = u64>) -> f64 {
    // ln n - (1/n) sum c ln c, in an order that does not depend on the map's.
    let mut counts: Vec<u64> = counts.collect();
    counts.sort_unstable();
    let total: u64 = counts.iter().sum();
    let weighted: f64 = counts.iter().map(|&c| c as f64 * (c as f64).ln()).sum();
    (total as f64).ln() - weighted / total as f64
}

fn count(stream: &TokenStream) -> HashMap<u32, u64> {
    let mut counts = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    let mut start = 0;
    while start < stream.len() {
        let take = (stream.len() - start).min(buffer.len() as u64) as usize;
        stream.fill(start, &mut buffer[..take]);
        for &id in &buffer[..take] {
            *counts.entry(id as u32).or_default() += 1;
        }
        start += take as u64;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::unigram_entropy;

    #[test]
    fn entropies_by_hand() {
        // Shares 1/2, 1/4, 1/4: (1/2) ln 2 + (1/2) ln 4 = 1.5 ln 2; one token: 0; four alike: ln 4.
        for (counts, want) in
            [(vec![2, 1, 1], 1.5 * 2f64.ln()), (vec![7], 0.0), (vec![3, 3, 3, 3], 4f64.ln())]
        {
            let got = unigram_entropy(counts.iter().copied());
            assert!((got - want).abs() < 1e-12, "{counts:?}: {got}, want {want}");
        }
    }
}
