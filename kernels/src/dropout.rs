//! Dropout whose mask is drawn again in backward, never stored.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};

const APPLY: [&str; 3] = ["dropout_apply_f32", "dropout_apply_f16", "dropout_apply_bf16"];

/// Where the draws come from: Philox 4x32-10 at (seed, stream, step).
#[derive(Clone, Copy, Debug)]
pub struct Draws<'a> {
    pub seed: u64,
    pub stream: u32,
    /// Added to the step in device memory, if there is one.
    pub step: u32,
    /// One i32 on the device, so that a captured graph draws new masks each time it runs.
    pub device_step: Option<Slice<'a>>,
}

/// out = inp * (0 with probability `drop_prob`, else 1 / (1 - drop_prob)), or out += that; the backward is the same on the gradient.
///
/// # Errors
/// [`Error::Argument`] when lengths or dtypes differ, or unless 0 <= drop_prob < 1.
pub fn apply(
    gpu: &Gpu,
    out: SliceMut,
    inp: Slice,
    drop_prob: f32,
    draws: Draws,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "dropout_apply";
    let (elem, count) = (out.elem(), out.len());
    let entry = elem.pick(OP, APPLY)?;
    inp.expect(OP, "inp", elem, count)?;
    if !(0.0..1.0).contains(&drop_prob) {
        return Err(Error::argument(OP, format!("drop_prob is {drop_prob}, expected 0 <= drop_prob < 1")));
    }
    if let Some(step) = draws.device_step {
        step.expect(OP, "device_step", Elem::I32, 1)?;
    }
    if count == 0 {
        return Ok(());
    }
    let vectors = grid::vectors(count, elem.size(), grid::aligned(&out, &[inp]));
    let args = [
        Arg::from(&out),
        inp.into(),
        Arg::optional(draws.device_step),
        Arg::U64(count as u64),
        Arg::U64(vectors as u64),
        Arg::U64(draws.seed),
        Arg::U32(draws.stream),
        Arg::U32(draws.step),
        // A draw has 24 bits.
        Arg::U32((drop_prob * 16_777_216.0) as u32),
        Arg::F32(1.0 / (1.0 - drop_prob)),
        Arg::U32(accumulate as u32),
    ];
    gpu.launch(entry, grid::walk(count, vectors, elem.size()), grid::BLOCK, 0, &args)
}

/// out (a multiple of 4 words) = the draws of a stream from `first` on, for comparing generators.
///
/// # Errors
/// [`Error::Argument`] when `out` is not i32 or not whole draws.
pub fn philox_fill(gpu: &Gpu, out: SliceMut, first: u64, draws: Draws) -> Result<()> {
    const OP: &str = "philox_fill";
    let count = out.len() / 4;
    out.expect(OP, "out", Elem::I32, 4 * count)?;
    if !out.len().is_multiple_of(4) || !out.is_aligned(16) {
        return Err(Error::argument(
            OP,
            format!("out holds {} words, not whole aligned draws of 4", out.len()),
        ));
    }
    let args = [
        Arg::from(&out),
        Arg::U64(first),
        Arg::U64(count as u64),
        Arg::U64(draws.seed),
        Arg::U32(draws.stream),
        Arg::U32(draws.step),
    ];
    gpu.launch(OP, grid::linear(count), grid::BLOCK, 0, &args)
}
