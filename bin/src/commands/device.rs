//! The options that choose where, and how exactly, to compute.

use clap::Args;
use handloom_engine::device::Device;
use handloom_model::error::Error;
use handloom_model::params::{Params, Precision};

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

/// `--device` and `--precision`, for commands that run a trained model.
#[derive(Args, Debug, Clone)]
pub struct ComputeArg {
    #[command(flatten)]
    device: DeviceArg,
    /// What to compute in: fp32, tf32 (on a GPU), bf16 or fp16
    #[arg(long, default_value = "fp32")]
    precision: Precision,
}

/// Adds to an out-of-memory error what the user can change.
pub fn advise_on_memory(error: Error) -> Error {
    match error {
        Error::Engine(e) if e.is_out_of_memory() => Error::Run(format!(
            "{e}. Use half precision (--precision bf16), fewer rows at a time (eval --batch), or the CPU (--device cpu)"
        )),
        other => other,
    }
}

impl ComputeArg {
    /// Moves a model's parameters to the device, in the precision.
    ///
    /// # Errors
    /// When the device is not there, has no room, or cannot compute in the precision.
    pub fn place(&self, params: &mut Params) -> Result<Device, Error> {
        let device = self.device.open()?;
        self.precision.check_device(device)?;
        params.set_precision(self.precision)?;
        params.to_device(device).map_err(|e| advise_on_memory(e.into()))?;
        if let Device::Cuda(gpu) = device {
            gpu.gpu().set_tf32(self.precision == Precision::Tf32);
        }
        Ok(device)
    }
}
