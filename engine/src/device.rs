//! Where a tensor's memory lives.

/// A device. Each op matches on it once, in `ops/<op>.rs`, and calls that device's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory; kernels in `cpu/`, parallel over rayon's threads.
    Cpu,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
        }
    }
}
