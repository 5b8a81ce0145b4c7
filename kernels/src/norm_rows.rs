//! What layernorm and rmsnorm share: how rows are spread over blocks.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid::{Rows, VECTOR};
use crate::slice::Slice;

/// Vectors of a row that a thread keeps in the forward pass, as in `norm_rows.cuh`.
pub(crate) const FORWARD_VECTORS: usize = 4;
/// Elements of a row that a thread keeps in the backward pass, as in `norm_rows.cuh`.
const BACKWARD_ELEMENTS: usize = 8;
/// Threads of a block of short rows: forward, and backward (where the block's shared sums have room for this many).
pub(crate) const FORWARD_BLOCK: usize = 128;
const BACKWARD_BLOCK: usize = 256;
/// Blocks of a backward pass at most: each leaves a part of the parameters' gradients behind. Not the number of multiprocessors: the
/// order of a sum must not depend on the device.
const MOST_BLOCKS: usize = 1024;
/// Rows that each row of threads walks at least, when there are that many: fewer parts to add.
const LEAST_WALK: usize = 2;

/// Whether rows of `cols` elements are whole vectors, in arrays that start at one.
pub(crate) fn is_wide(elem: Elem, cols: usize, addresses: &[u64]) -> bool {
    (cols * elem.size()).is_multiple_of(VECTOR)
        && addresses.iter().all(|address| address.is_multiple_of(VECTOR as u64))
}

/// How a backward pass runs.
pub(crate) struct Backward {
    pub rows: Option<Rows>,
    /// Parts of the parameters' gradients.
    pub blocks: usize,
}

/// The fast variant's launch, or the `_any` variant's (no `rows`) for rows it does not take.
pub(crate) fn backward(elem: Elem, rows: usize, cols: usize, wide: bool) -> Backward {
    let layout =
        Rows::new(cols * elem.size() / VECTOR, BACKWARD_ELEMENTS * elem.size() / VECTOR, BACKWARD_BLOCK);
    match layout.filter(|_| wide && rows < 1 << 31) {
        Some(layout) => {
            let blocks = rows.div_ceil(layout.rows * LEAST_WALK).clamp(1, MOST_BLOCKS);
            Backward { rows: Some(layout), blocks }
        }
        None => Backward { rows: None, blocks: rows.div_ceil(64).clamp(1, 256) },
    }
}

/// Checks what every launcher of a normalisation takes.
///
/// # Errors
/// [`Error::Argument`] naming the argument, expected and got.
pub(crate) fn check(
    op: &'static str,
    elem: Elem,
    rows: usize,
    cols: usize,
    arrays: &[(&str, Slice, usize)],
) -> Result<u32> {
    for (name, slice, len) in arrays {
        slice.expect(op, name, elem, *len)?;
    }
    if u32::try_from(rows).is_err() {
        return Err(Error::argument(op, format!("{rows} rows, a grid has at most 2^31 - 1 blocks")));
    }
    crate::grid::word(op, "C", cols)
}

/// Adds zero rows: parameter gradients that are overwritten become 0.
pub(crate) fn clear(gpu: &Gpu, grad: Option<(crate::slice::SliceMut, bool)>) -> Result<()> {
    match grad {
        Some((grad, false)) => gpu.fill_zero(grad),
        _ => Ok(()),
    }
}
