//! Floating-point operations of one lane: arithmetic in any format and rounding, approximations, comparisons and
//! conversions.

use super::integer::{extend, limits};
use super::scalar::{Approx, Compare, Finish, Float, OUT_OF_BOUNDS, Test, format_of};
use super::soft::{self, F32, F64, Format, Num, Round};
use crate::ptx::ast::Ty;

pub(super) fn finish(format: Format, how: Finish, bits: u64) -> u64 {
    let bits = if how.ftz { format.flush(bits) } else { bits };
    let sign = 1u64 << (format.mantissa + format.exponent);
    if format.is_nan(bits) {
        return if how.sat { 0 } else { format.nan() };
    }
    let negative = bits & sign != 0;
    if (how.relu || how.sat) && negative {
        return 0;
    }
    if how.sat {
        let one = ((1u64 << (format.exponent - 1)) - 1) << format.mantissa;
        return bits.min(one);
    }
    if how.satfinite && bits & (sign - 1) > format.largest() {
        return format.largest() | (bits & sign);
    }
    bits
}

/// Packed types run the operation on each half.
fn halves(ty: Ty, a: u64, b: u64, c: u64, f: impl Fn(u64, u64, u64) -> u64) -> u64 {
    if matches!(ty, Ty::F16x2 | Ty::BF16x2) {
        let low = f(a & 0xffff, b & 0xffff, c & 0xffff);
        let high = f(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff);
        return low & 0xffff | (high & 0xffff) << 16;
    }
    f(a, b, c)
}

/// Less-than on the bits of non-NaN floats, with -0 < +0.
fn total_less(sign: u64, a: u64, b: u64) -> bool {
    let key = |x: u64| if x & sign != 0 { -((x & (sign - 1)) as i128) - 1 } else { x as i128 };
    key(a) < key(b)
}

pub(super) fn float(op: Float, ty: Ty, mode: Round, how: Finish, a: u64, b: u64, c: u64) -> u64 {
    let format = format_of(ty);
    let sign = 1u64 << (format.mantissa + format.exponent);
    halves(ty, a, b, c, |a, b, c| {
        let flush = |x: u64| if how.ftz { format.flush(x) } else { x };
        let (a, b, c) = (flush(a), flush(b), flush(c));
        let num = |x| soft::decode(format, x);
        let extreme = |a: u64, b: u64, nan: bool, least: bool| match (format.is_nan(a), format.is_nan(b)) {
            (true, true) => format.nan(),
            (true, false) => {
                if nan {
                    format.nan()
                } else {
                    b
                }
            }
            (false, true) => {
                if nan {
                    format.nan()
                } else {
                    a
                }
            }
            _ => {
                if total_less(sign, a, b) == least {
                    a
                } else {
                    b
                }
            }
        };
        let xorsign = |nan, least| {
            let d = extreme(a & !sign, b & !sign, nan, least);
            if format.is_nan(d) { d } else { d & !sign | (a ^ b) & sign }
        };
        let bits = match op {
            Float::Add => soft::round(format, mode, soft::add(num(a), num(b), mode)),
            Float::Sub => soft::round(format, mode, soft::add(num(a), soft::negate(num(b)), mode)),
            Float::Mul => soft::round(format, mode, soft::mul(num(a), num(b))),
            Float::FmaOob if [a, b, c].contains(&OUT_OF_BOUNDS) => return 0,
            Float::Fma | Float::FmaOob => soft::fma_bits(format, mode, a, b, c),
            Float::Div => soft::round(format, mode, soft::div(num(a), num(b))),
            Float::Sqrt => soft::round(format, mode, soft::sqrt(num(a))),
            Float::Rcp => {
                let one = Num::Finite { negative: false, exponent: 0, mantissa: 1 };
                soft::round(format, mode, soft::div(one, num(a)))
            }
            Float::Min { nan } => extreme(a, b, nan, true),
            Float::Max { nan } => extreme(a, b, nan, false),
            Float::MinXorsign { nan } => xorsign(nan, true),
            Float::MaxXorsign { nan } => xorsign(nan, false),
            Float::Abs => return a & !sign,
            Float::Neg => return a ^ sign,
            Float::Copysign => return b & !sign | a & sign,
        };
        finish(format, how, bits)
    })
}

pub(super) fn approx(op: Approx, ty: Ty, ftz: bool, a: u64, b: u64) -> u64 {
    let format = format_of(ty);
    halves(ty, a, b, 0, |a, b, _| {
        let read = |x: u64| {
            let x = if ftz { format.flush(x) } else { x };
            f64::from_bits(soft::convert(format, F64, Round::Nearest, x))
        };
        let (x, y) = (read(a), read(b));
        let exact = match op {
            Approx::Rcp => 1.0 / x,
            Approx::Rsqrt => 1.0 / x.sqrt(),
            Approx::Sqrt => x.sqrt(),
            Approx::Sin => x.sin(),
            Approx::Cos => x.cos(),
            Approx::Lg2 => x.log2(),
            Approx::Ex2 => x.exp2(),
            Approx::Tanh => x.tanh(),
            Approx::Div => x / y,
            Approx::RcpUpper | Approx::RsqrtUpper => {
                let x = f64::from_bits(F64.flush(a & !0xffff_ffff));
                let v = if op == Approx::RcpUpper { 1.0 / x } else { 1.0 / x.sqrt() };
                return if v.is_nan() {
                    0x7fff_ffff_0000_0000
                } else {
                    F64.flush(v.to_bits()) & !0xffff_ffff
                };
            }
        };
        let bits = soft::convert(F64, format, Round::Nearest, exact.to_bits());
        if ftz { format.flush(bits) } else { bits }
    })
}

pub(super) fn compare(op: Compare, ty: Ty, ftz: bool, a: u64, b: u64) -> bool {
    use std::cmp::Ordering;
    let ordering = if ty.is_float() {
        let format = format_of(ty);
        let read = |x: u64| {
            let x = if ftz { format.flush(x) } else { x };
            f64::from_bits(soft::convert(format, F64, Round::Nearest, x))
        };
        read(a).partial_cmp(&read(b))
    } else {
        Some(extend(ty, a).cmp(&extend(ty, b)))
    };
    match op {
        Compare::Eq => ordering == Some(Ordering::Equal),
        Compare::Ne => matches!(ordering, Some(Ordering::Less | Ordering::Greater)),
        Compare::Lt => ordering == Some(Ordering::Less),
        Compare::Le => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
        Compare::Gt => ordering == Some(Ordering::Greater),
        Compare::Ge => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        Compare::Equ => matches!(ordering, None | Some(Ordering::Equal)),
        Compare::Neu => ordering != Some(Ordering::Equal),
        Compare::Ltu => matches!(ordering, None | Some(Ordering::Less)),
        Compare::Leu => ordering != Some(Ordering::Greater),
        Compare::Gtu => matches!(ordering, None | Some(Ordering::Greater)),
        Compare::Geu => ordering != Some(Ordering::Less),
        Compare::Num => ordering.is_some(),
        Compare::Nan => ordering.is_none(),
    }
}

pub(super) fn test(op: Test, ty: Ty, a: u64) -> bool {
    let format = format_of(ty);
    let value = soft::decode(format, a);
    let subnormal =
        matches!(value, Num::Finite { .. }) && matches!(soft::decode(format, format.flush(a)), Num::Zero(_));
    match op {
        Test::Finite => !matches!(value, Num::Nan | Num::Infinity(_)),
        Test::Infinite => matches!(value, Num::Infinity(_)),
        Test::Number => value != Num::Nan,
        Test::NotANumber => value == Num::Nan,
        Test::Normal => matches!(value, Num::Finite { .. }) && !subnormal,
        Test::Subnormal => subnormal,
    }
}

pub(super) fn convert(to: Ty, from: Ty, mode: Round, how: Finish, a: u64) -> u64 {
    match (to.is_float(), from.is_float()) {
        (false, false) => {
            let v = extend(from, a);
            let (low, high) = limits(to);
            extend(to, (if how.sat { v.clamp(low, high) } else { v }) as u64) as u64
        }
        (true, false) => {
            let v = extend(from, a);
            let bits = soft::from_integer(format_of(to), mode, v < 0, v.unsigned_abs() as u64);
            finish(format_of(to), Finish { ftz: how.ftz && to == Ty::F32, ..how }, bits)
        }
        (false, true) => {
            let format = format_of(from);
            let a = if how.ftz && from == Ty::F32 { format.flush(a) } else { a };
            let (low, high) = limits(to);
            match soft::to_integer(soft::decode(format, a), mode) {
                None if from != Ty::F64 && to.bytes() < 8 => 0,
                None => 1u64 << (to.bytes() * 8 - 1),
                Some((negative, magnitude)) => {
                    let magnitude = magnitude.min(1 << 100) as i128;
                    extend(to, (if negative { -magnitude } else { magnitude }).clamp(low, high) as u64) as u64
                }
            }
        }
        (true, true) if to == Ty::TF32 => {
            // The upper 19 bits of an f32.
            let format = Format { mantissa: 10, exponent: 8, has_infinity: true };
            finish(format, how, soft::convert(F32, format, mode, a)) << 13
        }
        (true, true) => {
            let a = if how.ftz && from == Ty::F32 { F32.flush(a) } else { a };
            let bits = soft::convert(format_of(from), format_of(to), mode, a);
            finish(format_of(to), Finish { ftz: how.ftz && to == Ty::F32, ..how }, bits)
        }
    }
}

pub(super) fn round_integral(ty: Ty, mode: Round, how: Finish, a: u64) -> u64 {
    let format = format_of(ty);
    let a = if how.ftz { format.flush(a) } else { a };
    let value = soft::decode(format, a);
    let bits = match value {
        Num::Finite { negative, exponent, .. } if exponent < 0 => match soft::to_integer(value, mode) {
            Some((_, 0)) | None => soft::round(format, mode, Num::Zero(negative)),
            Some((_, magnitude)) => {
                soft::round(format, mode, Num::Finite { negative, exponent: 0, mantissa: magnitude })
            }
        },
        _ => soft::round(format, mode, value),
    };
    finish(format, how, bits)
}

/// e4m3/e5m2 always saturate to the largest finite; NaN stays NaN (PTX ISA 9.7.9.21, `.satfinite`).
pub(super) fn to_fp8(ty: Ty, from: Format, how: Finish, a: u64) -> u64 {
    let format = format_of(ty);
    let value = soft::decode(from, a);
    let sign = 1u64 << 7;
    if value == Num::Nan {
        return format.nan();
    }
    let magnitude = match value {
        Num::Infinity(_) => format.largest(),
        _ => {
            // To nearest, but never past the largest.
            let bits = soft::round(format, Round::Nearest, value) & (sign - 1);
            if bits > format.largest() { format.largest() } else { bits }
        }
    };
    let negative =
        matches!(value, Num::Infinity(true) | Num::Zero(true) | Num::Finite { negative: true, .. });
    match (negative, how.relu) {
        (true, true) => 0,
        (true, false) => magnitude | sign,
        _ => magnitude,
    }
}
