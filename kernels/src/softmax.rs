//! Softmax over the last dimension.

use crate::device::Gpu;
use crate::error::Result;
use crate::grid::{self, Rows};
use crate::norm_rows::is_wide;
use crate::slice::{Arg, Slice, SliceMut};

const FORWARD: [&str; 3] = ["softmax_forward_f32", "softmax_forward_f16", "softmax_forward_bf16"];
const FORWARD_ANY: [&str; 3] =
    ["softmax_forward_any_f32", "softmax_forward_any_f16", "softmax_forward_any_bf16"];
const BACKWARD: [&str; 3] = ["softmax_backward_f32", "softmax_backward_f16", "softmax_backward_bf16"];
const BACKWARD_ANY: [&str; 3] =
    ["softmax_backward_any_f32", "softmax_backward_any_f16", "softmax_backward_any_bf16"];

/// Vectors of a row that a thread keeps, as in `softmax.cu`.
const VECTORS: usize = 4;
/// Threads of a block of short rows.
const BLOCK: usize = 128;

/// out (N, C) = softmax(scale * inp) over each row; a row of -infinity gives zeros.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when an array is too short or of another dtype.
pub fn forward(gpu: &Gpu, out: SliceMut, inp: Slice, rows: usize, cols: usize, scale: f32) -> Result<()> {
    const OP: &str = "softmax_forward";
    let elem = out.elem();
    out.expect(OP, "out", elem, rows * cols)?;
    inp.expect(OP, "inp", elem, rows * cols)?;
    let width = grid::word(OP, "C", cols)?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let arrays = [Arg::from(&out), inp.into()];
    let scalars = [Arg::U32(width), Arg::F32(scale)];
    let wide = is_wide(elem, cols, &[out.address(), inp.address()]);
    let entries = (elem.pick(OP, FORWARD)?, elem.pick(OP, FORWARD_ANY)?);
    launch(gpu, OP, entries, wide, elem.size(), rows, cols, &arrays, &scalars)
}

/// dinp (N, C) = scale * out * (dout - sum(dout * out)), or dinp += that; `out` as forward left it.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    gpu: &Gpu,
    dinp: SliceMut,
    dout: Slice,
    out: Slice,
    rows: usize,
    cols: usize,
    scale: f32,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "softmax_backward";
    let elem = dinp.elem();
    dinp.expect(OP, "dinp", elem, rows * cols)?;
    dout.expect(OP, "dout", elem, rows * cols)?;
    out.expect(OP, "out", elem, rows * cols)?;
    let width = grid::word(OP, "C", cols)?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let arrays = [Arg::from(&dinp), dout.into(), out.into()];
    let scalars = [Arg::U32(width), Arg::F32(scale), Arg::U32(accumulate as u32)];
    let wide = is_wide(elem, cols, &[dinp.address(), dout.address(), out.address()]);
    let entries = (elem.pick(OP, BACKWARD)?, elem.pick(OP, BACKWARD_ANY)?);
    launch(gpu, OP, entries, wide, elem.size(), rows, cols, &arrays, &scalars)
}

/// Starts the variant that keeps rows in registers where it takes them, else the other.
fn launch(
    gpu: &Gpu,
    op: &'static str,
    entries: (&'static str, &'static str),
    wide: bool,
    size: usize,
    rows: usize,
    cols: usize,
    arrays: &[Arg],
    scalars: &[Arg],
) -> Result<()> {
    let mut args = arrays.to_vec();
    match Rows::new(cols * size / grid::VECTOR, VECTORS, BLOCK).filter(|_| wide) {
        Some(layout) => {
            args.push(Arg::U64(rows as u64));
            args.extend_from_slice(scalars);
            let blocks = grid::blocks(op, "row blocks", rows.div_ceil(layout.rows))?;
            gpu.launch(entries.0, [blocks, 1, 1], layout.block(), 0, &args)
        }
        None => {
            args.extend_from_slice(scalars);
            gpu.launch(entries.1, [grid::blocks(op, "rows", rows)?, 1, 1], grid::BLOCK, 0, &args)
        }
    }
}
