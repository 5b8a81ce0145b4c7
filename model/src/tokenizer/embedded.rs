//! The tokenizers inside the binary: GPT-2's, and byte-level BPEs and a WordPiece trained on the Austen corpus.

use std::io::Read;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper};

use super::{Tokenizer, TokenizerError};

/// The names that [`Tokenizer::embedded`] knows.
pub const EMBEDDED: [&str; 4] = ["austen", "austen-2048", "austen-wordpiece", "gpt2"];

const GPT2_MERGES: &[u8] = include_bytes!("../../../data/gpt2-merges.txt.zst");
const AUSTEN_4096: &[u8] = include_bytes!("../../../data/austen-bpe-4096.json.zst");
const AUSTEN_2048: &[u8] = include_bytes!("../../../data/austen-bpe-2048.json.zst");
const AUSTEN_WORDPIECE: &[u8] = include_bytes!("../../../data/austen-wordpiece-4096.json.zst");

impl Tokenizer {
    /// An embedded tokenizer: `gpt2` (50,257 tokens), `austen` (4,096 tokens), `austen-2048`, or for
    /// BERT `austen-wordpiece` (4,096 tokens, lower case).
    ///
    /// # Errors
    /// `UnknownName`.
    pub fn embedded(name: &str) -> Result<Self, TokenizerError> {
        match name {
            "gpt2" => Self::new(gpt2(&unpack(GPT2_MERGES))?),
            "austen" => from_json(AUSTEN_4096),
            "austen-2048" => from_json(AUSTEN_2048),
            "austen-wordpiece" => from_json(AUSTEN_WORDPIECE),
            _ => Err(TokenizerError::UnknownName { name: name.to_owned(), known: EMBEDDED.join(", ") }),
        }
    }
}

fn from_json(compressed: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let inner = tokenizers::Tokenizer::from_bytes(unpack(compressed))
        .map_err(TokenizerError::library("read the embedded tokenizer"))?;
    Tokenizer::new(inner)
}

/// Decompresses an embedded zstd file.
pub(crate) fn unpack(compressed: &[u8]) -> String {
    let mut text = String::new();
    ruzstd::decoding::StreamingDecoder::new(compressed)
        .map_err(std::io::Error::other)
        .and_then(|mut decoder| decoder.read_to_string(&mut text))
        .expect("bug in handloom-model: an embedded file decompresses");
    text
}

/// GPT-2's tokenizer from its merges alone: the vocabulary is the 256 bytes in the order of GPT-2's byte alphabet,
/// then the result of each merge, then `<|endoftext|>`.
fn gpt2(merges: &str) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let merges: Vec<(String, String)> = merges
        .lines()
        .filter(|line| !line.starts_with("#version"))
        .filter_map(|line| line.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let end_of_text = "<|endoftext|>".to_owned();
    tokens.push(end_of_text.clone());
    let vocab: std::collections::HashMap<String, u32> = tokens.into_iter().zip(0..).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .build()
        .map_err(TokenizerError::library("build GPT-2's tokenizer"))?;

    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::BPE(bpe));
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(ByteLevel::default().trim_offsets(false)))
        .with_decoder(Some(ByteLevel::default()));
    tokenizer
        .add_special_tokens([AddedToken::from(end_of_text, true).normalized(true)])
        .map_err(TokenizerError::library("build GPT-2's tokenizer"))?;
    Ok(tokenizer)
}

/// The character that stands for each byte in a byte-level vocabulary, in GPT-2's order: the printable bytes as
/// themselves, then the others as U+0100, U+0101, ... (Radford et al. 2019, `bytes_to_unicode`).
fn byte_alphabet() -> Vec<char> {
    let by_byte = byte_alphabet_by_byte();
    let (others, printable): (Vec<char>, Vec<char>) = by_byte.iter().partition(|&&c| c >= '\u{100}');
    [printable, others].concat()
}

/// [`byte_alphabet`], indexed by the byte.
pub(super) fn byte_alphabet_by_byte() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(printable),
        _ => others.next().expect("bug in handloom-model: there are more than 68 characters"),
    })
}
