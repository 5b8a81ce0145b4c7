//! Dropout on the CPU: the mask is a function of the stream and the element's index, never stored.

use super::parallel;
use crate::dtype::Float;
use crate::philox::Stream;
use crate::simd;

/// A draw keeps its element when its upper 24 bits reach this.
#[inline(always)]
pub fn threshold(drop_prob: f32) -> u32 {
    (drop_prob * 16_777_216.0) as u32
}

simd! {
    /// factors[j] = 0 or `keep` for the elements whose draws are words 4 * first_word .. of the stream.
    pub fn fill_factors(factors: &mut [f32], first_word: u64, stream: Stream, threshold: u32, keep: f32) {
        let mut bits = [[0u32; 4]; 16];
        for (block, factors) in factors.chunks_mut(64).enumerate() {
            let word = first_word + 16 * block as u64;
            for (i, bits) in bits.iter_mut().enumerate() {
                *bits = stream.words(word + i as u64);
            }
            for (factor, &bits) in factors.iter_mut().zip(bits.as_flattened()) {
                *factor = if bits >> 8 >= threshold { keep } else { 0.0 };
            }
        }
    }
}

simd! {
    fn scale_run<E: Float>(out: &mut [E], inp: &[E], factors: &[f32], accumulate: bool) {
        for ((out, inp), factor) in out.iter_mut().zip(inp).zip(factors) {
            let value = inp.to_f32() * factor;
            *out = E::from_f32(if accumulate { out.to_f32() + value } else { value });
        }
    }
}

/// out[i] (+)= inp[i] * (0 or 1/(1 - drop_prob)). The backward is the same call on the gradient.
pub fn apply<E: Float>(out: &mut [E], inp: &[E], drop_prob: f32, stream: Stream, accumulate: bool) {
    let (threshold, keep) = (threshold(drop_prob), 1.0 / (1.0 - drop_prob));
    parallel::rows_mut(out, 64, |first, out| {
        let mut factors = [0.0; 1024];
        for (i, out) in out.chunks_mut(1024).enumerate() {
            let start = first * 64 + i * 1024;
            let factors = &mut factors[..out.len()];
            fill_factors(factors, start as u64 / 4, stream, threshold, keep);
            scale_run(out, &inp[start..start + out.len()], factors, accumulate);
        }
    });
}
