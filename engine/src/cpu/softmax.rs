//! Row softmax on the CPU.

use super::parallel;
use super::simd::{exp, max_by, sum_by2};
use crate::dtype::Float;
use crate::simd;

simd! {
    /// Replaces scores by e^(score - max) and returns (max, sum). A row of -infinity gives zeros and sum 0.
    pub fn exp_row(row: &mut [f32]) -> (f32, f32) {
        let max = max_by(row, |x| x);
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut lanes = [0.0f32; super::simd::LANES];
        let (chunks, rest) = row.as_chunks_mut::<{ super::simd::LANES }>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp(*x - shift);
                *lane += *x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp(*x - shift);
            *lane += *x;
        }
        (max, super::simd::sum_lanes(lanes))
    }
}

/// What is done to scores before the softmax. Row n has row `n / repeat % count` of an array of `count` rows.
#[derive(Clone, Copy)]
pub enum Mask<'a, E> {
    None,
    /// 0 hides an element.
    Keys {
        data: &'a [i32],
        repeat: usize,
        count: usize,
    },
    /// Added to the scaled input.
    Added {
        data: &'a [E],
        repeat: usize,
        count: usize,
    },
}

simd! {
    fn scaled_row<E: Float>(scores: &mut [f32], inp: &[E], scale: f32) {
        for (s, x) in scores.iter_mut().zip(inp) {
            *s = x.to_f32() * scale;
        }
    }
}

simd! {
    fn hide(scores: &mut [f32], keys: &[i32]) {
        for (s, key) in scores.iter_mut().zip(keys) {
            *s = if *key == 0 { f32::NEG_INFINITY } else { *s };
        }
    }
}

simd! {
    fn add<E: Float>(scores: &mut [f32], added: &[E]) {
        for (s, x) in scores.iter_mut().zip(added) {
            *s += x.to_f32();
        }
    }
}

simd! {
    fn forward_row<E: Float>(out: &mut [E], scores: &mut [f32]) {
        let (_, sum) = exp_row(scores);
        // A row of -infinity has nothing to share out: 0, not NaN.
        let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        for (o, s) in out.iter_mut().zip(scores.iter()) {
            *o = E::from_f32(*s * inverse);
        }
    }
}

simd! {
    fn backward_row<E: Float>(dinp: &mut [E], dout: &[E], out: &[E], scale: f32, accumulate: bool) {
        let dot = sum_by2(dout, out, |d, p| d.to_f32() * p.to_f32());
        for ((dinp, dout), out) in dinp.iter_mut().zip(dout).zip(out) {
            let grad = scale * out.to_f32() * (dout.to_f32() - dot);
            *dinp = E::from_f32(if accumulate { dinp.to_f32() + grad } else { grad });
        }
    }
}

/// out (N, C) = softmax(scale * inp + mask) over each row.
pub fn forward<E: Float>(out: &mut [E], inp: &[E], mask: Mask<E>, cols: usize, scale: f32) {
    parallel::rows_mut(out, cols, |first, out| {
        let mut scores = vec![0.0; cols];
        for (i, out) in out.chunks_exact_mut(cols).enumerate() {
            let row = first + i;
            scaled_row(&mut scores, &inp[row * cols..][..cols], scale);
            match mask {
                Mask::None => {}
                Mask::Keys { data, repeat, count } => {
                    hide(&mut scores, &data[row / repeat % count * cols..][..cols]);
                }
                Mask::Added { data, repeat, count } => {
                    add(&mut scores, &data[row / repeat % count * cols..][..cols]);
                }
            }
            forward_row(out, &mut scores);
        }
    });
}

/// dinp (N, C) = scale * out * (dout - sum(dout * out)), overwritten or added to.
pub fn backward<E: Float>(dinp: &mut [E], dout: &[E], out: &[E], cols: usize, scale: f32, accumulate: bool) {
    parallel::rows_mut(dinp, cols, |first, dinp| {
        for (i, dinp) in dinp.chunks_exact_mut(cols).enumerate() {
            let range = (first + i) * cols..(first + i + 1) * cols;
            backward_row(dinp, &dout[range.clone()], &out[range], scale, accumulate);
        }
    });
}
