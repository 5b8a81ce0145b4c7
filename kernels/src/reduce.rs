//! Sums of all elements and over dimensions, in an order that the sizes alone fix.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};

const PARTIAL: [&str; 3] = ["reduce_partial_f32", "reduce_partial_f16", "reduce_partial_bf16"];
const ROWS: [&str; 3] = ["reduce_rows_f32", "reduce_rows_f16", "reduce_rows_bf16"];
const COLUMNS: [&str; 3] = ["reduce_columns_f32", "reduce_columns_f16", "reduce_columns_bf16"];

/// Elements of a part of a sum, and how many parts there are at most.
const PART: usize = 16 * 1024;
const MOST_PARTS: usize = 1024;
/// Rows of a part of a column sum, and how many parts there are at most.
const PART_ROWS: usize = 512;
const MOST_ROW_PARTS: usize = 64;

/// out (one f32) = factor * sum of inp; partial sums in f32, their sum in f64.
///
/// # Errors
/// [`Error::Argument`] when a dtype is wrong; out of memory for the partial sums.
pub fn sum(gpu: &'static Gpu, out: SliceMut, inp: Slice, factor: f32) -> Result<()> {
    const OP: &str = "reduce_sum";
    let count = inp.len();
    let entry = inp.elem().pick(OP, PARTIAL)?;
    out.expect(OP, "out", Elem::F32, 1)?;
    let parts = count.div_ceil(PART).min(MOST_PARTS);
    let mut partial = gpu.buffer(Elem::F32, parts.max(1))?;
    if parts > 0 {
        let vectors = grid::vectors(count, inp.elem().size(), inp.is_aligned(16));
        let args =
            [Arg::from(&partial.slice_mut()), inp.into(), Arg::U64(count as u64), Arg::U64(vectors as u64)];
        gpu.launch(entry, [parts as u32, 1, 1], grid::BLOCK, 0, &args)?;
    }
    let args = [Arg::from(&out), partial.slice().into(), Arg::U32(parts as u32), Arg::F32(factor)];
    gpu.launch("reduce_finish", [1, 1, 1], grid::BLOCK, 0, &args)
}

/// out (A, B) f32 = sum over r of inp (A, R, B), or out += that.
///
/// # Errors
/// [`Error::Argument`] when an array is too short or A is above 65535 (with B above 1).
pub fn middle(
    gpu: &'static Gpu,
    out: SliceMut,
    inp: Slice,
    sizes: [usize; 3],
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "reduce_middle";
    let [outer, reduced, inner] = sizes;
    inp.expect(OP, "inp", inp.elem(), outer * reduced * inner)?;
    out.expect(OP, "out", Elem::F32, outer * inner)?;
    if outer * inner == 0 {
        return Ok(());
    }
    if inner == 1 {
        let entry = inp.elem().pick(OP, ROWS)?;
        let args = [Arg::from(&out), inp.into(), Arg::U64(reduced as u64), Arg::U32(accumulate as u32)];
        return gpu.launch(entry, [grid::blocks(OP, "rows", outer)?, 1, 1], grid::BLOCK, 0, &args);
    }
    if outer > 65535 {
        return Err(Error::argument(OP, format!("A is {outer}, a grid has 65535 blocks along it")));
    }
    let parts = reduced.div_ceil(PART_ROWS).clamp(1, MOST_ROW_PARTS);
    if parts == 1 {
        return columns(gpu, out, inp, sizes, 1, accumulate);
    }
    let mut partial = gpu.buffer(Elem::F32, outer * parts * inner)?;
    columns(gpu, partial.slice_mut(), inp, sizes, parts, false)?;
    columns(gpu, out, partial.slice(), [outer, parts, inner], 1, accumulate)
}

/// out (A, parts, B) = sums of inp (A, R, B) over parts of R.
fn columns(
    gpu: &'static Gpu,
    out: SliceMut,
    inp: Slice,
    sizes: [usize; 3],
    parts: usize,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "reduce_columns";
    let [outer, reduced, inner] = sizes;
    let args = [
        Arg::from(&out),
        inp.into(),
        Arg::U64(reduced as u64),
        Arg::U64(inner as u64),
        Arg::U64(reduced.div_ceil(parts) as u64),
        Arg::U32(accumulate as u32),
    ];
    let grid = [grid::blocks(OP, "columns", inner.div_ceil(32))?, parts as u32, outer as u32];
    gpu.launch(inp.elem().pick(OP, COLUMNS)?, grid, [32, 32, 1], 0, &args)
}
