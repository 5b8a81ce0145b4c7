//! What can go wrong with training data.

use std::path::PathBuf;

use crate::tokenizer::TokenizerError;

/// An error of the data pipeline.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("data {}: cannot read it: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("data {}: cannot write it: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error(
        "data {}: is a directory; name the files in it (text, .jsonl, or llm.c .bin shards), \
         for example data.train=[\"{}/a.txt\"]",
        path.display(), path.display()
    )]
    Directory { path: PathBuf },

    #[error(
        "data {}: is a pipe or a device, and data is read more than once; write it to a file first",
        path.display()
    )]
    NotAFile { path: PathBuf },

    #[error("data \"{name}\": there is no such embedded corpus; the one there is: embedded:austen")]
    UnknownCorpus { name: String },

    #[error("data {}: the file is empty", path.display())]
    EmptyFile { path: PathBuf },

    #[error(
        "data {}: not UTF-8 at byte offset {offset} (byte {byte:#04x}); convert the file to UTF-8, \
         or name it .bin if it is a token shard",
        path.display()
    )]
    NotUtf8 { path: PathBuf, offset: u64, byte: u8 },

    #[error("data {}, line {line}: {problem}; expected one JSON object a line with a \"text\" string", path.display())]
    JsonLine { path: PathBuf, line: u64, problem: String },

    #[error("data {}: {problem}", path.display())]
    Shard { path: PathBuf, problem: String },

    #[error(
        "data {}: token {position} is id {id}, beyond the tokenizer's {vocab_size} tokens; \
         the shard was made with another tokenizer",
        path.display()
    )]
    IdBeyondVocabulary { path: PathBuf, position: u64, id: u32, vocab_size: usize },

    #[error("data {}: changed while it was being read; run again when nothing writes to it", path.display())]
    Changed { path: PathBuf },

    #[error("data: no source named; set data.train to files or to [\"embedded:austen\"]")]
    NoSource,

    #[error(
        "data: {what} holds {tokens} tokens, fewer than one block of {block}; \
         give more text or a smaller data.block"
    )]
    ShorterThanBlock { what: String, tokens: u64, block: usize },

    #[error("data.{key} is {value}; expected {expected}")]
    OutOfRange { key: &'static str, value: String, expected: &'static str },

    #[error("{0}")]
    Tokenizer(#[from] TokenizerError),
}
