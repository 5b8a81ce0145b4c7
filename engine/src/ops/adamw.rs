//! AdamW over all parameters in one call (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; the bias correction of
//! Kingma and Ba 2015).

use rayon::prelude::*;

use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::simd;
use crate::tensor::Tensor;

/// Elements per task.
const TASK: usize = 64 * 1024;

/// One parameter and its state.
pub struct Parameter<'a> {
    /// What the model computes with: f32, or the half-precision copy of `master`.
    pub value: &'a mut Tensor,
    /// The f32 original of a half-precision `value`.
    pub master: Option<&'a mut Tensor>,
    /// f32.
    pub grad: &'a Tensor,
    /// First moment, f32.
    pub m: &'a mut Tensor,
    /// Second moment, f32.
    pub v: &'a mut Tensor,
    /// Decoupled weight decay of this parameter.
    pub weight_decay: f32,
}

/// What all parameters share in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    /// 1 for the first step.
    pub step: u64,
    /// Multiplies every gradient first: clip factor / loss scale.
    pub grad_scale: f32,
}

struct Factors {
    grad_scale: f32,
    beta1: f32,
    beta2: f32,
    /// lr / (1 - beta1^t)
    step_size: f32,
    /// 1 / sqrt(1 - beta2^t)
    v_correction: f32,
    eps: f32,
    /// 1 - lr * weight_decay
    keep: f32,
}

simd! {
    fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], f: &Factors) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * f.grad_scale;
            *m = f.beta1 * *m + (1.0 - f.beta1) * g;
            *v = f.beta2 * *v + (1.0 - f.beta2) * g * g;
            *p = *p * f.keep - f.step_size * *m / (v.sqrt() * f.v_correction + f.eps);
        }
    }
}

/// Updates values, masters and moments:
/// m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p (1 - lr wd) - lr m^/(sqrt(v^) + eps), m^ and v^ bias-corrected.
///
/// # Errors
/// [`Error::Shape`] and [`Error::DType`] when the tensors of a parameter do not belong together, [`Error::Value`]
/// when a half-precision value has no master or `step` is 0.
pub fn adamw(parameters: &mut [Parameter], step: Step) -> Result<()> {
    let _time = crate::profile::scope("adamw", crate::profile::Pass::Other);
    const OP: &str = "adamw";
    if step.step == 0 {
        return Err(Error::value(OP, "step is 0, but steps count from 1: bias correction would divide by 0"));
    }
    for p in parameters.iter_mut() {
        super::same_shape(OP, "value", p.value, "grad", p.grad)?;
        super::same_shape(OP, "value", p.value, "m", p.m)?;
        super::same_shape(OP, "value", p.value, "v", p.v)?;
        if let Some(master) = &p.master {
            super::same_shape(OP, "value", p.value, "master", master)?;
        }
        if p.value.dtype() != DType::F32 && p.master.is_none() {
            let message = format!("a {} parameter needs an f32 master", p.value.dtype());
            return Err(Error::value(OP, message));
        }
    }
    let (beta1, beta2) = step.betas;
    let mut tasks = Vec::new();
    for p in parameters.iter_mut() {
        let factors = Factors {
            grad_scale: step.grad_scale,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            step_size: (step.lr / (1.0 - beta1.powi(step.step as i32))) as f32,
            v_correction: (1.0 / (1.0 - beta2.powi(step.step as i32)).sqrt()) as f32,
            eps: step.eps as f32,
            keep: (1.0 - step.lr * p.weight_decay as f64) as f32,
        };
        let factors = std::sync::Arc::new(factors);
        let value = match &mut p.master {
            Some(master) => master.slice_mut::<f32>()?,
            None => p.value.slice_mut::<f32>()?,
        };
        let chunks = value
            .chunks_mut(TASK)
            .zip(p.grad.slice::<f32>()?.chunks(TASK))
            .zip(p.m.slice_mut::<f32>()?.chunks_mut(TASK))
            .zip(p.v.slice_mut::<f32>()?.chunks_mut(TASK));
        tasks.extend(chunks.map(|(((p, g), m), v)| (p, g, m, v, factors.clone())));
    }
    tasks.into_par_iter().for_each(|(p, g, m, v, factors)| update(p, g, m, v, &factors));
    for p in parameters.iter_mut() {
        let Some(master) = &p.master else { continue };
        dispatch_float!(p.value.dtype(), OP, "value", |E| {
            crate::cpu::elementwise::narrow_into(p.value.slice_mut::<E>()?, master.slice::<f32>()?, false);
            Ok(())
        })?;
    }
    Ok(())
}
