//! `libcuda.so`: a CUDA driver whose one device is the emulated GPU.
//!
//! It exports every function of the CUDA driver API; docs/src/emulator.md lists those that work. Work is done when it is
//! submitted, so streams and events are always complete; in a capture it becomes a node of a graph. What is not
//! supported returns `CUDA_ERROR_NOT_SUPPORTED` and says so once on standard error. A launch with a finding returns the
//! error that hardware would report, and the context keeps it, as on hardware, until it is destroyed or reset.
//!
//! The environment variable `HANDLOOM_EMULATOR` holds options, `arch=sm_80,checks=all,schedule=random,seed=7`, and
//! `report=PATH` for findings and counters as JSON, one launch to a line.
//!
//! Every exported function follows the contract of the CUDA driver API: pointers are null or valid for what the API
//! says is read or written through them. That is the fact every `unsafe` block here relies on; most are in `ffi.rs`.
#![allow(non_snake_case)] // the names are the API's
#![allow(improper_ctypes_definitions)] // [u8; 16] of a UUID is behind a pointer

mod batches;
mod capture;
mod context;
mod copy;
mod device;
mod errors;
mod events;
mod export_tables;
mod ffi;
mod fills;
mod functions;
mod graph;
mod hints;
mod host_memory;
mod image;
mod launch;
mod library;
mod linker;
mod memory;
mod modules;
mod occupancy;
mod older_forms;
mod ops;
mod per_thread;
mod pointers;
mod pools;
mod procs;
mod state;
mod stream_values;
mod streams;
mod tensormap;
mod unsupported;
mod virtual_memory;
