//! Training on the emulated GPU, all its checks on: against the CPU step by step, as a graph and kernel by kernel, and resumed.
//!
//! In a process of its own: whatever else ran on the device would become part of what is captured.

mod calls;
mod generate;
mod ids;
mod masked;
mod memory;
mod resume;
mod run;
mod scaling;
mod steps;
