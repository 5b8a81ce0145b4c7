//! One file per subcommand: its arguments, and what it prints.

pub mod bench;
pub mod data;
pub mod device;
pub mod doctor;
mod download;
pub mod emulate;
pub mod eval;
pub mod fill;
pub mod generate;
pub mod ops;
pub mod output;
mod progress;
pub mod selftest;
pub mod tokenizer;
pub mod train;

/// What a command can fail with: a sentence for the user.
pub type CommandResult = Result<(), Box<dyn std::error::Error>>;
