//! The `[data]` section of a configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Blocks, DataError, Layout, Progress, Split, TokenStream, default_cache_dir};
use crate::tokenizer::Tokenizer;

/// What to train and validate on, and how it is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Sources to train on: `embedded:austen`, text files, `.jsonl` files, llm.c `.bin` shards.
    pub train: Vec<String>,
    /// Sources to validate on; none means no validation. `embedded:austen` is the held-out part here.
    pub valid: Vec<String>,
    /// Tokens in a block, at least 2: a block of n tokens gives n - 1 predictions.
    pub block: usize,
    /// Whether each epoch has an order of its own, from the seed.
    pub shuffle: bool,
    /// Use only the first so many blocks of the training data.
    pub max_blocks: Option<usize>,
    /// Use only the first so many blocks of the validation data.
    pub max_valid_blocks: Option<usize>,
    /// Directory for the token cache; the platform's cache directory without it.
    pub cache: Option<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: vec!["embedded:austen".to_owned()],
            valid: vec!["embedded:austen".to_owned()],
            block: 128,
            shuffle: true,
            max_blocks: None,
            max_valid_blocks: None,
            cache: None,
        }
    }
}

impl DataConfig {
    /// Checks the values that need no file.
    ///
    /// # Errors
    /// `OutOfRange`, `NoSource`.
    pub fn validate(&self) -> Result<(), DataError> {
        let range = |key, value: String, expected| DataError::OutOfRange { key, value, expected };
        if self.train.is_empty() {
            return Err(DataError::NoSource);
        }
        if self.block < 2 {
            return Err(range(
                "block",
                self.block.to_string(),
                "at least 2 tokens: one to see, one to predict",
            ));
        }
        for (key, max) in [("max_blocks", self.max_blocks), ("max_valid_blocks", self.max_valid_blocks)] {
            if max == Some(0) {
                return Err(range(key, "0".to_owned(), "at least 1, or no such key for all blocks"));
            }
        }
        Ok(())
    }

    /// The cache directory in force.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(default_cache_dir)
    }

    /// The training blocks.
    ///
    /// # Errors
    /// Those of [`DataConfig::validate`], [`TokenStream::open`] and [`Blocks::new`].
    pub fn open_train(&self, tokenizer: &Tokenizer, progress: &dyn Progress) -> Result<Blocks, DataError> {
        self.open_train_as(Layout::Plain, tokenizer, progress)
    }

    /// As [`DataConfig::open_train`], laid out otherwise.
    pub fn open_train_as(
        &self,
        layout: Layout,
        tokenizer: &Tokenizer,
        progress: &dyn Progress,
    ) -> Result<Blocks, DataError> {
        self.validate()?;
        let stream =
            TokenStream::open(&self.train, Split::Train, tokenizer, self.cache_dir().as_deref(), progress)?;
        let what = "the training data (data.train)";
        Blocks::with_layout(stream, self.block, self.max_blocks, what, layout)
    }

    /// The validation blocks; `None` when `data.valid` is empty.
    ///
    /// # Errors
    /// Those of [`DataConfig::open_train`].
    pub fn open_valid(
        &self,
        tokenizer: &Tokenizer,
        progress: &dyn Progress,
    ) -> Result<Option<Blocks>, DataError> {
        self.open_valid_as(Layout::Plain, tokenizer, progress)
    }

    /// As [`DataConfig::open_valid`], laid out otherwise.
    pub fn open_valid_as(
        &self,
        layout: Layout,
        tokenizer: &Tokenizer,
        progress: &dyn Progress,
    ) -> Result<Option<Blocks>, DataError> {
        self.validate()?;
        if self.valid.is_empty() {
            return Ok(None);
        }
        let stream =
            TokenStream::open(&self.valid, Split::Valid, tokenizer, self.cache_dir().as_deref(), progress)?;
        let what = "the validation data (data.valid)";
        Blocks::with_layout(stream, self.block, self.max_valid_blocks, what, layout).map(Some)
    }
}
