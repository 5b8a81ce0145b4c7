//! Every per-lane operation that has no vectorised loop, as one function of up to three 64-bit values.
//!
//! Integers go through [`super::integer`], floats through [`super::float`]. Values narrower than 64 bits are passed
//! zero-extended, and results are cut to the destination's width by the caller.

use super::float::{approx, compare, convert, finish, float, round_integral, test, to_fp8};
use super::integer::{bits, int};
use super::soft::{self, BF16, E4M3, E5M2, F16, F32, F64, Format, Round};
use super::video;
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
    /// `relu`: and not below 0.
    Min {
        relu: bool,
    },
    Max {
        relu: bool,
    },
    Abs,
    Neg,
    Sad,
    Bfe,
    Bfind {
        shift_amount: bool,
    },
    Mul24 {
        high: bool,
    },
    Mad24 {
        high: bool,
    },
    Szext {
        clamp: bool,
    },
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
    /// `.oob`: 0 where an operand is the NaN that fills elements outside of tensors.
    FmaOob,
    Min {
        nan: bool,
    },
    Max {
        nan: bool,
    },
    MinXorsign {
        nan: bool,
    },
    MaxXorsign {
        nan: bool,
    },
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
    /// Two numbers saturated to parts of this many bits, above them the low bits of c.
    CvtPack {
        bits: u32,
        signed: bool,
    },
    Video(video::Scalar),
    VideoMultiplyAdd(video::MultiplyAdd),
    VideoSimd(video::Simd),
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

/// The 16-bit NaN that tensor copies fill elements outside of the tensor with.
pub const OUT_OF_BOUNDS: u64 = 0x7fff;

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
        Scalar::CvtPack { bits, signed } => {
            let high = (1i64 << (bits - signed as u32)) - 1;
            let low = if signed { -high - 1 } else { 0 };
            let part = |x: u64| (x as i32 as i64).clamp(low, high) as u64 & ((1 << bits) - 1);
            c << (2 * bits) | part(a) << bits | part(b)
        }
        Scalar::Video(ref v) => video::scalar(v, a, b, c) as u64,
        Scalar::VideoMultiplyAdd(ref v) => video::multiply_add(v, a, b, c) as u64,
        Scalar::VideoSimd(ref v) => video::simd(v, a, b, c) as u64,
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
