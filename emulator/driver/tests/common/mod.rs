//! Opens the driver that is built next to the test.
//!
//! The library is opened by its path first; its soname makes cudarc find it under the name libcuda.so.
#![allow(dead_code)] // each test file uses its own part

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cudarc::driver::CudaContext;

/// Where libcuda.so lies: next to the test, or one above.
pub fn path() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let places = test.ancestors().skip(1).take(2).map(|p| p.join("libcuda.so"));
    places.into_iter().find(|p| p.exists()).expect("libcuda.so is built with the test")
}

/// Opens the library, once; it stays open.
pub fn driver() -> &'static libloading::Library {
    static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: our own library, whose initialisation does nothing.
        unsafe { libloading::Library::new(path()) }.unwrap()
    })
}

pub fn context() -> Arc<CudaContext> {
    driver();
    CudaContext::new(0).unwrap()
}
