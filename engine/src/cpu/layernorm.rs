//! Layer normalisation on the CPU; one pass over memory, the row stays in cache for mean, variance and output.

use super::parallel;
use super::simd::{sum_by, sum_by2, sum_by3};
use crate::dtype::Float;
use crate::simd;

simd! {
    fn forward_row<E: Float>(out: &mut [E], inp: &[E], weight: &[E], bias: &[E], eps: f32) -> (f32, f32) {
        let count = inp.len() as f32;
        let mean = sum_by(inp, |x| x.to_f32()) / count;
        // Two passes: E[x^2] - E[x]^2 cancels when |mean| is large against the deviation.
        let var = sum_by(inp, |x| (x.to_f32() - mean) * (x.to_f32() - mean)) / count;
        let rstd = 1.0 / (var + eps).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(inp).zip(weight).zip(bias) {
            *out = E::from_f32(((x.to_f32() - mean) * rstd).mul_add(weight.to_f32(), bias.to_f32()));
        }
        (mean, rstd)
    }
}

simd! {
    fn backward_row<E: Float>(
        dinp: &mut [E], dout: &[E], inp: &[E], weight: &[E], mean: f32, rstd: f32, accumulate: bool,
    ) {
        let count = inp.len() as f32;
        // With x^ = (x - mean) rstd and g = dout weight:  dx = rstd (g - mean(g) - x^ mean(g x^)).
        let mean_g = sum_by2(dout, weight, |d, w| d.to_f32() * w.to_f32()) / count;
        let mean_gx =
            sum_by3(dout, weight, inp, |d, w, x| d.to_f32() * w.to_f32() * ((x.to_f32() - mean) * rstd)) / count;
        for (((dinp, dout), weight), inp) in dinp.iter_mut().zip(dout).zip(weight).zip(inp) {
            let normalised = (inp.to_f32() - mean) * rstd;
            let grad = rstd * (dout.to_f32() * weight.to_f32() - mean_g - normalised * mean_gx);
            *dinp = E::from_f32(if accumulate { dinp.to_f32() + grad } else { grad });
        }
    }
}

simd! {
    fn add_parameter_grads<E: Float>(sums: &mut [f32], dout: &[E], inp: &[E], mean: f32, rstd: f32) {
        let (dweight, dbias) = sums.split_at_mut(inp.len());
        for (((dweight, dbias), dout), inp) in dweight.iter_mut().zip(dbias).zip(dout).zip(inp) {
            *dweight += dout.to_f32() * ((inp.to_f32() - mean) * rstd);
            *dbias += dout.to_f32();
        }
    }
}

/// out (N, C); saves mean, rstd (N). `inp` (N, C), `weight`, `bias` (C).
pub fn forward<E: Float>(
    out: &mut [E],
    mean: &mut [f32],
    rstd: &mut [f32],
    inp: &[E],
    weight: &[E],
    bias: &[E],
    cols: usize,
    eps: f32,
) {
    let mut stats: Vec<[f32; 2]> = vec![[0.0; 2]; mean.len()];
    parallel::rows_mut2(out, cols, &mut stats, 1, |first, out, stats| {
        for (i, (out, stat)) in out.chunks_exact_mut(cols).zip(stats).enumerate() {
            let (mean, rstd) = forward_row(out, &inp[(first + i) * cols..][..cols], weight, bias, eps);
            *stat = [mean, rstd];
        }
    });
    for ((mean, rstd), stat) in mean.iter_mut().zip(rstd).zip(stats) {
        (*mean, *rstd) = (stat[0], stat[1]);
    }
}

/// dinp (N, C) overwritten or added to.
pub fn backward_input<E: Float>(
    dinp: &mut [E],
    dout: &[E],
    inp: &[E],
    weight: &[E],
    mean: &[f32],
    rstd: &[f32],
    cols: usize,
    accumulate: bool,
) {
    parallel::rows_mut(dinp, cols, |first, dinp| {
        for (i, dinp) in dinp.chunks_exact_mut(cols).enumerate() {
            let row = first + i;
            let range = row * cols..(row + 1) * cols;
            backward_row(dinp, &dout[range.clone()], &inp[range], weight, mean[row], rstd[row], accumulate);
        }
    });
}

/// The gradients of weight (first half) and bias (second half), summed over the rows.
pub fn backward_parameters<E: Float>(
    dout: &[E],
    inp: &[E],
    mean: &[f32],
    rstd: &[f32],
    cols: usize,
) -> Vec<f32> {
    parallel::sum_rows(mean.len(), 2 * cols, |row, sums| {
        let range = row * cols..(row + 1) * cols;
        add_parameter_grads(sums, &dout[range.clone()], &inp[range], mean[row], rstd[row]);
    })
}
