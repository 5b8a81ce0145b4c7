//! The norm of all gradients together.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid;
use crate::optimizer::Table;
use crate::slice::{Arg, SliceMut};

/// norm (one f64: two i32 words) = sqrt of the sum of squares of all gradients in the table; not finite when one of them is not.
///
/// # Errors
/// [`Error::Argument`] when `norm` is not two words at a multiple of 8 bytes; out of memory for the partial sums.
pub fn global_norm(gpu: &'static Gpu, norm: SliceMut, table: &Table) -> Result<()> {
    const OP: &str = "global_norm";
    norm.expect(OP, "norm", Elem::I32, 2)?;
    if !norm.is_aligned(8) {
        return Err(Error::argument(OP, "norm must start at a multiple of 8 bytes".into()));
    }
    let chunks = table.chunks();
    let mut partial = gpu.buffer(Elem::I32, (2 * chunks).max(1))?;
    if chunks > 0 {
        let args = [Arg::from(&partial.slice_mut()), table.slice(OP)?.into()];
        gpu.launch("norm_partial", [grid::blocks(OP, "chunks", chunks)?, 1, 1], grid::BLOCK, 0, &args)?;
    }
    let args = [Arg::from(&norm), partial.slice().into(), Arg::U32(grid::word(OP, "chunks", chunks)?)];
    gpu.launch("norm_finish", [1, 1, 1], [1024, 1, 1], 0, &args)
}
