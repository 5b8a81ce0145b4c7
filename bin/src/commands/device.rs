//! The option that chooses a device.

use clap::Args;
use handloom_engine::device::Device;

/// `--device`, as every command takes it.
#[derive(Args, Debug, Clone)]
pub struct DeviceArg {
    /// auto (a GPU when there is one), cpu, cuda, cuda:N, or emulator (the kernels on an emulated GPU: slow, and strict)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
}

impl DeviceArg {
    /// Opens the device.
    ///
    /// # Errors
    /// When the name is none of these, or the device is not there.
    pub fn open(&self) -> Result<Device, handloom_engine::error::Error> {
        Device::named(&self.device)
    }
}
