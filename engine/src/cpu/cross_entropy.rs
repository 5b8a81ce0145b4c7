//! Softmax cross-entropy on the CPU: over given logits, and fused with the vocabulary matmul.

use rayon::prelude::*;

use super::matmul::{Mat, Threads, gemm_f32};
use super::softmax::exp_row;
use crate::dtype::Float;
use crate::simd;
use crate::storage::Storage;

/// Rows of logits in memory at once in [`linear_forward_backward`].
pub const CHUNK: usize = 256;

simd! {
    fn backward_row<E: Float>(row: &mut [E], lse: f32, scale: f32) {
        for x in row {
            *x = E::from_f32(super::simd::exp(x.to_f32() - lse) * scale);
        }
    }
}

simd! {
    fn scale_row(row: &mut [f32], factor: f32) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Log-sum-exp of each row of logits (N, V), and the summed loss over rows whose target is not `ignore_index`.
pub fn forward<E: Float>(
    lse: &mut [f32],
    logits: &[E],
    targets: &[i32],
    vocab: usize,
    ignore_index: i32,
) -> f64 {
    if vocab == 0 {
        return 0.0; // every target is ignored
    }
    let losses: Vec<f64> = lse
        .par_iter_mut()
        .zip(logits.par_chunks_exact(vocab))
        .zip(targets)
        .map_init(
            || vec![0.0f32; vocab],
            |scratch, ((lse, row), &target)| {
                scratch.iter_mut().zip(row).for_each(|(s, x)| *s = x.to_f32());
                let (max, sum) = exp_row(scratch);
                *lse = max + sum.ln();
                if target == ignore_index { 0.0 } else { (*lse - row[target as usize].to_f32()) as f64 }
            },
        )
        .collect();
    losses.iter().sum()
}

/// Replaces logits (N, V) by their gradient: scale * (softmax - onehot), and 0 in ignored rows.
pub fn backward_in_place<E: Float>(
    logits: &mut [E],
    lse: &[f32],
    targets: &[i32],
    vocab: usize,
    ignore_index: i32,
    scale: f32,
) {
    logits.par_chunks_exact_mut(vocab.max(1)).zip(lse).zip(targets).for_each(|((row, &lse), &target)| {
        if target == ignore_index {
            row.fill(E::from_f32(0.0));
            return;
        }
        let correct = super::simd::exp(row[target as usize].to_f32() - lse);
        backward_row(row, lse, scale);
        row[target as usize] = E::from_f32((correct - 1.0) * scale);
    });
}

/// Where [`linear_forward_backward`] puts gradients.
pub struct LinearGrads<'a> {
    /// (N, C), overwritten.
    pub dinp: &'a mut [f32],
    /// (V, C), overwritten.
    pub dweight: &'a mut [f32],
}

/// logits = inp (N, C) weight^T (V, C), [`CHUNK`] rows at a time; returns the summed loss of the counted rows.
///
/// With `grads`, each chunk's logits are turned into their gradient while they are still in cache and multiplied on:
/// three matmuls in all, and never more than CHUNK rows of logits in memory. Gradients are those of `scale` times the
/// summed loss.
pub fn linear_forward_backward(
    inp: &[f32],
    weight: &[f32],
    targets: &[i32],
    vocab: usize,
    cols: usize,
    ignore_index: i32,
    scale: f32,
    mut grads: Option<LinearGrads>,
) -> f64 {
    let rows = targets.len();
    if vocab == 0 {
        if let Some(grads) = grads {
            grads.dinp.fill(0.0);
        }
        return 0.0; // every target is ignored
    }
    let mut logits = Storage::new(CHUNK.min(rows) * vocab * size_of::<f32>());
    let logits: &mut [f32] = bytemuck::cast_slice_mut(logits.as_bytes_mut());
    let mut loss = 0.0;
    for first in (0..rows).step_by(CHUNK) {
        let count = CHUNK.min(rows - first);
        let logits = &mut logits[..count * vocab];
        let inp = Mat::rows(&inp[first * cols..(first + count) * cols], cols);
        gemm_f32(
            logits,
            vocab,
            inp,
            Mat::rows(weight, cols).t(),
            count,
            vocab,
            cols,
            1.0,
            false,
            Threads::All,
        );
        let losses: Vec<f64> = logits
            .par_chunks_exact_mut(vocab)
            .zip(&targets[first..first + count])
            .map(|(row, &target)| {
                if target == ignore_index {
                    row.fill(0.0);
                    return 0.0;
                }
                let correct = row[target as usize];
                let (max, sum) = exp_row(row);
                scale_row(row, scale / sum);
                row[target as usize] -= scale;
                (max + sum.ln() - correct) as f64
            })
            .collect();
        loss += losses.iter().sum::<f64>();
        if let Some(grads) = &mut grads {
            let dlogits = Mat::rows(logits, vocab);
            let dinp = &mut grads.dinp[first * cols..(first + count) * cols];
            gemm_f32(
                dinp,
                cols,
                dlogits,
                Mat::rows(weight, cols),
                count,
                cols,
                vocab,
                1.0,
                false,
                Threads::All,
            );
            gemm_f32(grads.dweight, cols, dlogits.t(), inp, vocab, cols, count, 1.0, first > 0, Threads::All);
        }
    }
    loss
}
