//! Dynamic loss scaling and the numbers of an AdamW step, decided on the device.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::optimizer::{Settings, State};
use crate::slice::{Arg, Slice, SliceMut};

/// From the norm of the scaled gradients: whether the step counts, its learning rate, clip factor and bias corrections, and the next
/// loss scale. The rules are in `loss_scaler.cu`.
///
/// # Shapes
/// state: [`State::WORDS`] i32; loss_scale: one f32; settings: [`Settings::DOUBLES`] f64; rates: f64, at least one; norm: one f64.
/// An f64 is two i32 words.
///
/// # Errors
/// [`Error::Argument`] when an array is too short, of another dtype or not at a multiple of 8 bytes.
pub fn update(
    gpu: &Gpu,
    state: SliceMut,
    loss_scale: SliceMut,
    settings: Slice,
    rates: Slice,
    norm: Slice,
) -> Result<()> {
    const OP: &str = "loss_scaler_update";
    state.expect(OP, "state", Elem::I32, State::WORDS)?;
    loss_scale.expect(OP, "loss_scale", Elem::F32, 1)?;
    settings.expect(OP, "settings", Elem::I32, 2 * Settings::DOUBLES)?;
    rates.expect(OP, "rates", Elem::I32, 2)?;
    norm.expect(OP, "norm", Elem::I32, 2)?;
    if !state.is_aligned(8) || ![settings, rates, norm].iter().all(|array| array.is_aligned(8)) {
        return Err(Error::argument(OP, "arrays of f64 must start at a multiple of 8 bytes".into()));
    }
    let args = [Arg::from(&state), (&loss_scale).into(), settings.into(), rates.into(), norm.into()];
    gpu.launch(OP, [1, 1, 1], [1, 1, 1], 0, &args)
}

/// counter (one i32) += 1: the step of a generator's stream, which moves with every micro-batch.
///
/// # Errors
/// [`Error::Argument`] when the counter is not i32.
pub fn advance(gpu: &Gpu, counter: SliceMut) -> Result<()> {
    const OP: &str = "loss_scaler_advance";
    counter.expect(OP, "counter", Elem::I32, 1)?;
    gpu.launch(OP, [1, 1, 1], [1, 1, 1], 0, &[Arg::from(&counter)])
}
