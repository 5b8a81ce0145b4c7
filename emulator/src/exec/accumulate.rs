//! The sums of matrix instructions, `mma.sync` and wgmma alike, in each mode of tensor-core arithmetic.
//!
//! The ISA leaves the order and the rounding of these sums open (PTX ISA 9.7.14 and 9.7.15), and GPUs differ. `ideal`:
//! products are exact, the sum is formed in f64 and rounded once, to nearest, by the caller. `ampere` and `hopper`
//! follow the model that MMA-Sim (Xie et al. 2025) found by measurement: the exact products and the accumulator are
//! aligned to the largest exponent among them, cut towards zero to F bits after the point, added exactly, and the sum
//! is cut to f32 (or rounded to nearest f16). A100 has F = 24 and adds 16 bytes of each row at a time (8 f16 or bf16,
//! 4 tf32); H100 has F = 25 and adds all at once, except FP8, with F = 13 and a sum of 13 bits.

use super::lanes::by_level;
use super::soft::{self, Round};
use crate::options::Tensor;

/// Element types, as far as sums depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    /// One to a register; the 13 low bits do not count.
    Tf32,
    E4m3,
    E5m2,
    Int,
}

impl Element {
    /// Exponent of its subnormals.
    fn lowest_exponent(self) -> i32 {
        match self {
            Element::F16 | Element::E5m2 => -14,
            Element::E4m3 => -6,
            _ => -126,
        }
    }
}

/// How a sum is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    Ideal,
    Aligned {
        /// Bits after the point of the aligned terms.
        fraction: i32,
        /// Products that are added at once.
        at_once: usize,
        /// Bits after the point of the sum; f16 when `half`.
        kept: u32,
        half: bool,
        /// Exponents of subnormals of A and B.
        lowest: [i32; 2],
    },
}

impl Sum {
    pub(super) fn new(mode: Tensor, a: Element, b: Element, half: bool) -> Sum {
        let fp8 = matches!(a, Element::E4m3 | Element::E5m2);
        let (fraction, at_once, kept) = match (mode, a) {
            (Tensor::Ideal, _) | (_, Element::Int) => return Sum::Ideal,
            (Tensor::Ampere, Element::Tf32) => (24, 4, 23),
            (Tensor::Ampere, _) if !fp8 => (24, 8, 23),
            _ if fp8 => (13, usize::MAX, 13),
            _ => (25, usize::MAX, 23),
        };
        Sum::Aligned { fraction, at_once, kept, half, lowest: [a.lowest_exponent(), b.lowest_exponent()] }
    }
}

by_level! {
    fn ideal(a: &[f64], b: &[f64], c: &mut [f64]) {
        let n = c.len();
        for (x, row) in a.iter().zip(b.chunks_exact(n)) {
            for (c, y) in c.iter_mut().zip(row) {
                *c += x * y;
            }
        }
    }
}

/// Adds the products of one row of A, K values, with B, `[k][n]`, to the sums `c`.
pub(super) fn accumulate(a: &[f64], b: &[f64], c: &mut [f64], sum: Sum) {
    let Sum::Aligned { at_once, .. } = sum else { return ideal(a, b, c) };
    let n = c.len();
    for start in (0..a.len()).step_by(at_once.min(a.len()).max(1)) {
        let end = start.saturating_add(at_once).min(a.len());
        for (column, c) in c.iter_mut().enumerate() {
            *c = aligned(&a[start..end], |k| b[(start + k) * n + column], *c, sum);
        }
    }
}

/// The exponent of a value, not below that of its type's subnormals.
fn exponent(v: f64, lowest: i32) -> i32 {
    ((v.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(lowest)
}

/// 2 to the power `e`, of a normal f64.
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

fn aligned(a: &[f64], b: impl Fn(usize) -> f64, c: f64, sum: Sum) -> f64 {
    let Sum::Aligned { fraction, kept, half, lowest, .. } = sum else { return c };
    let exact: f64 = c + a.iter().enumerate().map(|(k, x)| x * b(k)).sum::<f64>();
    if !exact.is_finite() {
        return exact;
    }
    // A product's exponent is the sum of its factors': its mantissa may be anything below 4. Zeros count for nothing.
    let mut top = if c == 0.0 { -126 } else { exponent(c, -126) };
    for (k, &x) in a.iter().enumerate().filter(|&(k, &x)| x * b(k) != 0.0) {
        top = top.max(exponent(x, lowest[0]) + exponent(b(k), lowest[1]));
    }
    // Every quotient is a shift of an exact value, and `as` cuts towards zero.
    let unit = power(top - fraction);
    let mut terms = (c / unit) as i64;
    for (k, &x) in a.iter().enumerate() {
        terms += (x * b(k) / unit) as i64;
    }
    let total = terms as f64 * unit;
    if half {
        let rounded = soft::convert(soft::F64, soft::F16, Round::Nearest, total.to_bits());
        return super::tensor::f16_value(rounded as u32);
    }
    cut(total, kept)
}

/// Cuts an f64 towards zero to an f32 with `kept` bits after the point; what f32 cannot hold becomes infinite.
fn cut(v: f64, kept: u32) -> f64 {
    if v.abs() >= power(128) {
        return f64::INFINITY.copysign(v);
    }
    let unit = power(exponent(v, -126) - kept as i32);
    (v / unit).trunc() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(mode: Tensor, element: Element, a: &[f64], b: &[f64], c: f64) -> f32 {
        let mut sums = [c];
        accumulate(a, b, &mut sums, Sum::new(mode, element, element, false));
        sums[0] as f32
    }

    /// f32 values near 1, in units of its last place, 2^-23.
    fn ulps(n: i32) -> f32 {
        1.0 + n as f32 * 2f32.powi(-23)
    }

    #[test]
    fn the_modes_differ_where_small_terms_meet_a_large_one() {
        // 1 + 7 * 2^-25 is 1.75 ulp above 1. To nearest: 2. Cut: 1. With 24 bits each 2^-25 is lost: 0.
        let mut a = [0.0; 16];
        a[..7].fill(2f64.powi(-12));
        let b = [2f64.powi(-13); 16];
        let modes = [Tensor::Ideal, Tensor::Hopper, Tensor::Ampere];
        assert_eq!(modes.map(|m| sum(m, Element::Bf16, &a, &b, 1.0)), [ulps(2), ulps(1), ulps(0)]);
    }

    #[test]
    fn ampere_adds_eight_at_a_time() {
        // Eight products of 2^-25 make 2^-22 before 1 is added: 2 ulp. In the same half as the 1 they are lost.
        let mut a = [0.0; 16];
        a[..8].fill(2f64.powi(-12));
        let mut b = [2f64.powi(-13); 16];
        (a[8], b[8]) = (1.0, 1.0);
        assert_eq!(sum(Tensor::Ampere, Element::Bf16, &a, &b, 0.0), ulps(2));
        a.swap(0, 8);
        b.swap(0, 8);
        // Now 1 + 7 * 2^-25 comes first and is cut to 1; the eighth is lost too.
        assert_eq!(sum(Tensor::Ampere, Element::Bf16, &a, &b, 0.0), ulps(0));
        assert_eq!(sum(Tensor::Hopper, Element::Bf16, &a, &b, 0.0), ulps(2));
    }

    #[test]
    fn terms_and_sums_are_cut_towards_zero_and_by_magnitude() {
        // -1 - 2^-24 - 2^-24 is -(1 + 1 ulp) exactly; three quarters of an ulp are cut in hopper, not rounded up.
        let b = [1.0, 2f64.powi(-24), 2f64.powi(-24)];
        assert_eq!(sum(Tensor::Hopper, Element::Bf16, &[-1.0, -1.0, -1.0], &b, 0.0), -ulps(1));
        let b = [1.0, 2f64.powi(-24), 2f64.powi(-25)];
        assert_eq!(sum(Tensor::Hopper, Element::Bf16, &[-1.0; 3], &b, 0.0), -ulps(0));
        assert_eq!(sum(Tensor::Ideal, Element::Bf16, &[-1.0; 3], &b, 0.0), -ulps(1));
    }

    #[test]
    fn a_product_is_aligned_by_its_factors_exponents() {
        // 1.5 * 1.5 = 2.25 has the exponent 0 of its factors, so with F = 25 a term of 2^-25 counts fully.
        let a = [1.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let b = [
            1.5,
            2f64.powi(-25),
            2f64.powi(-25),
            2f64.powi(-25),
            2f64.powi(-25),
            2f64.powi(-25),
            2f64.powi(-25),
            2f64.powi(-25),
            2f64.powi(-25),
        ];
        assert_eq!(sum(Tensor::Hopper, Element::Bf16, &a, &b, 0.0), 2.25 + 2f32.powi(-22));
        // Aligned to 4, as 2 * 1.125 would be to 2, half of the bits are gone.
        let a = [2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let b = [1.125, b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8]];
        assert_eq!(sum(Tensor::Hopper, Element::Bf16, &a, &b, 0.0), 2.25);
    }

    #[test]
    fn fp8_keeps_thirteen_bits_and_tf32_goes_by_fours() {
        // 1 + 2^-14: below 13 bits, gone; 1 + 2^-13 stays.
        let one = |x: f64| sum(Tensor::Hopper, Element::E4m3, &[1.0, x.sqrt()], &[1.0, x.sqrt()], 0.0);
        assert_eq!((one(2f64.powi(-14)), one(2f64.powi(-12))), (1.0, 1.0 + 2f32.powi(-12)));
        let mut a = [0.0; 8];
        a[..4].fill(2f64.powi(-12));
        let mut b = [2f64.powi(-13); 8];
        (a[4], b[4]) = (1.0, 1.0);
        // Four of 2^-25 make 1 ulp before 1 is added.
        assert_eq!(sum(Tensor::Ampere, Element::Tf32, &a, &b, 0.0), ulps(1));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let sums = |a: f64, b: f64, c: f64| sum(Tensor::Ampere, Element::Bf16, &[a], &[b], c);
        assert!(sums(f64::INFINITY, 0.0, 1.0).is_nan());
        assert_eq!(sums(f64::INFINITY, -1.0, 1.0), f32::NEG_INFINITY);
        let large = 2f64.powi(127);
        assert_eq!(sums(large, 1.0, large), f32::INFINITY);
    }
}
