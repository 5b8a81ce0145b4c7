//! Conversion between float dtypes, rounding to nearest, ties to even.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};

/// Entries by source (rows) and result (columns), in the order f32, f16, bf16; same to same is the sum alone.
const CAST: [[&str; 3]; 3] = [
    ["cast_f32_f32", "cast_f32_f16", "cast_f32_bf16"],
    ["cast_f16_f32", "cast_f16_f16", "cast_f16_bf16"],
    ["cast_bf16_f32", "cast_bf16_f16", "cast_bf16_bf16"],
];

/// out = inp, or out += inp when `accumulate`, rounded to the dtype of `out`.
///
/// # Errors
/// [`Error::Argument`] when the lengths differ or a dtype is not a float.
pub fn cast(gpu: &Gpu, out: SliceMut, inp: Slice, accumulate: bool) -> Result<()> {
    let count = inp.len();
    if out.len() != count {
        return Err(Error::argument("cast", format!("out holds {} elements, inp {count}", out.len())));
    }
    rows(gpu, out, inp, 1, count, count, accumulate)
}

/// As [`cast`] of inp (R, C) into a window of rows that are `out_stride` elements apart.
///
/// # Errors
/// [`Error::Argument`] when an array is too short or a dtype is not a float.
pub fn rows(
    gpu: &Gpu,
    out: SliceMut,
    inp: Slice,
    rows: usize,
    cols: usize,
    out_stride: usize,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "cast";
    let entry = out.elem().pick(OP, inp.elem().pick(OP, CAST)?)?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    inp.expect(OP, "inp", inp.elem(), rows * cols)?;
    out.expect(OP, "out", out.elem(), (rows - 1) * out_stride + cols)?;
    // Runs of 8 elements between halves, else of 4, when every one starts at a multiple of its size.
    let run = if inp.elem().size() + out.elem().size() == 4 { 8 } else { 4 };
    let starts = rows == 1 || (cols.is_multiple_of(run) && out_stride.is_multiple_of(run));
    let fits = |address: u64, elem: Elem| address.is_multiple_of((run * elem.size()) as u64);
    let wide = starts && fits(out.address(), out.elem()) && fits(inp.address(), inp.elem());
    let runs = if wide { cols / run } else { 0 };
    let items = rows * runs.max(cols - run * runs);
    let args = [
        Arg::from(&out),
        inp.into(),
        Arg::U64(rows as u64),
        Arg::U64(cols as u64),
        Arg::U64(out_stride as u64),
        Arg::U64(runs as u64),
        Arg::U32(accumulate as u32),
    ];
    gpu.launch(entry, grid::linear(items), grid::BLOCK, 0, &args)
}
