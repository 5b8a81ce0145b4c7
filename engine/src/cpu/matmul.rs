//! Matrix products on the CPU: checks, then [`super::gemm`]; half-precision operands are widened to f32 first.

use crate::dtype::{DType, Float};

/// A read-only matrix inside a slice.
#[derive(Clone, Copy)]
pub struct Mat<'a, E> {
    pub data: &'a [E],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, E> Mat<'a, E> {
    /// Row-major with `cols` columns.
    pub fn rows(data: &'a [E], cols: usize) -> Self {
        Mat { data, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Mat { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0
            || cols == 0
            || (rows - 1) * self.row_stride + (cols - 1) * self.col_stride < self.data.len()
    }
}

/// Whether a product may use all threads or runs inside a task of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    All,
    One,
}

/// out (M, N) = alpha a (M, K) b (K, N), or out += that. `out_stride` separates the rows of `out`.
pub fn gemm_f32(
    out: &mut [f32],
    out_stride: usize,
    a: Mat<f32>,
    b: Mat<f32>,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    accumulate: bool,
    threads: Threads,
) {
    if m == 0 || n == 0 {
        return;
    }
    let fits = (m - 1) * out_stride + n <= out.len() && n <= out_stride.max(n);
    assert!(
        a.holds(m, k) && b.holds(k, n) && fits,
        "bug in handloom-engine: gemm_f32 operands are too short"
    );
    if k == 0 {
        if !accumulate {
            out.chunks_mut(out_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    // Below this many multiply-adds, waking the other threads costs more than they save.
    let threads = if m * n * k < 64 * 64 * 64 { Threads::One } else { threads };
    if m == 1 {
        return super::gemv::gemv(&mut out[..n], a, b, n, k, alpha, accumulate, threads);
    }
    super::gemm::gemm(out, out_stride, a, b, m, n, k, alpha, accumulate, threads);
}

/// As [`gemm_f32`] for any storage: operands widened to f32, f32 accumulation, one rounding at the end.
/// `out` is row-major without gaps.
pub fn gemm<A: Float, B: Float, O: Float>(
    out: &mut [O],
    a: Mat<A>,
    b: Mat<B>,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    threads: Threads,
) {
    let (mut a_wide, mut b_wide, mut out_wide) = (Vec::new(), Vec::new(), Vec::new());
    let a = widen(a, &mut a_wide);
    let b = widen(b, &mut b_wide);
    if O::DTYPE == DType::F32 {
        return gemm_f32(bytemuck::cast_slice_mut(out), n, a, b, m, n, k, 1.0, accumulate, threads);
    }
    out_wide.resize(m * n, 0.0f32);
    gemm_f32(&mut out_wide, n, a, b, m, n, k, 1.0, false, threads);
    super::elementwise::narrow_into(out, &out_wide, accumulate);
}

fn widen<'a, E: Float>(mat: Mat<'a, E>, buffer: &'a mut Vec<f32>) -> Mat<'a, f32> {
    let data = if E::DTYPE == DType::F32 {
        bytemuck::cast_slice(mat.data)
    } else {
        buffer.resize(mat.data.len(), 0.0);
        super::elementwise::widen_into(buffer, mat.data);
        buffer
    };
    Mat { data, row_stride: mat.row_stride, col_stride: mat.col_stride }
}
