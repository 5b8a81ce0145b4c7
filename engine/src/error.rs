//! One error type for the engine; every message names the op, what it expected and what it got.

use crate::dtype::DType;

/// What can go wrong in an engine call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sizes that do not fit together, or are outside what the op supports.
    #[error("{op}: {message}")]
    Shape { op: &'static str, message: String },
    /// A dtype the op does not take in this position.
    #[error("{op}: {what} has dtype {got}, expected {expected}")]
    DType { op: &'static str, what: &'static str, expected: &'static str, got: DType },
    /// A value outside its range (a token id, a probability, a target).
    #[error("{op}: {message}")]
    Value { op: &'static str, message: String },
    /// An op without a backward was used on something that needs a gradient.
    #[error(
        "{op}: has no backward, but its input needs a gradient; \
         use it outside the tape (Tensor::detach) or write its backward"
    )]
    NoBackward { op: &'static str },
    /// A tensor is on another device than the op or the caller needs.
    #[error("{op}: the tensor is on {got}, expected {expected}; move it with Tensor::to_device")]
    Device { op: &'static str, expected: String, got: String },
    /// From a GPU, its driver or a launcher.
    #[error(transparent)]
    Cuda(#[from] handloom_kernels::error::Error),
    /// Misuse of the tape itself.
    #[error("tape: {0}")]
    Tape(String),
}

/// Shorthand used throughout the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A shape error, from anything printable.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }

    /// Whether a GPU had no room for a tensor.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::Cuda(handloom_kernels::error::Error::OutOfMemory { .. }))
    }

    /// A value error, from anything printable.
    pub fn value(op: &'static str, message: impl Into<String>) -> Self {
        Error::Value { op, message: message.into() }
    }
}
