//! GELU on the CPU, in its two forms; both through functions that stay accurate in the far negative tail.

use super::parallel;
use super::simd::{erfc, exp};
use crate::dtype::Float;
use crate::ops::gelu::Gelu;
use crate::simd;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// Value and derivative at x. The tanh form uses (1 + tanh u) / 2 = 1 / (1 + e^(-2u)), which keeps its relative
/// accuracy where tanh u rounds to -1.
#[inline(always)]
fn tanh_form(x: f32) -> (f32, f32) {
    let u = SQRT_2_OVER_PI * (CUBIC * x * x).mul_add(x, x);
    let gate = 1.0 / (1.0 + exp(-2.0 * u));
    let du = SQRT_2_OVER_PI * (3.0 * CUBIC * x).mul_add(x, 1.0);
    // d gate / dx = 2 gate (1 - gate) du; where gate is 0 or 1 it is 0, although du may have overflowed.
    let slope = 2.0 * gate * (1.0 - gate);
    (x * gate, gate + if slope == 0.0 { 0.0 } else { x * slope * du })
}

#[inline(always)]
fn erf_form(x: f32) -> (f32, f32) {
    let gate = 0.5 * erfc(-x * std::f32::consts::FRAC_1_SQRT_2);
    let density = 0.398_942_3 * exp(-0.5 * x * x);
    (x * gate, gate + x * density)
}

simd! {
    fn forward_run<E: Float>(out: &mut [E], inp: &[E], form: Gelu) {
        match form {
            Gelu::Tanh => out.iter_mut().zip(inp).for_each(|(o, x)| *o = E::from_f32(tanh_form(x.to_f32()).0)),
            Gelu::Erf => out.iter_mut().zip(inp).for_each(|(o, x)| *o = E::from_f32(erf_form(x.to_f32()).0)),
        }
    }
}

simd! {
    fn in_place_run<E: Float>(x: &mut [E], form: Gelu) {
        match form {
            Gelu::Tanh => x.iter_mut().for_each(|x| *x = E::from_f32(tanh_form(x.to_f32()).0)),
            Gelu::Erf => x.iter_mut().for_each(|x| *x = E::from_f32(erf_form(x.to_f32()).0)),
        }
    }
}

simd! {
    fn backward_run<E: Float>(dinp: &mut [E], dout: &[E], inp: &[E], form: Gelu, accumulate: bool) {
        for ((dinp, dout), inp) in dinp.iter_mut().zip(dout).zip(inp) {
            let slope = match form {
                Gelu::Tanh => tanh_form(inp.to_f32()).1,
                Gelu::Erf => erf_form(inp.to_f32()).1,
            };
            let grad = slope * dout.to_f32();
            *dinp = E::from_f32(if accumulate { dinp.to_f32() + grad } else { grad });
        }
    }
}

/// out[i] = gelu(inp[i])
pub fn forward<E: Float>(out: &mut [E], inp: &[E], form: Gelu) {
    parallel::rows_mut(out, 1, |start, out| forward_run(out, &inp[start..start + out.len()], form));
}

/// x[i] = gelu(x[i])
pub fn forward_in_place<E: Float>(x: &mut [E], form: Gelu) {
    parallel::rows_mut(x, 1, |_, x| in_place_run(x, form));
}

/// dinp[i] (+)= gelu'(inp[i]) dout[i]
pub fn backward<E: Float>(dinp: &mut [E], dout: &[E], inp: &[E], form: Gelu, accumulate: bool) {
    parallel::rows_mut(dinp, 1, |start, dinp| {
        let range = start..start + dinp.len();
        backward_run(dinp, &dout[range.clone()], &inp[range], form, accumulate);
    });
}
