//! `libcuda.so`: a CUDA driver whose one device is the emulated GPU.
//!
//! It exports the part of the CUDA driver API that programs use to allocate, copy, load PTX and launch; work is done
//! when it is submitted, so streams and events are always complete. What is not supported returns
//! `CUDA_ERROR_NOT_SUPPORTED` and says so once on standard error. A launch with a finding returns the error that
//! hardware would report, and the context keeps it, as on hardware, until the primary context is reset.
//!
//! The environment variable `HANDLOOM_EMULATOR` holds options, `arch=sm_80,checks=all,schedule=random,seed=7`, and
//! `report=PATH` for findings and counters as JSON, one launch to a line.
//!
//! Every exported function follows the contract of the CUDA driver API: pointers are null or valid for what the API
//! says is read or written through them. That is the fact every `unsafe` block here relies on.
#![allow(non_snake_case)] // the names are the API's
#![allow(clippy::missing_safety_doc)] // the API's contract, stated above

mod device;
mod errors;
mod events;
mod launch;
mod memory;
mod modules;
mod procs;
mod state;
mod unsupported;
