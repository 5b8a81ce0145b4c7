//! The kernels for Hopper's tensor cores (sm_90a/matmul_wgmma_*.cu): which products they take, and how operands are described to them.

use super::plan::{Layout, Math, Tile};
use super::{Matmul, Matrix};
use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::Result;
use crate::slice::Arg;

/// Entries by layout (nn, nt, tn), then by tile as in [`Math::wgmma_tiles`].
type Entries = [[&'static str; 2]; 3];
const F16: Entries = [
    ["matmul_wgmma_nn_128x256_f16", "matmul_wgmma_nn_128x128_f16"],
    ["matmul_wgmma_nt_128x256_f16", "matmul_wgmma_nt_128x128_f16"],
    ["matmul_wgmma_tn_128x256_f16", "matmul_wgmma_tn_128x128_f16"],
];
const BF16: Entries = [
    ["matmul_wgmma_nn_128x256_bf16", "matmul_wgmma_nn_128x128_bf16"],
    ["matmul_wgmma_nt_128x256_bf16", "matmul_wgmma_nt_128x128_bf16"],
    ["matmul_wgmma_tn_128x256_bf16", "matmul_wgmma_tn_128x128_bf16"],
];

pub(super) fn entry(math: Math, layout: Layout, tile: &Tile) -> Option<&'static str> {
    let entries = match math {
        Math::F16 => F16,
        Math::Bf16 => BF16,
        Math::F32 | Math::Tf32 => return None,
    };
    Some(entries[layout as usize][tile.index])
}

/// Most bytes between lines or batches that a tensor map holds.
const MOST_STRIDE: usize = 1 << 40;

/// Whether these kernels run this product on this device: f16 or bf16 on compute capability 9.0, nothing empty, and no matrix that
/// several batches share.
pub(super) fn can_run(gpu: &Gpu, problem: &Matmul, layout: Option<Layout>) -> bool {
    let Matmul { lhs, rhs, m, n, k, batches, .. } = problem;
    let apart = |matrix: &Matrix| {
        let strides = [matrix.row_stride, matrix.col_stride, matrix.batch_stride];
        (*batches == 1 || matrix.batch_stride > 0) && strides.iter().all(|stride| stride * 2 < MOST_STRIDE)
    };
    let half = matches!(lhs.data.elem(), Elem::F16 | Elem::BF16);
    gpu.has_hopper_kernels()
        && half
        && layout.is_some()
        && [*m, *n, *k, *batches].iter().all(|size| *size > 0)
        && apart(lhs)
        && apart(rhs)
}

/// Both operands of `count` batches, their first elements at these addresses.
pub(super) fn maps(
    gpu: &Gpu,
    problem: &Matmul,
    layout: Layout,
    tile: &Tile,
    [lhs_address, rhs_address]: [Arg; 2],
    count: usize,
) -> Result<[Arg; 2]> {
    let Matmul { lhs, rhs, m, n, k, .. } = problem;
    let map = |matrix: &Matrix, address: Arg, [length, lines, stride, box_lines]: [usize; 4]| {
        let Arg::Pointer(address) = address else { unreachable!("an operand is a pointer") };
        // A single line or batch has no next one; its distance still has to be one that copies can have.
        let bytes = |stride: usize, of: usize| if of > 1 { stride * 2 } else { (length * 2).next_multiple_of(16) } as u64;
        let sizes = [length as u64, lines as u64, count as u64];
        let strides = [bytes(stride, lines), bytes(matrix.batch_stride, count)];
        let box_sizes = [LINE as u32, box_lines as u32];
        gpu.tensor_map(address, matrix.data.elem(), sizes, strides, box_sizes).map(Arg::TensorMap)
    };
    let (lhs_k, rhs_k) = (layout != Layout::Tn, layout == Layout::Nt);
    let lhs_lines = if lhs_k { [*k, *m, lhs.row_stride, tile.bm] } else { [*m, *k, lhs.col_stride, tile.bk] };
    let rhs_lines = if rhs_k { [*k, *n, rhs.col_stride, tile.bn] } else { [*n, *k, rhs.row_stride, tile.bk] };
    Ok([map(lhs, lhs_address, lhs_lines)?, map(rhs, rhs_address, rhs_lines)?])
}

/// Elements of a line in shared memory: 128 bytes.
const LINE: usize = 64;
