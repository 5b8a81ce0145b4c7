//! Shared helpers of the whole-program tests.

pub mod goldens;

pub use handloom_engine::check::{close, oracle};
