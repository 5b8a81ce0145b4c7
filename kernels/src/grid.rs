//! Launch configurations that several kernels share.

use crate::error::{Error, Result};
use crate::slice::{Slice, SliceMut};

/// Threads of a block in one-dimensional launches.
pub(crate) const THREADS: u32 = 256;
/// Lanes of a warp.
pub(crate) const WARP: usize = 32;
/// Bytes of a vector access.
pub(crate) const VECTOR: usize = 16;
/// Blocks of a one-dimensional grid at most; its kernels walk the rest in strides of the grid.
const MOST_BLOCKS: usize = 1 << 20;

/// The grid of a kernel that walks `items` in strides of the grid.
pub(crate) fn linear(items: usize) -> [u32; 3] {
    [items.div_ceil(THREADS as usize).clamp(1, MOST_BLOCKS) as u32, 1, 1]
}

/// The block of a one-dimensional launch.
pub(crate) const BLOCK: [u32; 3] = [THREADS, 1, 1];

/// Whole 16-byte vectors of `count` elements of `size` bytes, or 0 unless all arrays are aligned for them.
pub(crate) fn vectors(count: usize, size: usize, aligned: bool) -> usize {
    if aligned { count * size / VECTOR } else { 0 }
}

/// The grid of a kernel that walks `vectors` vectors and then what is left of `count` elements of `size` bytes.
pub(crate) fn walk(count: usize, vectors: usize, size: usize) -> [u32; 3] {
    linear(vectors.max(count - vectors * VECTOR / size))
}

/// Whether all arrays start at a multiple of 16 bytes.
pub(crate) fn aligned(out: &SliceMut, inputs: &[Slice]) -> bool {
    out.is_aligned(VECTOR as u64) && inputs.iter().all(|inp| inp.is_aligned(VECTOR as u64))
}

/// A size as a kernel's 32-bit parameter.
///
/// # Errors
/// [`Error::Argument`] when it does not fit.
pub(crate) fn word(op: &'static str, what: &str, size: usize) -> Result<u32> {
    u32::try_from(size)
        .map_err(|_| Error::argument(op, format!("{what} is {size}, the kernel takes at most 2^32 - 1")))
}

/// A number of blocks along the first axis of a grid.
///
/// # Errors
/// [`Error::Argument`] when a grid has no room for them.
pub(crate) fn blocks(op: &'static str, what: &str, count: usize) -> Result<u32> {
    match u32::try_from(count) {
        Ok(count) if count < 1 << 31 => Ok(count),
        _ => Err(Error::argument(op, format!("{what} is {count}, a grid has at most 2^31 - 1 blocks"))),
    }
}

/// How rows that stay in registers are spread over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Threads a row: whole warps.
    pub threads: usize,
    /// Rows a block.
    pub rows: usize,
}

impl Rows {
    /// For rows of `vectors` vectors of which a thread keeps `each`; blocks of about `block` threads. `None` when a row needs more
    /// than 1024 threads.
    pub fn new(vectors: usize, each: usize, block: usize) -> Option<Rows> {
        let threads = vectors.div_ceil(each).max(1).next_multiple_of(WARP);
        (threads <= 1024).then(|| Rows { threads, rows: (block / threads).max(1) })
    }

    pub fn block(self) -> [u32; 3] {
        [self.threads as u32, self.rows as u32, 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fill_blocks_with_whole_warps() {
        // 768 halves are 96 vectors: one warp keeps three a lane. 768 f32 are 192: two warps.
        assert_eq!(Rows::new(96, 4, 128), Some(Rows { threads: 32, rows: 4 }));
        assert_eq!(Rows::new(192, 4, 128), Some(Rows { threads: 64, rows: 2 }));
        assert_eq!(Rows::new(4096, 4, 128), Some(Rows { threads: 1024, rows: 1 }));
        assert_eq!(Rows::new(4097, 4, 128), None);
    }

    #[test]
    fn grids_are_never_empty_nor_too_large() {
        assert_eq!(linear(0), [1, 1, 1]);
        assert_eq!(linear(257), [2, 1, 1]);
        assert_eq!(linear(1 << 40), [1 << 20, 1, 1]);
    }
}
