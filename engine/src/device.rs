//! Where a tensor's memory lives.

use std::collections::HashMap;
use std::sync::Mutex;

pub use handloom_kernels::device::{Driver, Gpu};
pub use handloom_kernels::error::Error as DeviceError;
pub use handloom_kernels::graph::Graph;
pub use handloom_kernels::ids::REPORT_BYTES;
pub use handloom_kernels::pinned::Pinned;

use crate::error::Result;

/// A device. Each op matches on it once, in `ops/<op>.rs`, and calls that device's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory; kernels in `cpu/`, parallel over rayon's threads.
    Cpu,
    /// A GPU, real or emulated; kernels in the crate `handloom-kernels`.
    Cuda(Cuda),
}

/// An open GPU. It stays open for the life of the process.
#[derive(Clone, Copy)]
pub struct Cuda(&'static Gpu);

impl Device {
    /// GPU `ordinal` of a driver, opened at the first call.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::error::Error::Cuda) when there is no such device, with the reason in one sentence.
    pub fn cuda(driver: Driver, ordinal: usize) -> Result<Device> {
        static OPEN: Mutex<Option<HashMap<(Driver, usize), &'static Gpu>>> = Mutex::new(None);
        let mut guard = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let open = guard.get_or_insert_with(HashMap::new);
        if let Some(gpu) = open.get(&(driver, ordinal)) {
            return Ok(Device::Cuda(Cuda(gpu)));
        }
        let gpu: &'static Gpu = Box::leak(Box::new(Gpu::open(driver, ordinal)?));
        open.insert((driver, ordinal), gpu);
        Ok(Device::Cuda(Cuda(gpu)))
    }

    /// The device of a name: `cpu`, `cuda`, `cuda:N`, `emulator`, or `auto`: the first GPU when there is one, else the CPU.
    /// An emulated GPU that stands in the library path is no GPU to `auto`.
    ///
    /// # Errors
    /// [`Error::Value`](crate::error::Error::Value) for another name, and as [`Device::cuda`] for a GPU that was asked for by name.
    pub fn named(name: &str) -> Result<Device> {
        match name {
            "cpu" => Ok(Device::Cpu),
            "emulator" => Device::emulator(),
            "auto" => Ok(match Device::cuda(Driver::Installed, 0) {
                Ok(Device::Cuda(gpu)) if !gpu.is_emulated() => Device::Cuda(gpu),
                _ => Device::Cpu,
            }),
            "cuda" => Device::cuda(Driver::Installed, 0),
            _ => match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
                Some(ordinal) => Device::cuda(Driver::Installed, ordinal),
                None => Err(crate::error::Error::value(
                    "device",
                    format!("`{name}` is no device; expected auto, cpu, cuda, cuda:N or emulator"),
                )),
            },
        }
    }

    /// Waits until everything enqueued on a GPU is done.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::error::Error::Cuda) when a kernel failed.
    pub fn synchronize(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(gpu) => Ok(gpu.gpu().synchronize()?),
        }
    }

    /// The emulated GPU.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    pub fn emulator() -> Result<Device> {
        Device::cuda(Driver::Emulated, 0)
    }
}

impl Cuda {
    pub fn gpu(self) -> &'static Gpu {
        self.0
    }
}

impl PartialEq for Cuda {
    fn eq(&self, other: &Cuda) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Cuda {}

impl std::ops::Deref for Cuda {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        self.0
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Device::Cuda(*self))
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(gpu) if gpu.is_emulated() => f.write_str("emulator"),
            Device::Cuda(gpu) => write!(f, "cuda:{}", gpu.ordinal()),
        }
    }
}
