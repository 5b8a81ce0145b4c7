//! What can go wrong with a tokenizer.

use std::path::PathBuf;

/// An error of a [`Tokenizer`](super::Tokenizer).
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// No embedded tokenizer of that name.
    #[error("tokenizer: no embedded tokenizer is called \"{name}\"; there are {known}")]
    UnknownName { name: String, known: String },

    /// Neither an embedded tokenizer nor a file.
    #[error("tokenizer \"{name}\": no such file or directory, and the embedded tokenizers are {known}")]
    NotFound { name: String, known: String },

    /// The file could not be read.
    #[error("tokenizer {}: cannot read it: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    /// A directory without a tokenizer in it.
    #[error("tokenizer {}: the directory holds neither tokenizer.json nor vocab.txt", path.display())]
    NoTokenizerIn { path: PathBuf },

    /// The file is not what it should be.
    #[error("tokenizer {}: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },

    /// The file could not be written.
    #[error("tokenizer {}: cannot write it: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    /// An id outside the vocabulary.
    #[error(
        "tokenizer: id {id} at position {position} is not in the vocabulary of {vocab_size} tokens; \
         these ids were made with another tokenizer"
    )]
    UnknownId { id: u32, position: usize, vocab_size: usize },

    /// Training cannot work with what it was given.
    #[error("tokenizer training: {problem}")]
    Training { problem: String },

    /// The `tokenizers` crate refused.
    #[error("tokenizer: cannot {what}: {message}")]
    Library { what: &'static str, message: String },
}

impl TokenizerError {
    /// Wraps an error of the `tokenizers` crate; `what` completes "cannot ...".
    pub(super) fn library(what: &'static str) -> impl Fn(tokenizers::Error) -> TokenizerError {
        move |source| TokenizerError::Library { what, message: source.to_string() }
    }
}
