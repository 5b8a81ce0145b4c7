//! The vocabulary matmul fused with softmax cross-entropy, forward and backward, on the CPU.
//!
//! The (N, V) logits are the largest array of a small language model: they are never whole in memory. [`CHUNK`] rows of the
//! input at a time go through two passes over the vocabulary, in blocks of [`BLOCK`] tokens that stay in L2:
//!
//! 1. logits^T block = W block x^T + bias; its column maxima m, e^(logit - m) in place, their column sums. Blocks' (m, sum) pairs
//!    merge to the log-sum-exp (Milakov and Gimelshein 2018, arXiv:1805.02867).
//! 2. dlogits^T block = scale (e^(m - lse) * kept - onehot); dW block = dlogits^T x; dx^T += W block^T dlogits^T.
//!
//! Working on transposed logits, both large products read W and write dW where they lie, without packing; only the few
//! input rows are packed, once per chunk. Three matmuls in all and one exponential per logit.

use rayon::prelude::*;

use super::gemm::{KC, Kernel, MR, NR, Tile, kernel, pack_panel, packed_len};
use super::matmul::Mat;
use super::simd::{exp, sum_by};
use crate::simd;
use crate::storage::Storage;

/// Input rows per pass over the weight: more rows mean fewer passes over W and dW, and more kept logits
/// (CHUNK * V * 4 bytes).
const CHUNK: usize = 512;
/// Vocabulary rows per block: 21 register tiles.
const BLOCK: usize = 21 * MR;
/// The vocabulary is cut into at most this many parts, each summing its own dx; their number fixes the order of that sum.
const PARTS: usize = 32;
/// Row padding of the logits, so that their rows do not all map to the same cache sets.
const PAD: usize = 16;

/// Where gradients go.
pub struct Grads<'a> {
    /// (N, C), overwritten.
    pub dinp: &'a mut [f32],
    /// (V, C), overwritten.
    pub dweight: &'a mut [f32],
    /// (V), overwritten; empty when there is no bias.
    pub dbias: &'a mut [f32],
}

/// What the targets' logits add up to.
pub struct Totals {
    /// Summed -log softmax of the targets.
    pub loss: f64,
    /// Targets whose logit is the largest of its row.
    pub hits: usize,
}

/// One chunk of input rows, packed for both products.
struct Chunk<'a> {
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    cols: usize,
    vocab: usize,
    /// Rows of the chunk, and the stride of transposed logits.
    rows: usize,
    stride: usize,
    targets: &'a [i32],
    ignore_index: i32,
    kernel: Kernel,
}

/// Summed -log softmax(inp W^T + bias)[target] over targets other than `ignore_index`; with `grads`, the gradients of
/// `scale` times that sum. inp (N, C), weight (V, C), bias (V), targets (N), all checked.
pub fn forward_backward(
    inp: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    targets: &[i32],
    vocab: usize,
    cols: usize,
    ignore_index: i32,
    scale: f32,
    mut grads: Option<Grads>,
) -> Totals {
    if vocab == 0 || cols == 0 {
        // Without words every target is ignored; without features every logit is 0 (there is no bias then), and no
        // gradient has an element.
        if let Some(grads) = grads {
            grads.dinp.fill(0.0);
        }
        let counted = targets.iter().filter(|target| **target != ignore_index).count();
        let each = if vocab == 0 { 0.0 } else { (vocab as f64).ln() };
        return Totals { loss: counted as f64 * each, hits: counted };
    }
    let blocks = vocab.div_ceil(BLOCK);
    let most_rows = CHUNK.min(targets.len());
    let mut kept =
        Scratch::new(if grads.is_some() { vocab * (most_rows.next_multiple_of(NR) + PAD) } else { 0 });
    let mut totals = Totals { loss: 0.0, hits: 0 };
    for first in (0..targets.len()).step_by(CHUNK) {
        let rows = CHUNK.min(targets.len() - first);
        let stride = rows.next_multiple_of(NR) + PAD;
        let x = &inp[first * cols..(first + rows) * cols];
        let targets = &targets[first..first + rows];
        let kernel = kernel();
        let chunk = Chunk { weight, bias, cols, vocab, rows, stride, targets, ignore_index, kernel };
        // x^T (C, rows), for the logits.
        let x_t = pack_all(Mat::rows(x, cols).t(), rows, cols);

        let block_logits = |block: usize, logits: &mut [f32]| {
            chunk.logits(logits, block * BLOCK, x_t.get());
            chunk.exponentials(logits, block * BLOCK)
        };
        let stats: Vec<BlockStats> = if grads.is_some() {
            let kept = &mut kept.get_mut()[..vocab * stride];
            kept.par_chunks_mut(BLOCK * stride)
                .enumerate()
                .map(|(i, logits)| block_logits(i, logits))
                .collect()
        } else {
            let scratch = || Scratch::new(BLOCK * stride);
            let one =
                |scratch: &mut Scratch, i| block_logits(i, &mut scratch.get_mut()[..chunk.len(i) * stride]);
            (0..blocks).into_par_iter().map_init(scratch, one).collect()
        };

        // Merge the blocks' maxima and sums, in order.
        let mut lse = vec![0.0f32; rows];
        for (r, lse) in lse.iter_mut().enumerate() {
            let max = stats
                .iter()
                .map(|s| s.max[r])
                .fold(f32::NEG_INFINITY, |a, b| if a > b || a.is_nan() { a } else { b });
            let sum: f64 = stats.iter().map(|s| s.sum[r] as f64 * (s.max[r] as f64 - max as f64).exp()).sum();
            *lse = (max as f64 + sum.ln()) as f32;
            if targets[r] != ignore_index {
                let correct = stats[targets[r] as usize / BLOCK].correct[r];
                totals.loss += max as f64 + sum.ln() - correct as f64;
                totals.hits += usize::from(correct == max);
            }
        }

        let Some(grads) = &mut grads else { continue };
        // x (rows, C), for dW.
        let x_packed = pack_all(Mat::rows(x, cols), cols, rows);
        let per_part = blocks.div_ceil(PARTS);
        let kept = &mut kept.get_mut()[..vocab * stride];
        let part_kept = kept.par_chunks_mut(per_part * BLOCK * stride);
        let part_dweight = grads.dweight.par_chunks_mut(per_part * BLOCK * cols);
        // A part of the bias gradient for each part of the vocabulary; empty ones without a bias.
        let mut part_dbias: Vec<&mut [f32]> = grads.dbias.chunks_mut(per_part * BLOCK).collect();
        part_dbias.resize_with(blocks.div_ceil(per_part), Default::default);
        let partial: Vec<Scratch> = part_kept
            .zip(part_dweight)
            .zip(part_dbias)
            .enumerate()
            .map(|(part, ((kept, dweight), dbias))| {
                let mut dx_t = Scratch::new(cols * stride);
                dx_t.get_mut().fill(0.0);
                let blocks = kept.chunks_mut(BLOCK * stride).zip(dweight.chunks_mut(BLOCK * cols));
                for (i, (dlogits, dweight)) in blocks.enumerate() {
                    let block = part * per_part + i;
                    chunk.to_gradient(dlogits, block * BLOCK, &stats[block], &lse, scale);
                    chunk.dweight(dweight, dlogits, x_packed.get(), first > 0);
                    let dbias = dbias.iter_mut().skip(i * BLOCK);
                    for (dbias, dlogits) in dbias.zip(dlogits.chunks_exact(stride)) {
                        let sum = sum_row(&dlogits[..rows]);
                        *dbias = if first > 0 { *dbias + sum } else { sum };
                    }
                    chunk.dinp(dx_t.get_mut(), dlogits, block * BLOCK);
                }
                dx_t
            })
            .collect();
        let dinp = &mut grads.dinp[first * cols..(first + rows) * cols];
        super::parallel::rows_mut(dinp, cols, |first, dinp| {
            for (i, dinp) in dinp.chunks_exact_mut(cols).enumerate() {
                for (c, dinp) in dinp.iter_mut().enumerate() {
                    *dinp = partial.iter().map(|dx_t| dx_t.get()[c * stride + first + i]).sum();
                }
            }
        });
    }
    totals
}

/// What pass 1 keeps of a block, per input row.
struct BlockStats {
    /// Largest logit of the block.
    max: Vec<f32>,
    /// Sum of e^(logit - max).
    sum: Vec<f32>,
    /// The target's logit, where the target lies in this block.
    correct: Vec<f32>,
}

impl Chunk<'_> {
    /// Vocabulary rows of a block.
    fn len(&self, block: usize) -> usize {
        BLOCK.min(self.vocab - block * BLOCK)
    }

    /// Calls `tile(i, j, m, n)` for each register tile of an (m_total, n_total) output, columns outermost.
    fn tiles(m_total: usize, n_total: usize, mut tile: impl FnMut(usize, usize, usize, usize)) {
        for j in (0..n_total).step_by(NR) {
            for i in (0..m_total).step_by(MR) {
                tile(i, j, MR.min(m_total - i), NR.min(n_total - j));
            }
        }
    }

    /// logits^T (block rows, stride) = W block x^T + bias; columns beyond the chunk's rows become 0 + bias.
    fn logits(&self, logits: &mut [f32], token: usize, x_t: &[f32]) {
        let (cols, stride) = (self.cols, self.stride);
        let block_rows = logits.len() / stride;
        Self::tiles(block_rows, self.rows.next_multiple_of(NR), |i, j, m, n| {
            for p in (0..cols).step_by(KC) {
                let a = &self.weight[(token + i) * cols + p..];
                let b = &x_t[j * cols + p * NR..];
                let c = &mut logits[i * stride + j..];
                let k = KC.min(cols - p);
                let tile = Tile {
                    a,
                    a_row: cols,
                    a_col: 1,
                    b,
                    b_row: NR,
                    c: c.as_mut_ptr(),
                    c_row: stride,
                    m,
                    n,
                    k,
                    alpha: 1.0,
                    accumulate: p > 0,
                };
                // SAFETY: c holds rows i..i+m of the block, and 32 columns from j on fit into its stride.
                unsafe { tile.run(self.kernel) };
            }
        });
        if let Some(bias) = self.bias {
            add_to_rows(logits, stride, &bias[token..token + block_rows]);
        }
    }

    /// Replaces a block's logits by e^(logit - max) per column.
    fn exponentials(&self, logits: &mut [f32], token: usize) -> BlockStats {
        let stride = self.stride;
        let width = self.rows.next_multiple_of(NR);
        let mut stats =
            BlockStats { max: vec![0.0; width], sum: vec![0.0; width], correct: vec![0.0; self.rows] };
        let block_rows = logits.len() / stride;
        for (r, (correct, &target)) in stats.correct.iter_mut().zip(self.targets).enumerate() {
            if target != self.ignore_index && (token..token + block_rows).contains(&(target as usize)) {
                *correct = logits[(target as usize - token) * stride + r];
            }
        }
        exponentials(logits, stride, &mut stats.max, &mut stats.sum);
        stats
    }

    /// Turns kept exponentials into scale * (softmax - onehot).
    fn to_gradient(&self, kept: &mut [f32], token: usize, stats: &BlockStats, lse: &[f32], scale: f32) {
        let stride = self.stride;
        let mut factors = vec![0.0f32; stride];
        for (r, factor) in factors.iter_mut().enumerate().take(self.rows) {
            if self.targets[r] != self.ignore_index {
                *factor = scale * exp(stats.max[r] - lse[r]);
            }
        }
        multiply_rows(kept, &factors);
        let block_rows = kept.len() / stride;
        for (r, &target) in self.targets.iter().enumerate() {
            if target != self.ignore_index && (token..token + block_rows).contains(&(target as usize)) {
                kept[(target as usize - token) * stride + r] -= scale;
            }
        }
    }

    /// dW block (block rows, C) = dlogits^T x, or += that.
    fn dweight(&self, dweight: &mut [f32], dlogits: &[f32], x: &[f32], accumulate: bool) {
        let (cols, stride) = (self.cols, self.stride);
        Self::tiles(dlogits.len() / stride, cols, |i, j, m, n| {
            for p in (0..self.rows).step_by(KC) {
                let a = &dlogits[i * stride + p..];
                let b = &x[j * self.rows + p * NR..];
                let c = &mut dweight[i * cols + j..];
                let k = KC.min(self.rows - p);
                let tile = Tile {
                    a,
                    a_row: stride,
                    a_col: 1,
                    b,
                    b_row: NR,
                    c: c.as_mut_ptr(),
                    c_row: cols,
                    m,
                    n,
                    k,
                    alpha: 1.0,
                    accumulate: accumulate || p > 0,
                };
                // SAFETY: c holds rows i..i+m of this part of dW, and n columns from j on.
                unsafe { tile.run(self.kernel) };
            }
        });
    }

    /// dx^T (C, stride) += W block^T dlogits^T.
    fn dinp(&self, dx_t: &mut [f32], dlogits: &[f32], token: usize) {
        let (cols, stride) = (self.cols, self.stride);
        Self::tiles(cols, self.rows.next_multiple_of(NR), |i, j, m, n| {
            let a = &self.weight[token * cols + i..];
            let b = &dlogits[j..];
            let c = &mut dx_t[i * stride + j..];
            let tile = Tile {
                a,
                a_row: 1,
                a_col: cols,
                b,
                b_row: stride,
                c: c.as_mut_ptr(),
                c_row: stride,
                m,
                n,
                k: dlogits.len() / stride,
                alpha: 1.0,
                accumulate: true,
            };
            // SAFETY: c holds rows i..i+m of this part's dx^T, and 32 columns from j on fit into its stride.
            unsafe { tile.run(self.kernel) };
        });
    }
}

simd! {
    fn exponentials(logits: &mut [f32], stride: usize, max: &mut [f32], sum: &mut [f32]) {
        max.fill(f32::NEG_INFINITY);
        for row in logits.chunks_exact(stride) {
            max.iter_mut().zip(row).for_each(|(m, x)| *m = if *m > *x || m.is_nan() { *m } else { *x });
        }
        sum.fill(0.0);
        for row in logits.chunks_exact_mut(stride) {
            for ((x, m), sum) in row.iter_mut().zip(max.iter()).zip(sum.iter_mut()) {
                // A column of -infinity has max -infinity; e^(-inf + inf) would be NaN.
                *x = exp(*x - if *m == f32::NEG_INFINITY { 0.0 } else { *m });
                *sum += *x;
            }
        }
    }
}

simd! {
    /// Each row gets its value added.
    fn add_to_rows(rows: &mut [f32], stride: usize, values: &[f32]) {
        for (row, value) in rows.chunks_exact_mut(stride).zip(values) {
            row.iter_mut().for_each(|x| *x += value);
        }
    }
}

simd! {
    fn sum_row(row: &[f32]) -> f32 {
        sum_by(row, |x| x)
    }
}

simd! {
    fn multiply_rows(rows: &mut [f32], factors: &[f32]) {
        for row in rows.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
        }
    }
}

/// All panels of b (K, N).
fn pack_all(b: Mat<f32>, n: usize, k: usize) -> Scratch {
    let mut packed = Scratch::new(packed_len(n, k));
    let panels = packed.get_mut().par_chunks_exact_mut(NR * k);
    panels.enumerate().for_each(|(i, panel)| pack_panel(panel, b, i * NR, NR.min(n - i * NR), k));
    packed
}

/// Pooled f32 memory.
struct Scratch(Storage);

impl Scratch {
    fn new(len: usize) -> Self {
        Scratch(Storage::new(len * size_of::<f32>()))
    }

    fn get(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.as_bytes())
    }

    fn get_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.0.as_bytes_mut())
    }
}
