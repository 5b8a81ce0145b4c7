//! Checks of launchers on a device, beside those of the ops that use them: what this crate's tests and `handloom selftest` run.

pub mod matmul;
pub mod reference;
