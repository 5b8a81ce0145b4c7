//! The product of one row with a matrix: bound by reading the matrix, as in generation with a batch of one.

use rayon::prelude::*;

use super::matmul::{Mat, Threads};
use super::simd::{LANES, sum_lanes};
use crate::simd;

/// Columns per task.
const TASK: usize = 512;

simd! {
    /// out (N) += sum over p of x[p] b[p, :], rows of b contiguous.
    fn add_rows(out: &mut [f32], x: &[f32], b: &[f32], b_row: usize) {
        for (p, x) in x.iter().enumerate() {
            let row = &b[p * b_row..][..out.len()];
            out.iter_mut().zip(row).for_each(|(o, b)| *o = x.mul_add(*b, *o));
        }
    }
}

simd! {
    /// Four independent accumulator vectors hide the latency of the multiply-add.
    fn dot(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [[0.0f32; LANES]; 4];
        let (xs, x_rest) = x.as_chunks::<{ 4 * LANES }>();
        let (ys, y_rest) = y.as_chunks::<{ 4 * LANES }>();
        for (x, y) in xs.iter().zip(ys) {
            for (v, lanes) in lanes.iter_mut().enumerate() {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = x[v * LANES + i].mul_add(y[v * LANES + i], *lane);
                }
            }
        }
        for (i, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
            let lane = &mut lanes[i / LANES][i % LANES];
            *lane = x.mul_add(*y, *lane);
        }
        let [mut a, b, c, d] = lanes;
        for i in 0..LANES {
            a[i] = (a[i] + b[i]) + (c[i] + d[i]);
        }
        sum_lanes(a)
    }
}

/// out (N) = alpha x b (K, N), or out += that; `x` is a (1, K) matrix.
pub(super) fn gemv(
    out: &mut [f32],
    x: Mat<f32>,
    b: Mat<f32>,
    n: usize,
    k: usize,
    alpha: f32,
    accumulate: bool,
    threads: Threads,
) {
    let x: Vec<f32> = (0..k).map(|p| alpha * x.data[p * x.col_stride]).collect();
    let task = |(i, out): (usize, &mut [f32])| {
        let first = i * TASK;
        if !accumulate {
            out.fill(0.0);
        }
        if b.col_stride == 1 {
            add_rows(out, &x, &b.data[first..], b.row_stride);
        } else if b.row_stride == 1 {
            for (j, out) in out.iter_mut().enumerate() {
                *out += dot(&x, &b.data[(first + j) * b.col_stride..][..k]);
            }
        } else {
            for (j, out) in out.iter_mut().enumerate() {
                let column = &b.data[(first + j) * b.col_stride..];
                *out += x.iter().enumerate().map(|(p, x)| x * column[p * b.row_stride]).sum::<f32>();
            }
        }
    };
    match threads {
        Threads::All => out[..n].par_chunks_mut(TASK).enumerate().for_each(task),
        Threads::One => out[..n].chunks_mut(TASK).enumerate().for_each(task),
    }
}
