//! Rows looked up by id, and their deterministic scatter-add.

use crate::arena::Buffer;
use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid::{self, WARP};
use crate::ids::Site;
use crate::slice::{Arg, Slice, SliceMut};

/// Entries by gradient (rows) and upstream gradient (columns), in the order f32, f16, bf16.
const BACKWARD: [[Option<&str>; 3]; 3] = [
    [
        Some("embedding_backward_f32_f32"),
        Some("embedding_backward_f32_f16"),
        Some("embedding_backward_f32_bf16"),
    ],
    [None, Some("embedding_backward_f16_f16"), None],
    [None, None, Some("embedding_backward_bf16_bf16")],
];
const CROSSING: [&str; 3] = [
    "embedding_backward_crossing_f32",
    "embedding_backward_crossing_f16",
    "embedding_backward_crossing_bf16",
];

/// Ids a block sorts, digits of a sorting pass, and sorted ids a block adds up: as in `embedding.cu`.
const TILE: usize = 2048;
const DIGITS: usize = 256;
const PIECE: usize = 64;

/// out (N, C): row n is weight[ids[n]]; an id outside 0..V gives a row of NaN and is reported as `op`'s ([`crate::ids`]).
///
/// # Errors
/// [`Error::Argument`] when an array is too short, ids are not i32 or dtypes differ.
pub fn forward(
    gpu: &Gpu,
    op: &'static str,
    out: SliceMut,
    ids: Slice,
    weight: Slice,
    vocab: usize,
    cols: usize,
) -> Result<()> {
    const OP: &str = "embedding_forward";
    let (elem, count) = (out.elem(), ids.len());
    ids.expect(OP, "ids", Elem::I32, count)?;
    out.expect(OP, "out", elem, count * cols)?;
    weight.expect(OP, "weight", elem, vocab * cols)?;
    if count * cols == 0 {
        return Ok(());
    }
    let wide = crate::norm_rows::is_wide(elem, cols, &[out.address(), weight.address()]);
    let chunks = if wide { cols * elem.size() / grid::VECTOR } else { cols };
    let entry = if elem.size() == 2 { "embedding_forward_b16" } else { "embedding_forward_b32" };
    let args = [
        Arg::from(&out),
        ids.into(),
        weight.into(),
        gpu.id_word(Site { op, limit: vocab }),
        Arg::U64((count * chunks) as u64),
        Arg::U32(grid::word(OP, "C", chunks)?),
        Arg::U32(grid::word(OP, "V", vocab)?),
        Arg::U32(wide as u32),
    ];
    gpu.launch(entry, grid::linear(count * chunks), grid::BLOCK, 0, &args)
}

/// dweight (V, C) += the rows of dout (N, C) at their ids, those of one id in their order; overwritten unless `accumulate`.
///
/// # Errors
/// As [`forward`]; [`Error::Argument`] when dweight is half precision and dout of another dtype; out of memory for the sorted ids.
pub fn backward(
    gpu: &'static Gpu,
    mut dweight: SliceMut,
    dout: Slice,
    ids: Slice,
    vocab: usize,
    cols: usize,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "embedding_backward";
    let count = ids.len();
    ids.expect(OP, "ids", Elem::I32, count)?;
    dweight.expect(OP, "dweight", dweight.elem(), vocab * cols)?;
    dout.expect(OP, "dout", dout.elem(), count * cols)?;
    let (grad, upstream) = (dweight.elem(), dout.elem());
    let entry = upstream.pick(OP, grad.pick(OP, BACKWARD)?)?.ok_or_else(|| {
        let message = format!(
            "dweight is {}, dout {}; expected one dtype, or dweight f32",
            grad.suffix(),
            upstream.suffix()
        );
        Error::argument(OP, message)
    })?;
    if !accumulate {
        gpu.fill_zero(dweight.reborrow())?;
    }
    if count * cols == 0 {
        return Ok(());
    }
    let [count_word, cols_word, vocab_word] =
        [("N", count + TILE), ("C", cols), ("V", vocab)].map(|(what, size)| grid::word(OP, what, size));
    let (count_word, cols_word, vocab_word) = (count_word? - TILE as u32, cols_word?, vocab_word?);
    let (sorted, positions) = sort(gpu, ids, vocab)?;
    let pieces = count.div_ceil(PIECE);
    let mut crossing = gpu.buffer(Elem::F32, pieces * 2 * cols)?;
    let is_quad = |address: u64, elem: Elem| address.is_multiple_of(4 * elem.size() as u64);
    let quads =
        cols.is_multiple_of(4) && is_quad(dweight.address(), grad) && is_quad(dout.address(), upstream);
    let width = if quads { 4 } else { 1 };
    let threads = (cols / width).next_multiple_of(WARP).min(grid::THREADS as usize);
    let grid = [grid::blocks(OP, "pieces", pieces)?, (cols / width).div_ceil(threads) as u32, 1];
    let block = [threads as u32, 1, 1];
    let sizes = [Arg::U32(count_word), Arg::U32(cols_word), Arg::U32(vocab_word), Arg::U32(width as u32)];
    let mut args = vec![Arg::from(&dweight), (&crossing.slice_mut()).into(), dout.into()];
    args.extend([Arg::from(sorted.slice()), positions.slice().into()]);
    args.extend(sizes);
    gpu.launch(entry, grid, block, 0, &args)?;
    if pieces == 1 {
        return Ok(());
    }
    let mut args = vec![Arg::from(&dweight), crossing.slice().into(), sorted.slice().into()];
    args.extend(sizes);
    gpu.launch(grad.pick(OP, CROSSING)?, grid, block, 0, &args)
}

/// The ids in ascending order, and where each was; equal ids keep their order.
fn sort(gpu: &'static Gpu, ids: Slice, vocab: usize) -> Result<(Buffer, Buffer)> {
    let count = ids.len();
    let tiles = count.div_ceil(TILE);
    let mut histogram = gpu.buffer(Elem::I32, DIGITS * tiles)?;
    let mut from: Option<(Buffer, Buffer)> = None;
    let mut shift = 0;
    let (grid, block) = ([tiles as u32, 1, 1], [DIGITS as u32, 1, 1]);
    let (n, v) = (Arg::U32(count as u32), Arg::U32(vocab as u32));
    loop {
        let (keys, positions) = match &from {
            Some((keys, positions)) => (keys.slice(), Some(positions.slice())),
            None => (ids, None),
        };
        let mut next = (gpu.buffer(Elem::I32, count)?, gpu.buffer(Elem::I32, count)?);
        let args = [Arg::from(&histogram.slice_mut()), keys.into(), n, v, Arg::U32(shift)];
        gpu.launch("embedding_sort_count", grid, block, 0, &args)?;
        let args = [Arg::from(&histogram.slice_mut()), Arg::U32((DIGITS * tiles) as u32)];
        gpu.launch("embedding_sort_scan", [1, 1, 1], [1024, 1, 1], 0, &args)?;
        let args = [
            Arg::from(&next.0.slice_mut()),
            (&next.1.slice_mut()).into(),
            keys.into(),
            Arg::optional(positions),
            histogram.slice().into(),
            n,
            v,
            Arg::U32(shift),
        ];
        gpu.launch("embedding_sort_scatter", grid, block, 0, &args)?;
        shift += 8;
        // Keys go up to V, the one of ids outside the table.
        if shift == 32 || vocab >> shift == 0 {
            return Ok(next);
        }
        from = Some(next);
    }
}
