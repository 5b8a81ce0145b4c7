//! GELU in its two forms.

use crate::device::Gpu;
use crate::error::Result;
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};

const FORWARD: [&str; 3] = ["gelu_forward_f32", "gelu_forward_f16", "gelu_forward_bf16"];
const BACKWARD: [&str; 3] = ["gelu_backward_f32", "gelu_backward_f16", "gelu_backward_bf16"];

/// Which form of the function; the numbers are those of `gelu.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Tanh = 0,
    Erf = 1,
}

/// out = gelu(inp), element by element.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when lengths or dtypes differ.
pub fn forward(gpu: &Gpu, out: SliceMut, inp: Slice, form: Form) -> Result<()> {
    const OP: &str = "gelu_forward";
    let (elem, count) = (out.elem(), out.len());
    let entry = elem.pick(OP, FORWARD)?;
    inp.expect(OP, "inp", elem, count)?;
    if count == 0 {
        return Ok(());
    }
    let vectors = grid::vectors(count, elem.size(), grid::aligned(&out, &[inp]));
    let args = [
        Arg::from(&out),
        inp.into(),
        Arg::U64(count as u64),
        Arg::U64(vectors as u64),
        Arg::U32(form as u32),
    ];
    gpu.launch(entry, grid::walk(count, vectors, elem.size()), grid::BLOCK, 0, &args)
}

/// dinp = gelu'(inp) dout, or dinp += that.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    gpu: &Gpu,
    dinp: SliceMut,
    dout: Slice,
    inp: Slice,
    form: Form,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "gelu_backward";
    let (elem, count) = (dinp.elem(), dinp.len());
    let entry = elem.pick(OP, BACKWARD)?;
    dout.expect(OP, "dout", elem, count)?;
    inp.expect(OP, "inp", elem, count)?;
    if count == 0 {
        return Ok(());
    }
    let vectors = grid::vectors(count, elem.size(), grid::aligned(&dinp, &[dout, inp]));
    let args = [
        Arg::from(&dinp),
        dout.into(),
        inp.into(),
        Arg::U64(count as u64),
        Arg::U64(vectors as u64),
        Arg::U32(form as u32),
        Arg::U32(accumulate as u32),
    ];
    gpu.launch(entry, grid::walk(count, vectors, elem.size()), grid::BLOCK, 0, &args)
}
