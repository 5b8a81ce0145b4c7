//! Softmax over the last dimension.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::Result;
use crate::grid::{self, Rows};
use crate::norm_rows::is_wide;
use crate::slice::{Arg, Slice, SliceMut};

const FORWARD: [&str; 3] = ["softmax_forward_f32", "softmax_forward_f16", "softmax_forward_bf16"];
const FORWARD_MASKED: [&str; 3] =
    ["softmax_forward_masked_f32", "softmax_forward_masked_f16", "softmax_forward_masked_bf16"];
const FORWARD_ANY: [&str; 3] =
    ["softmax_forward_any_f32", "softmax_forward_any_f16", "softmax_forward_any_bf16"];
const BACKWARD: [&str; 3] = ["softmax_backward_f32", "softmax_backward_f16", "softmax_backward_bf16"];
const BACKWARD_ANY: [&str; 3] =
    ["softmax_backward_any_f32", "softmax_backward_any_f16", "softmax_backward_any_bf16"];

/// Vectors of a row that a thread keeps, as in `softmax.cu`.
const VECTORS: usize = 4;
/// Threads of a block of short rows.
const BLOCK: usize = 128;

/// What is done to scores before the softmax. Row n has row `n / repeat % count` of an array of `count` rows of C.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    None,
    /// i32; 0 hides an element.
    Keys {
        data: Slice<'a>,
        repeat: usize,
        count: usize,
    },
    /// Of the input's dtype; added to the scaled input.
    Added {
        data: Slice<'a>,
        repeat: usize,
        count: usize,
    },
}

/// out (N, C) = softmax(scale * inp + mask) over each row; a row in which everything is -infinity or hidden gives zeros.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when an array is too short or of another dtype.
pub fn forward(
    gpu: &Gpu,
    out: SliceMut,
    inp: Slice,
    mask: Mask,
    rows: usize,
    cols: usize,
    scale: f32,
) -> Result<()> {
    const OP: &str = "softmax_forward";
    let elem = out.elem();
    out.expect(OP, "out", elem, rows * cols)?;
    inp.expect(OP, "inp", elem, rows * cols)?;
    let width = grid::word(OP, "C", cols)?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let (keys, added, repeat, count) = match mask {
        Mask::None => (None, None, 1, 1),
        Mask::Keys { data, repeat, count } => (Some(data), None, repeat, count),
        Mask::Added { data, repeat, count } => (None, Some(data), repeat, count),
    };
    let (repeat, count) = (repeat.max(1), count.max(1));
    if let Some(keys) = keys {
        keys.expect(OP, "mask", Elem::I32, count * cols)?;
    }
    if let Some(added) = added {
        added.expect(OP, "mask", elem, count * cols)?;
    }
    let of_mask = [
        Arg::optional(keys),
        Arg::optional(added),
        Arg::U32(grid::word(OP, "repeats of a mask's row", repeat)?),
        Arg::U32(grid::word(OP, "rows of the mask", count)?),
    ];
    let arrays = [Arg::from(&out), inp.into()];
    let scalars = [Arg::U32(width), Arg::F32(scale)];
    let masked = [&scalars[..], &of_mask].concat();
    let mut addresses = vec![out.address(), inp.address()];
    addresses.extend(keys.iter().chain(&added).map(Slice::address));
    let wide = is_wide(elem, cols, &addresses);
    let any = (elem.pick(OP, FORWARD_ANY)?, &masked[..]);
    let fast = match mask {
        Mask::None => (elem.pick(OP, FORWARD)?, &scalars[..]),
        _ => (elem.pick(OP, FORWARD_MASKED)?, &masked[..]),
    };
    launch(gpu, OP, fast, any, wide, elem.size(), rows, cols, &arrays)
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
    let fast = (elem.pick(OP, BACKWARD)?, &scalars[..]);
    let any = (elem.pick(OP, BACKWARD_ANY)?, &scalars[..]);
    launch(gpu, OP, fast, any, wide, elem.size(), rows, cols, &arrays)
}

/// Starts the variant that keeps rows in registers where it takes them, else the other; each an entry and its scalars.
fn launch(
    gpu: &Gpu,
    op: &'static str,
    fast: (&'static str, &[Arg]),
    any: (&'static str, &[Arg]),
    wide: bool,
    size: usize,
    rows: usize,
    cols: usize,
    arrays: &[Arg],
) -> Result<()> {
    let mut args = arrays.to_vec();
    match Rows::new(cols * size / grid::VECTOR, VECTORS, BLOCK).filter(|_| wide) {
        Some(layout) => {
            args.push(Arg::U64(rows as u64));
            args.extend_from_slice(fast.1);
            let blocks = grid::blocks(op, "row blocks", rows.div_ceil(layout.rows))?;
            gpu.launch(fast.0, [blocks, 1, 1], layout.block(), 0, &args)
        }
        None => {
            args.extend_from_slice(any.1);
            gpu.launch(any.0, [grid::blocks(op, "rows", rows)?, 1, 1], grid::BLOCK, 0, &args)
        }
    }
}
