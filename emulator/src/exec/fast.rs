//! The lane operations that kernels spend their time in, as vectorised loops.
//!
//! Everything else goes through [`super::scalar`], one lane at a time. Arithmetic is that of PTX ISA 9.7.1 to 9.7.9:
//! integers wrap, shifts clamp at the register's width, f32 results that are NaN are 0x7fffffff.

// Negated comparisons are meant: `ltu` is true of NaN.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]

use super::lanes::lanes;

/// A NaN becomes the canonical one. On integers: the compiler takes the bits of a float NaN to be of no account, and
/// may drop a choice between NaNs.
#[inline(always)]
fn nan32(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

#[inline(always)]
fn nan64(x: f64) -> f64 {
    let bits = x.to_bits();
    f64::from_bits(if bits & !(1 << 63) > 0x7ff0_0000_0000_0000 { 0x7ff8_0000_0000_0000 } else { bits })
}

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
fn ftz(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

#[inline(always)]
fn min32(a: f32, b: f32) -> f32 {
    // Equal zeros: the OR of the signs picks -0.
    let less = if a < b {
        a
    } else if b < a {
        b
    } else {
        f32::from_bits(a.to_bits() | b.to_bits())
    };
    if a.is_nan() {
        nan32(b)
    } else if b.is_nan() {
        a
    } else {
        less
    }
}

#[inline(always)]
fn max32(a: f32, b: f32) -> f32 {
    let more = if a > b {
        a
    } else if b > a {
        b
    } else {
        f32::from_bits(a.to_bits() & b.to_bits())
    };
    if a.is_nan() {
        nan32(b)
    } else if b.is_nan() {
        a
    } else {
        more
    }
}

/// f32 to bf16, to nearest even.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7fff } else { bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// f32 to f16, to nearest even (Giesen's method: the adder of the processor rounds the subnormals).
#[inline(always)]
fn to_f16(x: f32) -> u32 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let normal = (magnitude.wrapping_add(0xc800_0fff).wrapping_add(magnitude >> 13 & 1)) >> 13;
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let special = if magnitude > 0x7f80_0000 { 0x7fff } else { 0x7c00 | sign };
    if magnitude >= 0x4780_0000 { special } else { finite | sign }
}

/// f16 to f32, exact.
#[inline(always)]
pub(super) fn from_f16(h: u32) -> f32 {
    let sign = (h & 0x8000) << 16;
    let shifted = (h & 0x7fff) << 13;
    let exponent = shifted & 0x0f80_0000;
    let rebased = shifted.wrapping_add(0x3800_0000);
    let special = rebased.wrapping_add(0x3800_0000);
    let subnormal =
        (f32::from_bits(rebased.wrapping_add(0x0080_0000)) - f32::from_bits(0x3880_0000)).to_bits();
    let bits = if exponent == 0x0f80_0000 {
        special
    } else if exponent == 0 {
        subnormal
    } else {
        rebased
    };
    nan32(f32::from_bits(bits | sign))
}

lanes! {
    mov16(a: u16) -> u16 = a;
    mov32(a: u32) -> u32 = a;
    mov64(a: u64) -> u64 = a;
    mov_pred(a: bool) -> bool = a;
    pack64(lo: u32, hi: u32) -> u64 = lo as u64 | (hi as u64) << 32;
    low64(a: u64) -> u32 = a as u32;
    high64(a: u64) -> u32 = (a >> 32) as u32;
    pack32(lo: u16, hi: u16) -> u32 = lo as u32 | (hi as u32) << 16;
    low32(a: u32) -> u16 = a as u16;
    high32(a: u32) -> u16 = (a >> 16) as u16;

    add16(a: u16, b: u16) -> u16 = a.wrapping_add(b);
    sub16(a: u16, b: u16) -> u16 = a.wrapping_sub(b);
    mul16(a: u16, b: u16) -> u16 = a.wrapping_mul(b);
    mul_wide_u16(a: u16, b: u16) -> u32 = a as u32 * b as u32;
    mul_wide_s16(a: i16, b: i16) -> i32 = a as i32 * b as i32;
    add32(a: u32, b: u32) -> u32 = a.wrapping_add(b);
    sub32(a: u32, b: u32) -> u32 = a.wrapping_sub(b);
    mul32(a: u32, b: u32) -> u32 = a.wrapping_mul(b);
    mad32(a: u32, b: u32, c: u32) -> u32 = a.wrapping_mul(b).wrapping_add(c);
    mul_hi_u32(a: u32, b: u32) -> u32 = ((a as u64 * b as u64) >> 32) as u32;
    mul_hi_s32(a: i32, b: i32) -> i32 = ((a as i64 * b as i64) >> 32) as i32;
    mul_wide_u32(a: u32, b: u32) -> u64 = a as u64 * b as u64;
    mul_wide_s32(a: i32, b: i32) -> i64 = a as i64 * b as i64;
    mad_wide_u32(a: u32, b: u32, c: u64) -> u64 = (a as u64 * b as u64).wrapping_add(c);
    mad_wide_s32(a: i32, b: i32, c: i64) -> i64 = (a as i64 * b as i64).wrapping_add(c);
    add64(a: u64, b: u64) -> u64 = a.wrapping_add(b);
    sub64(a: u64, b: u64) -> u64 = a.wrapping_sub(b);
    mul64(a: u64, b: u64) -> u64 = a.wrapping_mul(b);
    mad64(a: u64, b: u64, c: u64) -> u64 = a.wrapping_mul(b).wrapping_add(c);
    neg32(a: i32) -> i32 = a.wrapping_neg();
    neg64(a: i64) -> i64 = a.wrapping_neg();
    abs32(a: i32) -> i32 = a.wrapping_abs();
    min_u32(a: u32, b: u32) -> u32 = a.min(b);
    min_s32(a: i32, b: i32) -> i32 = a.min(b);
    max_u32(a: u32, b: u32) -> u32 = a.max(b);
    max_s32(a: i32, b: i32) -> i32 = a.max(b);
    min_u64(a: u64, b: u64) -> u64 = a.min(b);
    min_s64(a: i64, b: i64) -> i64 = a.min(b);
    max_u64(a: u64, b: u64) -> u64 = a.max(b);
    max_s64(a: i64, b: i64) -> i64 = a.max(b);

    and16(a: u16, b: u16) -> u16 = a & b;
    or16(a: u16, b: u16) -> u16 = a | b;
    xor16(a: u16, b: u16) -> u16 = a ^ b;
    not16(a: u16) -> u16 = !a;
    and32(a: u32, b: u32) -> u32 = a & b;
    or32(a: u32, b: u32) -> u32 = a | b;
    xor32(a: u32, b: u32) -> u32 = a ^ b;
    not32(a: u32) -> u32 = !a;
    and64(a: u64, b: u64) -> u64 = a & b;
    or64(a: u64, b: u64) -> u64 = a | b;
    xor64(a: u64, b: u64) -> u64 = a ^ b;
    not64(a: u64) -> u64 = !a;
    and_pred(a: bool, b: bool) -> bool = a & b;
    or_pred(a: bool, b: bool) -> bool = a | b;
    xor_pred(a: bool, b: bool) -> bool = a ^ b;
    not_pred(a: bool) -> bool = !a;
    shl16(a: u16, n: u32) -> u16 = if n > 15 { 0 } else { a << (n & 15) };
    shr_u16(a: u16, n: u32) -> u16 = if n > 15 { 0 } else { a >> (n & 15) };
    shr_s16(a: i16, n: u32) -> i16 = a >> n.min(15);
    shl32(a: u32, n: u32) -> u32 = if n > 31 { 0 } else { a << (n & 31) };
    shr_u32(a: u32, n: u32) -> u32 = if n > 31 { 0 } else { a >> (n & 31) };
    shr_s32(a: i32, n: u32) -> i32 = a >> n.min(31);
    shl64(a: u64, n: u32) -> u64 = if n > 63 { 0 } else { a << (n & 63) };
    shr_u64(a: u64, n: u32) -> u64 = if n > 63 { 0 } else { a >> (n & 63) };
    shr_s64(a: i64, n: u32) -> i64 = a >> n.min(63);

    eq16(a: u16, b: u16) -> bool = a == b;
    ne16(a: u16, b: u16) -> bool = a != b;
    eq32(a: u32, b: u32) -> bool = a == b;
    ne32(a: u32, b: u32) -> bool = a != b;
    lt_u32(a: u32, b: u32) -> bool = a < b;
    le_u32(a: u32, b: u32) -> bool = a <= b;
    gt_u32(a: u32, b: u32) -> bool = a > b;
    ge_u32(a: u32, b: u32) -> bool = a >= b;
    lt_s32(a: i32, b: i32) -> bool = a < b;
    le_s32(a: i32, b: i32) -> bool = a <= b;
    gt_s32(a: i32, b: i32) -> bool = a > b;
    ge_s32(a: i32, b: i32) -> bool = a >= b;
    eq64(a: u64, b: u64) -> bool = a == b;
    ne64(a: u64, b: u64) -> bool = a != b;
    lt_u64(a: u64, b: u64) -> bool = a < b;
    le_u64(a: u64, b: u64) -> bool = a <= b;
    gt_u64(a: u64, b: u64) -> bool = a > b;
    ge_u64(a: u64, b: u64) -> bool = a >= b;
    lt_s64(a: i64, b: i64) -> bool = a < b;
    le_s64(a: i64, b: i64) -> bool = a <= b;
    gt_s64(a: i64, b: i64) -> bool = a > b;
    ge_s64(a: i64, b: i64) -> bool = a >= b;
    eq_f32(a: f32, b: f32) -> bool = a == b;
    ne_f32(a: f32, b: f32) -> bool = a < b || a > b;
    neu_f32(a: f32, b: f32) -> bool = a != b;
    lt_f32(a: f32, b: f32) -> bool = a < b;
    le_f32(a: f32, b: f32) -> bool = a <= b;
    gt_f32(a: f32, b: f32) -> bool = a > b;
    ge_f32(a: f32, b: f32) -> bool = a >= b;
    ltu_f32(a: f32, b: f32) -> bool = !(a >= b);
    leu_f32(a: f32, b: f32) -> bool = !(a > b);
    gtu_f32(a: f32, b: f32) -> bool = !(a <= b);
    geu_f32(a: f32, b: f32) -> bool = !(a < b);
    selp16(a: u16, b: u16, p: bool) -> u16 = if p { a } else { b };
    selp32(a: u32, b: u32, p: bool) -> u32 = if p { a } else { b };
    selp64(a: u64, b: u64, p: bool) -> u64 = if p { a } else { b };

    add_f32(a: f32, b: f32) -> f32 = nan32(a + b);
    sub_f32(a: f32, b: f32) -> f32 = nan32(a - b);
    mul_f32(a: f32, b: f32) -> f32 = nan32(a * b);
    fma_f32(a: f32, b: f32, c: f32) -> f32 = nan32(a.mul_add(b, c));
    add_ftz_f32(a: f32, b: f32) -> f32 = nan32(ftz(ftz(a) + ftz(b)));
    sub_ftz_f32(a: f32, b: f32) -> f32 = nan32(ftz(ftz(a) - ftz(b)));
    mul_ftz_f32(a: f32, b: f32) -> f32 = nan32(ftz(ftz(a) * ftz(b)));
    fma_ftz_f32(a: f32, b: f32, c: f32) -> f32 = nan32(ftz(ftz(a).mul_add(ftz(b), ftz(c))));
    div_f32(a: f32, b: f32) -> f32 = nan32(a / b);
    sqrt_f32(a: f32) -> f32 = nan32(a.sqrt());
    rcp_f32(a: f32) -> f32 = nan32(1.0 / a);
    min_f32(a: f32, b: f32) -> f32 = min32(a, b);
    max_f32(a: f32, b: f32) -> f32 = max32(a, b);
    neg_f32(a: u32) -> u32 = a ^ 0x8000_0000;
    abs_f32(a: u32) -> u32 = a & 0x7fff_ffff;
    add_f64(a: f64, b: f64) -> f64 = nan64(a + b);
    sub_f64(a: f64, b: f64) -> f64 = nan64(a - b);
    mul_f64(a: f64, b: f64) -> f64 = nan64(a * b);
    fma_f64(a: f64, b: f64, c: f64) -> f64 = nan64(a.mul_add(b, c));
    div_f64(a: f64, b: f64) -> f64 = nan64(a / b);
    sqrt_f64(a: f64) -> f64 = nan64(a.sqrt());
    neg_f64(a: u64) -> u64 = a ^ 1 << 63;
    abs_f64(a: u64) -> u64 = a & !(1 << 63);

    cvt_s64_s32(a: i32) -> i64 = a as i64;
    cvt_u64_u32(a: u32) -> u64 = a as u64;
    cvt_u32_u64(a: u64) -> u32 = a as u32;
    cvt_f32_s32(a: i32) -> f32 = a as f32;
    cvt_f32_u32(a: u32) -> f32 = a as f32;
    cvt_rzi_s32_f32(a: f32) -> i32 = a as i32;
    cvt_rzi_u32_f32(a: f32) -> u32 = a as u32;
    cvt_f64_f32(a: f32) -> f64 = nan64(a as f64);
    cvt_f32_f64(a: f64) -> f32 = nan32(a as f32);
    cvt_bf16_f32(a: f32) -> u16 = to_bf16(a) as u16;
    cvt_f16_f32(a: f32) -> u16 = to_f16(a) as u16;
    cvt_bf16x2_f32(a: f32, b: f32) -> u32 = to_bf16(a) << 16 | to_bf16(b);
    cvt_f16x2_f32(a: f32, b: f32) -> u32 = to_f16(a) << 16 | to_f16(b);
    cvt_f32_bf16(a: u16) -> f32 = nan32(f32::from_bits((a as u32) << 16));
    cvt_f32_f16(a: u16) -> f32 = from_f16(a as u32);
}

#[cfg(test)]
mod tests {
    use super::super::soft::{self, Round};
    use super::*;

    #[test]
    fn sixteen_bit_conversions_match_exact_rounding() {
        for bits in 0..=u16::MAX {
            let expected = soft::convert(soft::F16, soft::F32, Round::Nearest, bits as u64) as u32;
            assert_eq!(from_f16(bits as u32).to_bits(), expected, "{bits:04x}");
        }
        for i in 0..(1u64 << 32) / 251 {
            let bits = (i * 251) as u32;
            let x = f32::from_bits(bits);
            assert_eq!(
                to_f16(x) as u64,
                soft::convert(soft::F32, soft::F16, Round::Nearest, bits as u64),
                "{bits:08x}"
            );
            if i % 7 == 0 {
                let expected = soft::convert(soft::F32, soft::BF16, Round::Nearest, bits as u64);
                assert_eq!(to_bf16(x) as u64, expected, "{bits:08x}");
            }
        }
    }

    #[test]
    fn minimum_and_maximum_follow_the_isa() {
        assert_eq!(min32(0.0, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(min32(-0.0, 0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(max32(-0.0, 0.0).to_bits(), 0.0f32.to_bits());
        assert_eq!(min32(f32::NAN, 2.0), 2.0);
        assert_eq!(max32(2.0, f32::NAN), 2.0);
        assert_eq!(max32(f32::NAN, f32::NAN).to_bits(), 0x7fff_ffff);
    }
}
