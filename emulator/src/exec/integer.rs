//! Integer and bit operations of one lane, in exact 128-bit arithmetic.

use super::scalar::{Bits, Int, Prmt};
use crate::ptx::ast::Ty;

/// The bits of `v` as a signed or unsigned number of the type.
pub(super) fn extend(ty: Ty, v: u64) -> i128 {
    match ty {
        Ty::U8 | Ty::B8 => v as u8 as i128,
        Ty::U16 | Ty::B16 => v as u16 as i128,
        Ty::U32 | Ty::B32 => v as u32 as i128,
        Ty::S8 => v as i8 as i128,
        Ty::S16 => v as i16 as i128,
        Ty::S32 => v as i32 as i128,
        Ty::S64 => v as i64 as i128,
        _ => v as i128,
    }
}

pub(super) fn limits(ty: Ty) -> (i128, i128) {
    let bits = ty.bytes() * 8;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

pub(super) fn int(op: Int, ty: Ty, sat: bool, ra: u64, rb: u64, rc: u64) -> u64 {
    let (a, b, c) = (extend(ty, ra), extend(ty, rb), extend(ty, rc));
    let bits = ty.bytes() * 8;
    let full = |x: i128| if ty == Ty::U64 { ((x as u128) >> 64) as i128 } else { x >> bits };
    let result = match op {
        Int::Add => a + b,
        Int::Sub => a - b,
        Int::MulLo => a.wrapping_mul(b),
        Int::MulHi => full(a.wrapping_mul(b)),
        Int::MadLo => a.wrapping_mul(b).wrapping_add(c),
        Int::MadHi => full(a.wrapping_mul(b)) + c,
        Int::MulWide => a * b,
        Int::MadWide => a * b + if ty.is_signed() { rc as i64 as i128 } else { rc as i128 },
        // Division by zero is reported before this runs; the hardware's result has all bits set.
        Int::Div => {
            if b == 0 {
                -1
            } else {
                a / b
            }
        }
        Int::Rem => {
            if b == 0 {
                a
            } else {
                a % b
            }
        }
        Int::Min { relu } => a.min(b).max(if relu { 0 } else { i128::MIN }),
        Int::Max { relu } => a.max(b).max(if relu { 0 } else { i128::MIN }),
        Int::Abs => a.abs(),
        Int::Neg => -a,
        Int::Sad => (a - b).abs() + c,
        Int::Bfe => return bit_field(ty, ra, rb, rc),
        Int::Bfind { shift_amount } => {
            let v = if ty.is_signed() && a < 0 { !a } else { a };
            return match v {
                0 => u32::MAX as u64,
                _ => {
                    let top = 127 - v.leading_zeros();
                    (if shift_amount { bits - 1 - top } else { top }) as u64
                }
            };
        }
        Int::Mul24 { high } | Int::Mad24 { high } => {
            let low24 = |x: u64| {
                if ty.is_signed() { ((x as i32) << 8 >> 8) as i128 } else { (x & 0xff_ffff) as i128 }
            };
            let product = low24(ra) * low24(rb);
            let part = if high { product >> 16 } else { product };
            if matches!(op, Int::Mad24 { .. }) { part + c } else { part }
        }
        Int::Szext { clamp } => {
            let width = if clamp { (rb as u32).min(32) } else { rb as u32 & 31 };
            let shift = 32 - width;
            return match (width, ty.is_signed()) {
                (0, _) => 0,
                (_, true) => ((ra as i32) << shift >> shift) as u32 as u64,
                (_, false) => ((ra as u32) << shift >> shift) as u64,
            };
        }
    };
    if sat {
        let (low, high) = limits(ty);
        return result.clamp(low, high) as u64;
    }
    result as u64
}

/// `bfe` as the ISA's pseudocode: position and length are the low bytes of b and c.
fn bit_field(ty: Ty, a: u64, b: u64, c: u64) -> u64 {
    let msb = ty.bytes() * 8 - 1;
    let (pos, len) = (b as u32 & 0xff, c as u32 & 0xff);
    let bit = |i: u32| if i <= msb { a >> i & 1 } else { 0 };
    let sign = if !ty.is_signed() || len == 0 { 0 } else { bit(msb.min(pos + len - 1)) };
    let mut d = 0;
    for i in 0..=msb {
        let v = if i < len && pos + i <= msb { bit(pos + i) } else { sign };
        d |= v << i;
    }
    d
}

pub(super) fn bits(op: Bits, width: u32, a: u64, b: u64, c: u64, d: u64) -> u64 {
    match op {
        Bits::Popc => a.count_ones() as u64,
        Bits::Clz => (a.leading_zeros() - (64 - width)) as u64,
        Bits::Brev => a.reverse_bits() >> (64 - width),
        Bits::Bfi => {
            // a into b, position c, length d (low bytes).
            let (pos, len) = (c as u32 & 0xff, d as u32 & 0xff);
            let mut out = b;
            for i in 0..len.min(width) {
                if pos + i < width {
                    out = (out & !(1 << (pos + i))) | (a >> i & 1) << (pos + i);
                }
            }
            out
        }
        Bits::Cnot => (a == 0) as u64,
        Bits::Bmsk { clamp } => {
            let (pos, len) =
                if clamp { ((a as u32).min(32), (b as u32).min(32)) } else { (a as u32 & 31, b as u32 & 31) };
            ((((1u128 << len) - 1) << pos) as u64) & 0xffff_ffff
        }
        Bits::Fns => {
            // The n-th set bit of a from bit b, upwards or downwards, as the ISA's pseudocode.
            let (offset, mut pos) = (c as i32, b as i32);
            if offset == 0 {
                return if a >> (b & 31) & 1 == 1 { b & 31 } else { u32::MAX as u64 };
            }
            let mut count = offset.unsigned_abs() - 1;
            while (0..32).contains(&pos) {
                if a >> pos & 1 == 1 {
                    if count == 0 {
                        return pos as u64;
                    }
                    count -= 1;
                }
                pos += offset.signum();
            }
            u32::MAX as u64
        }
        Bits::Shf { left, clamp } => {
            let n = if clamp { (c as u32).min(32) } else { c as u32 & 31 };
            let wide = (b as u32 as u64) << 32 | a as u32 as u64;
            // a is the low word, b the high word; left takes the high word of the result, right the low word.
            if left { ((wide as u128) << n >> 32) as u64 } else { wide >> n }
        }
        Bits::Prmt(mode) => prmt(mode, a as u32, b as u32, c as u32) as u64,
        Bits::Lop3(table) => {
            let mut out = 0;
            for i in 0..32 {
                let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                out |= (table as u64 >> index & 1) << i;
            }
            out
        }
    }
}

fn prmt(mode: Prmt, a: u32, b: u32, c: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let byte = |i: u32| (bytes >> (8 * (i & 7))) as u32 & 0xff;
    let mut out = 0;
    for i in 0..4 {
        let n = c & 3;
        let select = match mode {
            Prmt::Generic => c >> (4 * i) & 0xf,
            Prmt::F4e => n + i,
            Prmt::B4e => n.wrapping_sub(i) & 7,
            Prmt::Rc8 => n,
            Prmt::Ecl => i.max(n),
            Prmt::Ecr => i.min(n),
            Prmt::Rc16 => (n & 1) * 2 + (i & 1),
        };
        let mut v = byte(select);
        if mode == Prmt::Generic && select & 8 != 0 {
            v = if v & 0x80 != 0 { 0xff } else { 0 };
        }
        out |= v << (8 * i);
    }
    out
}
