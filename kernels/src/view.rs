//! Row-major copies of strided views.

use crate::device::Gpu;
use crate::error::{Error, Result};
use crate::grid;
use crate::slice::{Arg, Slice, SliceMut};

/// Dimensions that kernels over strided tensors take; unused leading ones have size 1.
pub(crate) const RANK: usize = 6;

/// Side of the transposition's tile.
const TILE: usize = 32;

fn copy_entry(size: usize) -> &'static str {
    if size == 2 { "view_copy_b16" } else { "view_copy_b32" }
}

fn transpose_entry(size: usize) -> &'static str {
    if size == 2 { "view_transpose_b16" } else { "view_transpose_b32" }
}

/// Merges neighbouring dimensions that every strided input walks as one, and pads to [`RANK`] at the front.
///
/// # Errors
/// [`Error::Argument`] when more than [`RANK`] dimensions are left, or a size or stride is above 2^32 - 1.
pub(crate) fn fold<const INPUTS: usize>(
    op: &'static str,
    shape: &[usize],
    strides: [&[usize]; INPUTS],
) -> Result<([u32; RANK], [[u32; RANK]; INPUTS])> {
    let mut dims: Vec<(usize, [usize; INPUTS])> = Vec::new();
    for (d, &size) in shape.iter().enumerate().filter(|(_, size)| **size != 1) {
        let own = strides.map(|strides| strides[d]);
        match dims.last_mut() {
            Some((merged, outer)) if (0..INPUTS).all(|i| outer[i] == own[i] * size) => {
                *merged *= size;
                *outer = own;
            }
            _ => dims.push((size, own)),
        }
    }
    if dims.len() > RANK {
        let message = format!("shape {shape:?} has more than {RANK} dimensions that cannot be merged");
        return Err(Error::argument(op, message));
    }
    let (mut sizes, mut folded) = ([1; RANK], [[0; RANK]; INPUTS]);
    let first = RANK - dims.len();
    for (d, (size, own)) in dims.into_iter().enumerate() {
        sizes[first + d] = grid::word(op, "a dimension", size)?;
        for (folded, own) in folded.iter_mut().zip(own) {
            folded[first + d] = grid::word(op, "a stride", own)?;
        }
    }
    Ok((sizes, folded))
}

/// Whether runs of `run` elements along the last dimension can be read from `inp` in one access: its stride is 1 (or 0 when
/// `repeated` is allowed), and every run starts at a multiple of 16 bytes.
pub(crate) fn run_fits(
    inp: Slice,
    size: &[u32; RANK],
    strides: &[u32; RANK],
    run: usize,
    repeated: bool,
) -> bool {
    let [size, strides] = [size, strides].map(|words| words.map(|word| word as usize));
    if size[RANK - 1] % run != 0 {
        return false;
    }
    match strides[RANK - 1] {
        0 => repeated,
        1 => inp.is_aligned(16) && (0..RANK - 1).all(|d| size[d] == 1 || strides[d] % run == 0),
        _ => false,
    }
}

/// out (row-major of `shape`) = inp read with these strides; any dtype.
///
/// # Errors
/// [`Error::Argument`] as [`fold`], or when dtypes differ or an array is too short.
pub fn copy(gpu: &Gpu, out: SliceMut, shape: &[usize], inp: Slice, strides: &[usize]) -> Result<()> {
    const OP: &str = "view_copy";
    let (elem, count) = (out.elem(), shape.iter().product::<usize>());
    out.expect(OP, "out", elem, count)?;
    if count == 0 {
        return Ok(());
    }
    let (size, [strides]) = fold(OP, shape, [strides])?;
    inp.expect(OP, "inp", elem, crate::elementwise::reach(&size, &strides))?;
    if let Some((grid, args)) = transposition(&out, inp, &size, &strides) {
        return gpu.launch(transpose_entry(elem.size()), grid, [TILE as u32, 8, 1], 0, &args);
    }
    let run = grid::VECTOR / elem.size();
    let wide = out.is_aligned(16) && run_fits(inp, &size, &strides, run, false);
    let width = if wide { run } else { 1 };
    let mut args = vec![Arg::from(&out), inp.into()];
    args.extend(size.map(Arg::U32));
    args.extend(strides.map(Arg::U32));
    let groups = count / width;
    args.extend([Arg::U64(groups as u64), Arg::U32(width as u32)]);
    gpu.launch(copy_entry(elem.size()), grid::linear(groups), grid::BLOCK, 0, &args)
}

/// Grid and arguments when reads are contiguous along another dimension than the last, with at most two dimensions beside these two,
/// all large enough for tiles.
fn transposition(
    out: &SliceMut,
    inp: Slice,
    size: &[u32; RANK],
    strides: &[u32; RANK],
) -> Option<([u32; 3], Vec<Arg>)> {
    const LAST: usize = RANK - 1;
    let read_along = (0..LAST).find(|d| size[*d] > 1 && strides[*d] == 1)?;
    let out_stride = |d: usize| size[d + 1..].iter().try_fold(1u32, |stride, size| stride.checked_mul(*size));
    let outer: Vec<usize> = (0..LAST).filter(|d| *d != read_along && size[*d] > 1).collect();
    let (rows, cols) = (size[LAST], size[read_along]);
    if strides[LAST] == 1 || rows < 8 || cols < 8 || outer.len() > 2 {
        return None;
    }
    // The size, the stride in out and that in inp of the outer dimensions, the first of which may be missing.
    let outer = [outer.len().checked_sub(2), outer.len().checked_sub(1)].map(|at| match at {
        Some(at) => Some([size[outer[at]], out_stride(outer[at])?, strides[outer[at]]]),
        None => Some([1, 0, 0]),
    });
    let [[size0, out0, inp0], [size1, out1, inp1]] = [outer[0]?, outer[1]?];
    let tiles = |n: u32| n.div_ceil(TILE as u32);
    let blocks = size0.checked_mul(size1).filter(|blocks| *blocks < 65536 && tiles(rows) < 65536)?;
    let mut args = vec![Arg::from(out), inp.into()];
    args.extend([rows, cols, out_stride(read_along)?, strides[LAST], size1].map(Arg::U32));
    args.extend([out0, out1, inp0, inp1].map(Arg::U32));
    Some(([tiles(cols), tiles(rows), blocks], args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_dimensions_merge_where_every_input_allows_it() {
        // A bias over (4, 5, 6): the rows merge, the repeated side keeps stride 0.
        let (size, [a, b]) = fold("test", &[4, 5, 6], [&[30, 6, 1], &[0, 0, 1]]).unwrap();
        assert_eq!((size, a, b), ([1, 1, 1, 1, 20, 6], [0, 0, 0, 0, 6, 1], [0, 0, 0, 0, 0, 1]));
        // A transposed view does not merge; sizes of 1 vanish.
        let (size, [a]) = fold("test", &[3, 1, 2], [&[1, 9, 3]]).unwrap();
        assert_eq!((size, a), ([1, 1, 1, 1, 3, 2], [0, 0, 0, 0, 1, 3]));
    }

    #[test]
    fn too_many_dimensions_are_an_error() {
        let error = fold("test", &[2; 7], [&[1, 2, 4, 8, 16, 32, 64]]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "test: shape [2, 2, 2, 2, 2, 2, 2] has more than 6 dimensions that cannot be merged"
        );
    }
}
