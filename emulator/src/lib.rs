//! Runs CUDA kernels, as PTX text, on the CPU: stricter than hardware, and counting as a profiler does.
//!
//! [`Module::parse`] reads PTX and lowers each kernel; [`Device`] has global memory and launches kernels, and every
//! launch gives a [`LaunchReport`]: what the kernel did wrong ([`Finding`]) and what it did ([`Counters`]). It knows
//! nothing of any particular kernel. Results are bit-exact where the PTX ISA defines them; where it allows an error
//! (`ex2.approx` and its kin, tensor cores) the arithmetic is stated in [`exec::scalar`] and in the module of
//! tensor-core instructions. It says nothing about time.
//!
//! Supported is the sm_80 instruction set as listed in [`ptx::table`]; an unknown form is an error that names it and
//! its line.

pub mod arch;
pub mod check;
mod code;
pub mod counters;
mod device;
mod error;
pub mod exec;
mod lower;
pub mod memory;
mod module;
mod options;
pub mod ptx;

pub use arch::Arch;
pub use check::{Finding, Kind as FindingKind};
pub use code::Class;
pub use counters::{Count, Counters, Sums};
pub use device::{Arg, Device, LaunchConfig, LaunchReport, Loaded};
pub use error::{Error, Result};
pub use module::{Kernel, Module, Param};
pub use options::{AsyncTiming, Checks, Options, Schedule};
