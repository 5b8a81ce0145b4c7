//! The interpreter: warps of 32 lanes, blocks of warps, and the instructions that are more than lane by lane.

mod access;
mod accumulate;
mod async_copy;
mod atomics;
mod barrier;
mod bulk;
mod cluster;
mod engine;
pub mod fast;
mod float;
mod format;
mod fragments;
mod global_order;
mod hopper;
mod integer;
mod interpret;
pub mod lanes;
mod matrix;
mod mbarrier;
mod print;
pub(crate) mod rows;
pub mod scalar;
mod schedule;
mod shared;
pub mod soft;
mod state;
mod tensor;
mod tensor_copy;
pub mod trace;
mod transfer;
pub mod video;
mod warp_ops;
mod wgmma;

pub use engine::{Launch, Spare, run};
