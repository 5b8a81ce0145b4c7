//! Shared helpers of the whole-program tests.

pub mod close;
pub mod oracle;
