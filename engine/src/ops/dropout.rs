//! Dropout (Srivastava et al. 2014), scaled at training time.

use handloom_kernels::dropout as launcher;

use crate::cpu::dropout as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::philox::Stream;
use crate::tape::record;
use crate::tensor::Tensor;

/// out[i] = 0 with probability `drop_prob`, else inp[i] / (1 - drop_prob). Element i uses word i % 4 of draw i / 4 of
/// `stream`; nothing is saved, backward draws again.
///
/// # Errors
/// [`Error::Value`] unless 0 <= drop_prob < 1; [`Error::DType`] when `inp` is not a float tensor.
pub fn dropout(inp: &Tensor, drop_prob: f32, stream: Stream) -> Result<Tensor> {
    let _time = crate::profile::scope("dropout", crate::profile::Pass::Forward);
    check_drop_prob("dropout", drop_prob)?;
    if drop_prob == 0.0 {
        return Ok(inp.clone());
    }
    let inp = inp.to_contiguous()?;
    let out = apply(&inp, drop_prob, stream)?;
    let id = inp.grad_id();
    Ok(record("dropout", &[&inp], out, move |dout, grads| grads.add(id, apply(&dout, drop_prob, stream)?)))
}

pub(crate) fn check_drop_prob(op: &'static str, drop_prob: f32) -> Result<()> {
    if (0.0..1.0).contains(&drop_prob) {
        return Ok(());
    }
    Err(Error::value(op, format!("drop_prob is {drop_prob}, expected 0 <= drop_prob < 1")))
}

fn apply(inp: &Tensor, drop_prob: f32, stream: Stream) -> Result<Tensor> {
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    match inp.device() {
        Device::Cpu => dispatch_float!(inp.dtype(), "dropout", "inp", |E| {
            kernel::apply(out.slice_mut::<E>()?, inp.slice::<E>()?, drop_prob, stream, false);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            let Stream { seed, stream, step } = stream;
            let draws = launcher::Draws { seed, stream, step, device_step: Some(gpu.draw_step()) };
            launcher::apply(&gpu, out.cuda_slice_mut()?, inp.cuda_slice()?, drop_prob, draws, false)?;
        }
    }
    Ok(out)
}
