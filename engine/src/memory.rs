//! The memory behind a tensor, on whichever device.

use handloom_kernels::arena::Buffer;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Memory of one tensor or of several views of it.
pub(crate) enum Memory {
    Cpu(Storage),
    Cuda(Buffer),
}

impl Memory {
    /// Room for `numel` elements, with unspecified contents.
    pub fn new(numel: usize, dtype: DType, device: Device) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Memory::Cpu(Storage::new(numel * dtype.size())),
            Device::Cuda(cuda) => Memory::Cuda(cuda.gpu().buffer(dtype.elem(), numel)?),
        })
    }

    fn elsewhere(&self, op: &'static str, expected: &str) -> Error {
        let got = match self {
            Memory::Cpu(_) => "cpu".to_string(),
            Memory::Cuda(buffer) => buffer.gpu().name().to_string(),
        };
        Error::Device { op, expected: expected.to_string(), got }
    }

    /// Host bytes.
    pub fn bytes(&self, op: &'static str) -> Result<&[u8]> {
        match self {
            Memory::Cpu(storage) => Ok(storage.as_bytes()),
            Memory::Cuda(_) => Err(self.elsewhere(op, "cpu")),
        }
    }

    /// Host bytes, writable.
    pub fn bytes_mut(&mut self, op: &'static str) -> Result<&mut [u8]> {
        match self {
            Memory::Cpu(storage) => Ok(storage.as_bytes_mut()),
            Memory::Cuda(_) => Err(self.elsewhere(op, "cpu")),
        }
    }

    /// The device's buffer.
    pub fn buffer(&self, op: &'static str) -> Result<&Buffer> {
        match self {
            Memory::Cuda(buffer) => Ok(buffer),
            Memory::Cpu(_) => Err(self.elsewhere(op, "a GPU")),
        }
    }

    /// The device's buffer, writable.
    pub fn buffer_mut(&mut self, op: &'static str) -> Result<&mut Buffer> {
        match self {
            Memory::Cuda(buffer) => Ok(buffer),
            Memory::Cpu(_) => Err(self.elsewhere(op, "a GPU")),
        }
    }
}
