//! Root-mean-square normalisation on the CPU; the row stays in cache for its mean square and its output.

use super::parallel;
use super::simd::{sum_by, sum_by3};
use crate::dtype::Float;
use crate::simd;

simd! {
    fn forward_row<E: Float>(out: &mut [E], inp: &[E], weight: &[E], eps: f32) -> f32 {
        let mean_square = sum_by(inp, |x| x.to_f32() * x.to_f32()) / inp.len() as f32;
        let rstd = 1.0 / (mean_square + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(inp).zip(weight) {
            *out = E::from_f32(x.to_f32() * rstd * weight.to_f32());
        }
        rstd
    }
}

simd! {
    fn backward_row<E: Float>(
        dinp: &mut [E], dout: &[E], inp: &[E], weight: &[E], rstd: f32, accumulate: bool,
    ) {
        // With x^ = x rstd and g = dout weight:  dx = rstd (g - x^ mean(g x^)).
        let sum_gx = sum_by3(dout, weight, inp, |d, w, x| d.to_f32() * w.to_f32() * (x.to_f32() * rstd));
        let mean_gx = sum_gx / inp.len() as f32;
        for (((dinp, dout), weight), inp) in dinp.iter_mut().zip(dout).zip(weight).zip(inp) {
            let grad = rstd * (dout.to_f32() * weight.to_f32() - inp.to_f32() * rstd * mean_gx);
            *dinp = E::from_f32(if accumulate { dinp.to_f32() + grad } else { grad });
        }
    }
}

simd! {
    fn add_weight_grad<E: Float>(dweight: &mut [f32], dout: &[E], inp: &[E], rstd: f32) {
        for ((dweight, dout), inp) in dweight.iter_mut().zip(dout).zip(inp) {
            *dweight += dout.to_f32() * (inp.to_f32() * rstd);
        }
    }
}

/// out (N, C); saves rstd (N). `inp` (N, C), `weight` (C).
pub fn forward<E: Float>(out: &mut [E], rstd: &mut [f32], inp: &[E], weight: &[E], cols: usize, eps: f32) {
    parallel::rows_mut2(out, cols, rstd, 1, |first, out, rstd| {
        for (i, (out, rstd)) in out.chunks_exact_mut(cols).zip(rstd).enumerate() {
            *rstd = forward_row(out, &inp[(first + i) * cols..][..cols], weight, eps);
        }
    });
}

/// dinp (N, C) overwritten or added to.
pub fn backward_input<E: Float>(
    dinp: &mut [E],
    dout: &[E],
    inp: &[E],
    weight: &[E],
    rstd: &[f32],
    cols: usize,
    accumulate: bool,
) {
    parallel::rows_mut(dinp, cols, |first, dinp| {
        for (i, dinp) in dinp.chunks_exact_mut(cols).enumerate() {
            let row = first + i;
            let range = row * cols..(row + 1) * cols;
            backward_row(dinp, &dout[range.clone()], &inp[range], weight, rstd[row], accumulate);
        }
    });
}

/// The gradient of weight (C), summed over the rows.
pub fn backward_weight<E: Float>(dout: &[E], inp: &[E], rstd: &[f32], cols: usize) -> Vec<f32> {
    parallel::sum_rows(rstd.len(), cols, |row, dweight| {
        let range = row * cols..(row + 1) * cols;
        add_weight_grad(dweight, &dout[range.clone()], &inp[range], rstd[row]);
    })
}
