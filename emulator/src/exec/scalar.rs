//! Every per-lane operation that has no vectorised loop, as one function of up to three 64-bit values.
//!
//! Integers go through [`super::integer`], 16-bit floats and directed rounding through [`super::soft`]. Values
//! narrower than 64 bits are passed zero-extended, and results are cut to the destination's width by the caller.

use super::integer::{bits, extend, int, limits};
use super::soft::{self, BF16, E4M3, E5M2, F16, F32, F64, Format, Num, Round};
use crate::ptx::ast::Ty;

/// Integer operations (PTX ISA 9.7.1), on the instruction's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int {
    Add,
    Sub,
    MulLo,
    MulHi,
    MadLo,
    MadHi,
    MulWide,
    MadWide,
    Div,
    Rem,
    Min,
    Max,
    Abs,
    Neg,
    Sad,
    Bfe,
    Bfind { shift_amount: bool },
    Mul24 { high: bool },
    Mad24 { high: bool },
    Szext { clamp: bool },
}

/// Untyped bit operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    Popc,
    Clz,
    Brev,
    Bfi,
    Cnot,
    Bmsk { clamp: bool },
    Fns,
    Shf { left: bool, clamp: bool },
    Prmt(Prmt),
    Lop3(u8),
}

/// Modes of `prmt` (PTX ISA 9.7.9.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prmt {
    Generic,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
    Min { nan: bool },
    Max { nan: bool },
    MinXorsign { nan: bool },
    MaxXorsign { nan: bool },
    Abs,
    Neg,
    Copysign,
}

/// Functions of the special function unit: computed in f64 and rounded once to the type, which is within every
/// bound the ISA states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approx {
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Lg2,
    Ex2,
    Tanh,
    Div,
    /// The f64 forms that use and give the upper 32 bits only.
    RcpUpper,
    RsqrtUpper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// What happens to a float result after rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Finish {
    pub ftz: bool,
    /// Clamp to [0, 1], NaN to +0.
    pub sat: bool,
    /// Negative to +0, NaN canonical.
    pub relu: bool,
    /// Beyond the largest: the largest, instead of an infinity.
    pub satfinite: bool,
}

/// One operation with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Int(Int, Ty, bool),
    Bits(Bits, u32),
    Float(Float, Ty, Round, Finish),
    Approx(Approx, Ty, bool),
    /// Compare two values of a type.
    Compare(Compare, Ty, bool),
    Test(Test, Ty),
    /// `slct`: c >= 0 ? a : b, with c of the type.
    Slct(Ty, bool),
    /// From the second type to the first.
    Convert(Ty, Ty, Round, Finish),
    /// `a` to the high half, `b` to the low half.
    ConvertPair(Ty, Round, Finish),
    ConvertPackedFp8(Ty, Ty, Finish),
    /// `cvt.rni.f32.f32`: to an integral value of the same type.
    RoundIntegral(Ty, Round, Finish),
    CvtPack(Ty),
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
    Dp2a {
        high: bool,
        a_signed: bool,
        b_signed: bool,
    },
    /// The result of `set`: all ones, or 1.0.
    SetResult(Ty),
    /// Carry out of a + b + carry-in (`true`: borrow out of a - b - borrow-in); c is the carry.
    CarryOut(u32, bool),
    AddCarry(bool),
}

/// The format of a scalar float type, or of one half of a packed one.
pub fn format_of(ty: Ty) -> Format {
    match ty {
        Ty::F16 | Ty::F16x2 => F16,
        Ty::BF16 | Ty::BF16x2 => BF16,
        Ty::F64 => F64,
        Ty::E4M3 | Ty::E4M3x2 => E4M3,
        Ty::E5M2 | Ty::E5M2x2 => E5M2,
        _ => F32,
    }
}

fn finish(format: Format, how: Finish, bits: u64) -> u64 {
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

fn float(op: Float, ty: Ty, mode: Round, how: Finish, a: u64, b: u64, c: u64) -> u64 {
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
            Float::Fma => soft::fma_bits(format, mode, a, b, c),
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

fn approx(op: Approx, ty: Ty, ftz: bool, a: u64, b: u64) -> u64 {
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

fn compare(op: Compare, ty: Ty, ftz: bool, a: u64, b: u64) -> bool {
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

fn test(op: Test, ty: Ty, a: u64) -> bool {
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

fn convert(to: Ty, from: Ty, mode: Round, how: Finish, a: u64) -> u64 {
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

fn round_integral(ty: Ty, mode: Round, how: Finish, a: u64) -> u64 {
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
fn to_fp8(ty: Ty, from: Format, how: Finish, a: u64) -> u64 {
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

fn dot(
    a: u64,
    b: u64,
    c: u64,
    count: u32,
    a_width: u32,
    b_shift: u32,
    a_signed: bool,
    b_signed: bool,
) -> u64 {
    let element = |x: u64, at: u32, width: u32, signed: bool| {
        let v = (x >> at) as i64 & ((1 << width) - 1);
        if signed && v >> (width - 1) != 0 { v - (1 << width) } else { v }
    };
    let sum: i64 = (0..count)
        .map(|i| element(a, i * a_width, a_width, a_signed) * element(b, b_shift + i * 8, 8, b_signed))
        .sum();
    (c as i64).wrapping_add(sum) as u32 as u64
}

/// Evaluates an operation for one lane.
pub fn eval(op: &Scalar, [a, b, c, d]: [u64; 4]) -> u64 {
    match *op {
        Scalar::Int(op, ty, sat) => int(op, ty, sat, a, b, c),
        Scalar::Bits(op, width) => bits(op, width, a, b, c, d),
        Scalar::Float(op, ty, mode, how) => float(op, ty, mode, how, a, b, c),
        Scalar::Approx(op, ty, ftz) => approx(op, ty, ftz, a, b),
        Scalar::Compare(op, ty, ftz) => compare(op, ty, ftz, a, b) as u64,
        Scalar::Test(op, ty) => test(op, ty, a) as u64,
        Scalar::Slct(ty, ftz) => {
            if compare(Compare::Ge, ty, ftz, c, 0) {
                a
            } else {
                b
            }
        }
        Scalar::Convert(to, from, mode, how) => convert(to, from, mode, how, a),
        Scalar::ConvertPair(to, mode, how) => {
            let narrow = |x| match to {
                Ty::E4M3x2 | Ty::E5M2x2 => to_fp8(to, F32, how, x),
                _ => finish(format_of(to), how, soft::convert(F32, format_of(to), mode, x)),
            };
            narrow(a) << (format_of(to).mantissa + format_of(to).exponent + 1) | narrow(b)
        }
        Scalar::ConvertPackedFp8(to, from, how) => match to {
            Ty::F16x2 => {
                let wide = |x: u64| finish(F16, how, soft::convert(format_of(from), F16, Round::Nearest, x));
                wide(a >> 8 & 0xff) << 16 | wide(a & 0xff)
            }
            _ => to_fp8(to, F16, how, a >> 16 & 0xffff) << 8 | to_fp8(to, F16, how, a & 0xffff),
        },
        Scalar::RoundIntegral(ty, mode, how) => round_integral(ty, mode, how, a),
        Scalar::CvtPack(ty) => {
            let (low, high) = limits(ty);
            let half = |x: u64| extend(Ty::S32, x).clamp(low, high) as u64 & 0xffff;
            half(a) << 16 | half(b)
        }
        Scalar::Dp4a { a_signed, b_signed } => dot(a, b, c, 4, 8, 0, a_signed, b_signed),
        Scalar::Dp2a { high, a_signed, b_signed } => {
            dot(a, b, c, 2, 16, if high { 16 } else { 0 }, a_signed, b_signed)
        }
        Scalar::SetResult(ty) => match (a & 1 != 0, ty) {
            (false, _) => 0,
            (true, Ty::F32) => 1.0f32.to_bits() as u64,
            (true, Ty::F16 | Ty::F16x2) => 0x3c00,
            (true, Ty::BF16 | Ty::BF16x2) => 0x3f80,
            (true, Ty::U16 | Ty::S16) => 0xffff,
            (true, _) => u32::MAX as u64,
        },
        Scalar::CarryOut(width, borrow) => {
            if borrow {
                ((a as u128) < b as u128 + (c & 1) as u128) as u64
            } else {
                ((a as u128 + b as u128 + (c & 1) as u128) >> width & 1) as u64
            }
        }
        Scalar::AddCarry(borrow) => {
            if borrow {
                a.wrapping_sub(b).wrapping_sub(c & 1)
            } else {
                a.wrapping_add(b).wrapping_add(c & 1)
            }
        }
    }
}
