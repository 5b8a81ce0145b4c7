//! Softmax cross-entropy over given logits, on the CPU.

use rayon::prelude::*;

use super::softmax::exp_row;
use crate::dtype::Float;
use crate::simd;

simd! {
    fn backward_row<E: Float>(row: &mut [E], lse: f32, scale: f32) {
        for x in row {
            *x = E::from_f32(super::simd::exp(x.to_f32() - lse) * scale);
        }
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
