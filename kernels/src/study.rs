//! The ladder of matmul: the same product by seven kernels, one idea apart, from the formula to the production kernel.
//!
//! The walkthrough is docs/src/ops/matmul.md; `cargo run --release -p handloom-kernels --example matmul_ladder` runs, checks and
//! measures it. Only the last rung is used by anything else.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::matmul::plan::{Math, Plan};
use crate::matmul::{Matmul, Matrix, Output, matmul_with};
use crate::slice::{Arg, Slice, SliceMut};

/// One step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// The entry in `cuda/study/<entry without study_>.cu`; the last rung's is in `cuda/matmul_f32.cu`.
    pub entry: &'static str,
    /// What it does that the one before does not.
    pub idea: &'static str,
    /// Rows and columns of out that a block computes.
    pub tile: [u32; 2],
    pub block: [u32; 3],
    /// Whether the blocks' x goes along the rows of out instead of its columns.
    rows_first: bool,
    /// N and K must be multiples of this.
    pub multiple: usize,
}

const fn rung(
    entry: &'static str,
    idea: &'static str,
    tile: [u32; 2],
    block: [u32; 3],
    multiple: usize,
) -> Rung {
    Rung { entry, idea, tile, block, rows_first: false, multiple }
}

/// The entry of the last rung.
const PRODUCTION: &str = "matmul_nn_128x128_f32";

/// The rungs, bottom first.
pub static MATMUL: [Rung; 7] = [
    Rung {
        rows_first: true,
        ..rung("study_matmul_1_naive", "the formula, a thread per element", [32, 32], [32, 32, 1], 1)
    },
    rung("study_matmul_2_coalesced", "neighbouring threads, neighbouring columns", [32, 32], [32, 32, 1], 1),
    rung("study_matmul_3_shared", "tiles in shared memory", [32, 32], [32, 32, 1], 1),
    rung("study_matmul_4_rows", "eight sums of a column in registers", [64, 64], [512, 1, 1], 1),
    rung("study_matmul_5_square", "8 x 8 sums in registers", [128, 128], [256, 1, 1], 1),
    rung("study_matmul_6_vector", "16 bytes at a time, no bank conflicts", [128, 128], [256, 1, 1], 4),
    rung(PRODUCTION, "copies under way while multiplying, L2 order", [128, 128], [256, 1, 1], 4),
];

impl Rung {
    /// Blocks for an out of this size.
    pub fn grid(&self, m: usize, n: usize) -> [u32; 3] {
        let (rows, cols) =
            ((m as u32).div_ceil(self.tile[0]).max(1), (n as u32).div_ceil(self.tile[1]).max(1));
        if self.rows_first { [rows, cols, 1] } else { [cols, rows, 1] }
    }
}

/// out = lhs rhs by this rung.
///
/// # Shapes
/// out (M, N), lhs (M, K), rhs (K, N) f32, row-major without gaps.
///
/// # Errors
/// [`Error::Argument`] when an array is too short, a size is 2^31 or more, or not a multiple of what the rung takes.
pub fn matmul(
    gpu: &'static Gpu,
    rung: &Rung,
    out: SliceMut,
    lhs: Slice,
    rhs: Slice,
    m: usize,
    n: usize,
    k: usize,
) -> Result<()> {
    out.expect(rung.entry, "out", Elem::F32, m * n)?;
    lhs.expect(rung.entry, "lhs", Elem::F32, m * k)?;
    rhs.expect(rung.entry, "rhs", Elem::F32, k * n)?;
    if !n.is_multiple_of(rung.multiple) || !k.is_multiple_of(rung.multiple) {
        let message = format!("N = {n} and K = {k} must be multiples of {}", rung.multiple);
        return Err(Error::argument(rung.entry, message));
    }
    if m.max(n).max(k) > i32::MAX as usize {
        return Err(Error::argument(rung.entry, format!("({m}, {n}, {k}) has a size of 2^31 or more")));
    }
    if rung.entry == PRODUCTION {
        let (out, lhs, rhs) = (Output::rows(out, m, n), Matrix::rows(lhs, k), Matrix::rows(rhs, n));
        let plan = Plan::new(Math::F32.tiles()[0], k, 1);
        return matmul_with(gpu, Matmul::new(out, lhs, rhs, m, n, k), plan);
    }
    let sizes = [m, n, k].map(|size| Arg::I32(size as i32));
    let args = [Arg::from(&out), lhs.into(), rhs.into(), sizes[0], sizes[1], sizes[2]];
    gpu.launch(rung.entry, rung.grid(m, n), rung.block, 0, &args)
}
