//! Which drivers there are, and whether one can be used.

use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::driver::{result, sys};

use super::call::Call;
use crate::error::{Error, Result};

/// Which driver to open a device of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// The machine's own.
    Installed,
    /// The emulated one: `libcuda.so` beside the running program.
    Emulated,
}

pub(super) fn unavailable(reason: impl Into<String>) -> Error {
    Error::Unavailable { reason: reason.into() }
}

/// Opens the emulated driver's library, so that the binding finds it under its soname from then on.
fn load_emulated() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<libloading::Library, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        // A test runs in target/<profile>/deps, an example in target/<profile>/examples.
        let folders: Vec<PathBuf> = program.ancestors().skip(1).take(2).map(PathBuf::from).collect();
        let path = folders.iter().map(|folder| folder.join("libcuda.so")).find(|path| path.exists());
        let path = path.ok_or_else(|| {
            format!(
                "no libcuda.so in {} or its parent; build it with `cargo build -p handloom-emulator-driver`",
                folders.first().map_or_else(String::new, |folder| folder.display().to_string())
            )
        })?;
        // SAFETY: the library is this project's own emulated driver; loading it runs no code of consequence.
        unsafe { libloading::Library::new(&path) }.map_err(|error| error.to_string())
    });
    loaded.as_ref().map(|_| ()).map_err(|reason| unavailable(format!("the emulated driver: {reason}")))
}

/// Number of devices of a driver.
///
/// # Errors
/// [`Error::Unavailable`] with one sentence that says what is missing.
pub fn device_count(driver: Driver) -> Result<usize> {
    if driver == Driver::Emulated {
        load_emulated()?;
    }
    // SAFETY: only looks for the library; nothing of it is called yet.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable("no NVIDIA driver (libcuda.so) on this machine"));
    }
    result::init().call("cuInit").map_err(|error| unavailable(error.to_string()))?;
    let count = result::device::get_count().call("cuDeviceGetCount")?;
    if count == 0 {
        return Err(unavailable("the driver is there but has no device"));
    }
    Ok(count as usize)
}

/// Newest CUDA version the driver supports: 12040 for 12.4.
///
/// # Errors
/// As [`device_count`].
pub fn driver_version(driver: Driver) -> Result<i32> {
    device_count(driver)?;
    let mut version = 0;
    // SAFETY: the driver is there and `version` is a valid place for its answer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().call("cuDriverGetVersion")?;
    Ok(version)
}
