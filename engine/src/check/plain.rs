//! The rule for half precision: at most twice the error of the same computation done plainly in the same dtype.
//!
//! "Plainly" is what a program without fusion does: every array that it would store is rounded to the storage dtype, sums run in f32
//! in their natural order. Both errors are against f64 on the same inputs, so no tolerance has to be chosen
//! (docs/src/numerics.md, "Half precision").

use super::close::rms;
use super::oracle::{round, smallest};
use crate::cards::{Array, Card, Case};
use crate::dtype::DType;
use crate::ops::cross_entropy::IGNORE_INDEX;

/// How a computation rounds.
#[derive(Clone, Copy)]
pub struct Rounding {
    /// Every sum, product and function.
    pub arithmetic: fn(f64) -> f64,
    /// What is stored.
    pub storage: DType,
}

impl Rounding {
    /// The plain computation in `dtype`.
    pub fn plain(dtype: DType) -> Self {
        Rounding { arithmetic: |x| x as f32 as f64, storage: dtype }
    }

    /// None: f64 throughout.
    pub const NONE: Rounding = Rounding { arithmetic: |x| x, storage: DType::I32 };

    /// `x` as it is stored. (Integers stand for no rounding.)
    pub fn stored(&self, x: f64) -> f64 {
        round(x, self.storage)
    }

    fn dot(&self, a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).fold(0.0, |sum, (a, b)| (self.arithmetic)(sum + a * b))
    }
}

/// Judges `got`, of dtype `result`: its largest error and its root mean square error may be at most twice those of `plain`, and one unit in
/// the last place of `result` at the largest value (at the root mean square), which the plain way may happen to be spared. Where all
/// values are 0 by cancellation, that unit is one of `cancelled`, the size of what cancels.
///
/// # Errors
/// Which error is too large, and where the largest lies. NaN fails.
pub fn judge(
    what: &str,
    got: &[f64],
    exact: &[f64],
    plain: &[f64],
    result: DType,
    cancelled: f64,
) -> Result<(), String> {
    if got.len() != exact.len() || plain.len() != exact.len() {
        let (got, plain, exact) = (got.len(), plain.len(), exact.len());
        return Err(format!("{what}: {got} values got, {plain} plain ones, {exact} wanted"));
    }
    let errors = |x: &[f64]| -> Vec<f64> {
        x.iter().zip(exact).map(|(x, e)| if x == e { 0.0 } else { (x - e).abs() }).collect()
    };
    let (got_errors, plain_errors) = (errors(got), errors(plain));
    // NaN is the worst of all.
    let key = |e: f64| if e.is_nan() { f64::INFINITY } else { e };
    let largest = |x: &[f64]| x.iter().copied().map(key).fold(0.0, f64::max);
    let finite: Vec<f64> = exact.iter().copied().filter(|e| e.is_finite()).map(f64::abs).collect();
    let mean = |x: &[f64]| if x.iter().all(|e| e.is_finite()) { rms(x) } else { f64::INFINITY };
    for (kind, got_error, plain_error, size) in [
        ("largest", largest(&got_errors), largest(&plain_errors), largest(&finite)),
        ("root mean square", mean(&got_errors), mean(&plain_errors), rms(&finite)),
    ] {
        let size = if size == 0.0 { cancelled } else { size };
        let bound = 2.0 * plain_error + result.epsilon() * size + smallest(result);
        if !bound.is_finite() {
            return Err(format!("{what}: the plain computation is not finite, which judges nothing"));
        }
        // Not `got_error > bound`: NaN must fail.
        let fine = got_error <= bound;
        if !fine {
            let worst = (0..got.len()).max_by(|a, b| key(got_errors[*a]).total_cmp(&key(got_errors[*b])));
            let at = worst.unwrap_or(0);
            return Err(format!(
                "{what}: {kind} error {got_error:e}, at most {bound:e} is due (twice {plain_error:e} done plainly, and one rounding); \
                 worst at {at}: got {:e}, want {:e}, plainly {:e}",
                got[at], exact[at], plain[at]
            ));
        }
    }
    Ok(())
}

/// Gradients of dinp, dweight and dbias of the summed cross-entropy of inp weight^T + bias, times `upstream`. A plain program stores the
/// logits and their gradient, softmax - onehot; parameters' gradients are f32.
pub fn linear_cross_entropy(
    [inp, weight, bias]: [&[f64]; 3],
    targets: &[f64],
    cols: usize,
    upstream: f64,
    rounding: Rounding,
) -> [Vec<f64>; 3] {
    let Rounding { arithmetic, .. } = rounding;
    let vocab = weight.len().checked_div(cols).unwrap_or(bias.len());
    let mut grads = [inp, weight, bias].map(|x| vec![0.0; x.len()]);
    let add = |to: &mut f64, by: f64| *to = arithmetic(*to + by);
    for (n, target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE_INDEX as f64) {
        let row = &inp[n * cols..][..cols];
        let logit = |v: usize| {
            let product = rounding.dot(row, &weight[v * cols..][..cols]);
            rounding.stored(arithmetic(product + bias.get(v).unwrap_or(&0.0)))
        };
        let logits: Vec<f64> = (0..vocab).map(logit).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = logits.iter().map(|x| arithmetic((x - max).exp())).collect();
        let sum = powers.iter().fold(0.0, |sum, p| arithmetic(sum + p));
        for (v, power) in powers.iter().enumerate() {
            let onehot = (v as f64 == *target) as u8 as f64;
            let dlogit = rounding.stored(arithmetic(power / sum) - onehot);
            for c in 0..cols {
                add(&mut grads[0][n * cols + c], dlogit * weight[v * cols + c]);
                add(&mut grads[1][v * cols + c], dlogit * row[c]);
            }
            if let Some(dbias) = grads[2].get_mut(v) {
                add(dbias, dlogit);
            }
        }
    }
    let [dinp, dweight, dbias] = grads.map(|grad| grad.into_iter().map(|x| arithmetic(x * upstream)));
    [dinp.map(|x| rounding.stored(x)).collect(), dweight.collect(), dbias.collect()]
}

/// The gradients of a card's inputs, rounded as a plain program would or not at all, for the cards whose kernels store intermediates in half precision that
/// the cards' own tolerance does not count.
pub(super) fn gradients(
    card: &Card,
    case: &Case,
    x: &[Array],
    dout: &[f64],
    rounding: Rounding,
) -> Option<Vec<Vec<f64>>> {
    if card.op != "linear_cross_entropy" {
        return None;
    }
    let (targets, inputs) = x.split_last()?;
    let counted = targets.data.iter().filter(|target| **target != IGNORE_INDEX as f64).count() as f64;
    let divisor = if card.name.ends_with("divisor") { crate::cards::cross_entropy::DIVISOR } else { counted };
    let bias = inputs.get(2).map_or(&[][..], |bias| &bias.data);
    let upstream = if counted == 0.0 { 0.0 } else { dout[0] / divisor };
    let arrays = [&inputs[0].data[..], &inputs[1].data, bias];
    Some(linear_cross_entropy(arrays, &targets.data, case.sizes[2], upstream, rounding).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_plain_error_passes_and_more_does_not() {
        let exact = [1.0, -2.0, f64::NEG_INFINITY];
        let plain = [1.01, -2.0, f64::NEG_INFINITY];
        let judged = |got: [f64; 3]| judge("x", &got, &exact, &plain, DType::F32, 0.0);
        judged([1.0, -1.98, f64::NEG_INFINITY]).unwrap();
        assert!(judged([1.0, -1.97, f64::NEG_INFINITY]).unwrap_err().contains("largest error"));
        // Both small errors are within the largest one's bound, together they are too much on average.
        assert!(judged([1.018, -2.018, f64::NEG_INFINITY]).unwrap_err().contains("root mean square"));
        for wrong in [[f64::NAN, -2.0, f64::NEG_INFINITY], [1.0, -2.0, 0.0]] {
            assert!(judged(wrong).is_err(), "{wrong:?}");
        }
        // Of what cancels, one rounding may be left.
        let nothing = |got| judge("x", &[got], &[0.0], &[0.0], DType::F16, 4.0);
        nothing(0.0039).unwrap();
        assert!(nothing(0.004).is_err());
        assert!(judge("x", &exact[..2], &exact, &plain, DType::F32, 0.0).is_err());
    }
}
