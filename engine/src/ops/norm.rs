//! The global norm of all gradients, for clipping and for finding overflow.

use rayon::prelude::*;

use crate::cpu::simd::sum_by;
use crate::error::Result;
use crate::simd;
use crate::tensor::Tensor;

/// Elements whose squares are summed in f32 before f64 takes over.
const RUN: usize = 4096;

simd! {
    fn square_sum(x: &[f32]) -> f64 {
        let mut total = 0.0;
        for run in x.chunks(RUN) {
            let sum = sum_by(run, |x| x * x);
            // Squares leave the range of f32 long before the norm does.
            total += if sum.is_finite() && sum > 1e-30 {
                sum as f64
            } else {
                run.iter().map(|x| *x as f64 * *x as f64).sum::<f64>()
            };
        }
        total
    }
}

/// sqrt of the sum of squares over all elements of all gradients (f32 tensors); not finite when any element is not.
pub fn global_norm<'a>(grads: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let _time = crate::profile::scope("global_norm", crate::profile::Pass::Other);
    let mut total = 0.0;
    for grad in grads {
        let parts: Vec<f64> = grad.slice::<f32>()?.par_chunks(16 * RUN).map(square_sum).collect();
        total += parts.iter().sum::<f64>();
    }
    Ok(total.sqrt())
}

/// The factor that brings a gradient of norm `norm` down to `max_norm` (Pascanu, Mikolov, Bengio 2013): 1 when it is within,
/// or when `max_norm` is 0 (clipping off). Like PyTorch, divides by norm + 1e-6. NaN stays NaN.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    let factor = max_norm / (norm + 1e-6);
    if max_norm <= 0.0 || factor > 1.0 { 1.0 } else { factor }
}
