//! The crate's one error type: what a caller or a PTX file can get wrong before a kernel runs.
//!
//! What goes wrong while a kernel runs is a [`crate::Finding`] in the launch's report, not an error.

/// Result of the crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong outside a running kernel.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The PTX text is malformed, or uses a form this emulator does not know.
    #[error("PTX line {line}: {message}")]
    Parse { line: u32, message: String },
    /// A launch that the architecture or the kernel's declaration does not allow.
    #[error("launch of {kernel}: {message}")]
    Launch { kernel: String, message: String },
    /// A host access or allocation that is not valid.
    #[error("device memory: {0}")]
    Memory(String),
    /// An option with a value that is not known.
    #[error("options: {0}")]
    Options(String),
}
