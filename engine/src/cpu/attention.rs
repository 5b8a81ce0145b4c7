//! Scaled dot-product attention on the CPU.
//!
//! One task per (batch, head). Scores exist for [`BLOCK`] queries of one head at a time, in the task's scratch; what is
//! kept for backward is their log-sum-exp, from which backward recomputes the probabilities (the memory scheme of
//! Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4).

use rayon::prelude::*;

use super::dropout;
use super::matmul::{Mat, Threads, gemm_f32};
use super::simd::sum_by2;
use super::softmax::exp_row;
use crate::dtype::Float;
use crate::philox::Stream;
use crate::simd;

/// Queries whose scores are in memory at once, per task.
const BLOCK: usize = 64;

/// Sizes and options of one attention call.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_size: usize,
    /// Query i sees keys up to `keys - queries + i`.
    pub causal: bool,
    pub scale: f32,
    /// Attention weights are dropped with this probability, drawn from this stream.
    pub dropout: Option<(f32, Stream)>,
    /// (batch, keys): 0 hides a key from every query.
    pub key_mask: Option<&'a [i32]>,
    /// (heads, queries, keys), added to the scaled scores.
    pub bias: Option<&'a [f32]>,
}

/// One of q, k, v: element (b, t, h, d) at `b * batch_stride + t * row_stride + h * head_size + d`.
#[derive(Clone, Copy)]
pub struct Heads<'a, E> {
    pub data: &'a [E],
    pub batch_stride: usize,
    pub row_stride: usize,
}

/// The same for a gradient; tasks write disjoint (b, h) parts of it.
pub struct HeadsMut<E> {
    data: *mut E,
    len: usize,
    batch_stride: usize,
    row_stride: usize,
}

// SAFETY: tasks reach the elements only through `store`, and each writes its own (batch, head) part.
unsafe impl<E: Send> Sync for HeadsMut<E> {}

impl<E: Float> HeadsMut<E> {
    pub fn new(data: &mut [E], offset: usize, batch_stride: usize, row_stride: usize) -> Self {
        let data = &mut data[offset..];
        HeadsMut { data: data.as_mut_ptr(), len: data.len(), batch_stride, row_stride }
    }

    /// Writes a (T, HS) block to its place.
    fn store(&self, task: Task, block: &[f32], head_size: usize, accumulate: bool) {
        for (t, row) in block.chunks_exact(head_size).enumerate() {
            let start = task.b * self.batch_stride + t * self.row_stride + task.h * head_size;
            assert!(start + head_size <= self.len, "bug in handloom-engine: attention gradient is too short");
            // SAFETY: in bounds by the assertion; columns h * HS .. (h + 1) * HS of batch b belong to this task alone.
            let out = unsafe { std::slice::from_raw_parts_mut(self.data.add(start), head_size) };
            for (o, x) in out.iter_mut().zip(row) {
                *o = E::from_f32(if accumulate { o.to_f32() + x } else { *x });
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Task {
    b: usize,
    h: usize,
}

impl Attention<'_> {
    fn load<E: Float>(&self, out: &mut Vec<f32>, heads: Heads<E>, task: Task, rows: usize) {
        out.clear();
        for t in 0..rows {
            let start = task.b * heads.batch_stride + t * heads.row_stride + task.h * self.head_size;
            out.extend(heads.data[start..start + self.head_size].iter().map(|x| x.to_f32()));
        }
    }

    /// One past the last key that query `query` may see.
    fn visible(&self, query: usize) -> usize {
        if self.causal { self.keys - self.queries + query + 1 } else { self.keys }
    }

    /// Scores of queries `first..first + count`, scaled and with the bias, -infinity where hidden; rows of `width` keys.
    fn scores(&self, s: &mut [f32], q: &[f32], k: &[f32], task: Task, first: usize, width: usize) {
        let hs = self.head_size;
        let count = s.len() / width;
        let q = Mat::rows(&q[first * hs..(first + count) * hs], hs);
        gemm_f32(s, width, q, Mat::rows(k, hs).t(), count, width, hs, self.scale, false, Threads::One);
        for (i, row) in s.chunks_exact_mut(width).enumerate() {
            if let Some(bias) = self.bias {
                let bias = &bias[(task.h * self.queries + first + i) * self.keys..][..width];
                add(row, bias);
            }
            row[self.visible(first + i)..].fill(f32::NEG_INFINITY);
            if let Some(mask) = self.key_mask {
                let mask = &mask[task.b * self.keys..][..width];
                row.iter_mut().zip(mask).filter(|(_, m)| **m == 0).for_each(|(s, _)| *s = f32::NEG_INFINITY);
            }
        }
    }

    /// Dropout factors of one query's row of attention weights. Rows start at multiples of 4 draws.
    fn factors(&self, factors: &mut [f32], task: Task, query: usize) {
        let Some((drop_prob, stream)) = self.dropout else { return factors.fill(1.0) };
        let row = (task.b * self.heads + task.h) * self.queries + query;
        let first_word = row as u64 * self.keys.div_ceil(4) as u64;
        dropout::fill_factors(
            factors,
            first_word,
            stream,
            dropout::threshold(drop_prob),
            1.0 / (1.0 - drop_prob),
        );
    }

    fn tasks(&self) -> impl IndexedParallelIterator<Item = Task> {
        let heads = self.heads;
        (0..self.batch * heads).into_par_iter().map(move |i| Task { b: i / heads, h: i % heads })
    }

    /// out (B, Tq, NH, HS) contiguous; lse (B, NH, Tq).
    pub fn forward<E: Float>(&self, out: &mut [E], lse: &mut [f32], q: Heads<E>, k: Heads<E>, v: Heads<E>) {
        let (hs, row_stride) = (self.head_size, self.heads * self.head_size);
        let out = HeadsMut::new(out, 0, self.queries * row_stride, row_stride);
        self.tasks().zip(lse.par_chunks_exact_mut(self.queries)).for_each_init(
            Scratch::default,
            |s, (task, lse)| {
                self.load(&mut s.q, q, task, self.queries);
                self.load(&mut s.k, k, task, self.keys);
                self.load(&mut s.v, v, task, self.keys);
                s.o.resize(self.queries * hs, 0.0);
                for first in (0..self.queries).step_by(BLOCK) {
                    let count = BLOCK.min(self.queries - first);
                    let width = self.visible(first + count - 1);
                    s.s.resize(count * width, 0.0);
                    s.factors.resize(width, 0.0);
                    self.scores(&mut s.s, &s.q, &s.k, task, first, width);
                    for (i, row) in s.s.chunks_exact_mut(width).enumerate() {
                        let (max, sum) = exp_row(row);
                        lse[first + i] = max + sum.ln(); // -infinity when every key is hidden
                        let inverse = if sum > 0.0 || sum.is_nan() { 1.0 / sum } else { 0.0 };
                        if self.dropout.is_some() {
                            self.factors(&mut s.factors, task, first + i);
                            multiply(row, &s.factors, inverse);
                        } else {
                            row.iter_mut().for_each(|p| *p *= inverse);
                        }
                    }
                    let o = &mut s.o[first * hs..(first + count) * hs];
                    gemm_f32(
                        o,
                        hs,
                        Mat::rows(&s.s, width),
                        Mat::rows(&s.v, hs),
                        count,
                        hs,
                        width,
                        1.0,
                        false,
                        Threads::One,
                    );
                }
                out.store(task, &s.o, hs, false);
            },
        );
    }

    /// Gradients dq (B, Tq, NH, HS), dk, dv (B, Tk, NH, HS), overwritten or added to; dbias (NH, Tq, Tk) alike, by its own flag.
    /// `out` and `lse` from forward.
    pub fn backward<E: Float>(
        &self,
        dq: &HeadsMut<E>,
        dk: &HeadsMut<E>,
        dv: &HeadsMut<E>,
        dbias: Option<(&mut [f32], bool)>,
        dout: &[E],
        out: &[E],
        lse: &[f32],
        q: Heads<E>,
        k: Heads<E>,
        v: Heads<E>,
        accumulate: bool,
    ) {
        let hs = self.head_size;
        let row_stride = self.heads * hs;
        let packed = |data| Heads { data, batch_stride: self.queries * row_stride, row_stride };
        let of_task = |s: &mut Scratch, task: Task, dbias: Option<&mut [f32]>| {
            self.load(&mut s.q, q, task, self.queries);
            self.load(&mut s.k, k, task, self.keys);
            self.load(&mut s.v, v, task, self.keys);
            self.load(&mut s.o, packed(out), task, self.queries);
            self.load(&mut s.dout, packed(dout), task, self.queries);
            self.backward_task(s, task, &lse[(task.b * self.heads + task.h) * self.queries..], dbias);
            dq.store(task, &s.dq, hs, accumulate);
            dk.store(task, &s.dk, hs, accumulate);
            dv.store(task, &s.dv, hs, accumulate);
        };
        match dbias {
            None => self.tasks().for_each_init(Scratch::default, |s, task| of_task(s, task, None)),
            // The batch adds up in ascending order: one thread a head.
            Some((dbias, added_to)) => {
                dbias.par_chunks_exact_mut(self.queries * self.keys).enumerate().for_each_init(
                    Scratch::default,
                    |s, (h, dbias)| {
                        if !added_to {
                            dbias.fill(0.0);
                        }
                        (0..self.batch).for_each(|b| of_task(s, Task { b, h }, Some(dbias)));
                    },
                );
            }
        }
    }

    /// Gradients of one head of one sequence, from what is loaded in `s` into `s.dq`, `s.dk` and `s.dv`, and added to dbias (Tq, Tk).
    fn backward_task(&self, s: &mut Scratch, task: Task, lse: &[f32], mut dbias: Option<&mut [f32]>) {
        let hs = self.head_size;
        s.dq.resize(self.queries * hs, 0.0);
        s.dk.clear();
        s.dk.resize(self.keys * hs, 0.0);
        s.dv.clear();
        s.dv.resize(self.keys * hs, 0.0);
        for first in (0..self.queries).step_by(BLOCK) {
            let count = BLOCK.min(self.queries - first);
            let width = self.visible(first + count - 1);
            s.s.resize(count * width, 0.0);
            s.ds.resize(count * width, 0.0);
            s.factors.resize(width, 0.0);
            self.scores(&mut s.s, &s.q, &s.k, task, first, width);
            let rows = first * hs..(first + count) * hs;
            let dout_block = Mat::rows(&s.dout[rows.clone()], hs);
            let v = Mat::rows(&s.v, hs).t();
            gemm_f32(&mut s.ds, width, dout_block, v, count, width, hs, 1.0, false, Threads::One);
            for (i, (p, dp)) in s.s.chunks_exact_mut(width).zip(s.ds.chunks_exact_mut(width)).enumerate() {
                let query = first + i;
                let range = query * hs..(query + 1) * hs;
                let dot = dot(&s.dout[range.clone()], &s.o[range]);
                self.factors(&mut s.factors, task, query);
                // A query that sees no key has lse = -infinity, and scores of -infinity: e^(-inf - 0) = 0.
                let lse = if lse[query] == f32::NEG_INFINITY { 0.0 } else { lse[query] };
                match &mut dbias {
                    None => score_gradients(p, dp, &s.factors, lse, dot, self.scale),
                    Some(dbias) => {
                        score_gradients(p, dp, &s.factors, lse, dot, 1.0);
                        add(&mut dbias[query * self.keys..][..width], dp);
                        dp.iter_mut().for_each(|ds| *ds *= self.scale);
                    }
                }
            }
            let (p, ds) = (Mat::rows(&s.s, width), Mat::rows(&s.ds, width));
            let q_block = Mat::rows(&s.q[rows.clone()], hs);
            gemm_f32(&mut s.dv, hs, p.t(), dout_block, width, hs, count, 1.0, true, Threads::One);
            gemm_f32(&mut s.dk, hs, ds.t(), q_block, width, hs, count, 1.0, true, Threads::One);
            let k = Mat::rows(&s.k, hs);
            gemm_f32(&mut s.dq[rows], hs, ds, k, count, hs, width, 1.0, false, Threads::One);
        }
    }
}

#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    dout: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    s: Vec<f32>,
    ds: Vec<f32>,
    factors: Vec<f32>,
}

simd! {
    fn add(to: &mut [f32], row: &[f32]) {
        to.iter_mut().zip(row).for_each(|(to, x)| *to += x);
    }
}

simd! {
    fn multiply(row: &mut [f32], factors: &[f32], inverse: f32) {
        row.iter_mut().zip(factors).for_each(|(p, f)| *p *= inverse * f);
    }
}

simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum_by2(a, b, |a, b| a * b)
    }
}

simd! {
    /// From scores s and dP (of the dropped weights): leaves the dropped weights in `s` and the score gradients, times
    /// the scale, in `dp`.
    fn score_gradients(s: &mut [f32], dp: &mut [f32], factors: &[f32], lse: f32, dot: f32, scale: f32) {
        for ((s, dp), factor) in s.iter_mut().zip(dp).zip(factors) {
            let p = super::simd::exp(*s - lse);
            *dp = scale * p * (*dp * factor - dot);
            *s = p * factor;
        }
    }
}
