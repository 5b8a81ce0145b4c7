//! The error type of the model crate: everything a user can cause, as one sentence.

use std::path::{Path, PathBuf};

use crate::data::DataError;
use crate::tokenizer::TokenizerError;

/// What can go wrong between a configuration and a trained model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Engine(#[from] handloom_engine::error::Error),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A configuration key or value that cannot be.
    #[error("configuration: {0}")]
    Config(String),
    /// A file that could not be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A file whose contents are not what they should be.
    #[error("{path}: {problem}", path = path.display())]
    File { path: PathBuf, problem: String },
    /// Something about a run that stops it, with what to do.
    #[error("{0}")]
    Run(String),
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<handloom_engine::device::DeviceError> for Error {
    fn from(error: handloom_engine::device::DeviceError) -> Self {
        Error::Engine(error.into())
    }
}

impl Error {
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), problem: problem.into() }
    }
}
