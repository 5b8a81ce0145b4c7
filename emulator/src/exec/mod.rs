//! The interpreter: warps of 32 lanes, blocks of warps, and the instructions that are more than lane by lane.

mod access;
mod async_copy;
mod atomics;
mod barrier;
mod engine;
pub mod fast;
mod interpret;
pub mod lanes;
mod print;
mod rows;
pub mod scalar;
mod schedule;
pub mod soft;
mod state;
mod tensor;
mod warp_ops;

pub use engine::{Launch, run};
