//! Matrices of wgmma: descriptors of shared memory, elements, and fragments in registers (PTX ISA 9.7.15.5.1).
//!
//! Warp w of a warpgroup holds rows 16 w + g and 16 w + g + 8 of D, with g = lane / 4, t = lane % 4: registers 4 j to
//! 4 j + 3 are columns 8 j + 2 t and one more of the first row, then of the second; f16 accumulators hold pairs. A in
//! registers is laid out as for mma.sync of the same K.

use std::sync::OnceLock;

use super::accumulate::Element;
use super::fragments::Sparsity;
use super::lanes::Banks;
use super::rows::{read32, write32};
use super::soft::{self, Round};
use super::tensor::f16_value;
use crate::check::proxy::GRANULE;
use crate::code::{WgmmaOp, WgmmaType};
use crate::tensormap::Swizzle;

/// A matrix descriptor (PTX ISA 9.7.15.5.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    base_offset: u32,
    pub swizzle: Swizzle,
}

impl Descriptor {
    pub fn new(bits: u64) -> Descriptor {
        let field = |at: u32| ((bits >> at & 0x3fff) as u32) << 4;
        Descriptor {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle: [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize],
        }
    }

    /// The address of a 16-byte chunk of a matrix: of row `i`, chunk `c` along K (K-major), or of K row `i`, chunk `c`
    /// along M or N (MN-major). The canonical layouts of PTX ISA 9.7.15.5.1.2.1.3.
    pub fn chunk(&self, transposed: bool, i: u32, c: u32) -> u32 {
        let span = self.swizzle.span();
        let plain = self.swizzle == Swizzle::None;
        let width = span / 16;
        let offset = match (transposed, plain) {
            (false, true) => i % 8 * 16 + i / 8 * self.stride + c * self.leading,
            (false, false) => i % 8 * span + i / 8 * self.stride + c % width * 16 + c / width * self.leading,
            (true, true) => i % 8 * 16 + i / 8 * self.leading + c * self.stride,
            (true, false) => i % 8 * span + i / 8 * self.stride + c % width * 16 + c / width * self.leading,
        };
        let address = self.start.wrapping_add(offset);
        // The pattern starts where the base offset says.
        let turned = address.wrapping_sub(self.base_offset << 7);
        let moved = self.swizzle.apply(turned) ^ turned;
        (address ^ moved) & 0x3_ffff
    }
}

/// The values of 8-bit floats.
pub(super) fn fp8_values(e5m2: bool) -> &'static [f64; 256] {
    static TABLES: OnceLock<[[f64; 256]; 2]> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        [soft::E4M3, soft::E5M2].map(|format| {
            std::array::from_fn(|b| {
                f64::from_bits(soft::convert(format, soft::F64, Round::Nearest, b as u64))
            })
        })
    });
    &tables[e5m2 as usize]
}

/// Elements that 16 bytes hold at most.
pub(super) const MOST: usize = 128;

/// The values of the elements in 16 bytes, or in a register of 4, of matrix `which` (0 is A, 1 is B).
#[inline]
pub(super) fn decode(ty: WgmmaType, which: usize, bytes: &[u8], out: &mut [f64; MOST]) {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]) as u32);
    match ty {
        WgmmaType::F16 => out.iter_mut().zip(halves()).for_each(|(o, h)| *o = f16_value(h)),
        WgmmaType::Bf16 => {
            out.iter_mut().zip(halves()).for_each(|(o, h)| *o = f32::from_bits(h << 16) as f64);
        }
        WgmmaType::Tf32 => {
            let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            out.iter_mut().zip(words).for_each(|(o, w)| *o = f32::from_bits(w & 0xffff_e000) as f64);
        }
        WgmmaType::Fp8(a, b) => {
            let values = fp8_values([a, b][which]);
            out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = values[b as usize]);
        }
        WgmmaType::Int8(a, b) if [a, b][which] => {
            out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = b as i8 as f64);
        }
        WgmmaType::Int8(..) => out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = b as f64),
        WgmmaType::Bit => {
            let bits = bytes.iter().flat_map(|b| (0..8).map(move |i| b >> i & 1));
            out.iter_mut().zip(bits).for_each(|(o, b)| *o = b as f64);
        }
    }
}

/// Rows and 16-byte chunks of a matrix in shared memory: along M or N and K, or the other way when transposed.
pub(super) fn extents(op: &WgmmaOp, which: usize) -> (u32, u32) {
    let mn = if which == 0 { 64 } else { op.n as u32 };
    let (k, granule) = (op.k_of(which) as u32, 8 * GRANULE / op.ty.bits());
    if op.transpose[which] { (k, mn / granule) } else { (mn, k / granule) }
}

/// The rows of A that a warp holds in registers, as `[row][k]`.
pub(super) fn register_rows(op: &WgmmaOp, registers: &[[u32; 32]; 4]) -> Vec<f64> {
    let k = op.stored_k();
    let per = 32 / op.ty.bits() as usize;
    let mut values = [0.0; MOST];
    let sign = if op.negate[0] { -1.0 } else { 1.0 };
    let mut out = vec![0.0; 16 * k];
    for (i, row) in registers.iter().enumerate() {
        for (lane, v) in row.iter().enumerate() {
            let m = lane / 4 + 8 * (i & 1);
            let column = per * (lane % 4) + 4 * per * (i >> 1);
            decode(op.ty, 0, &v.to_le_bytes(), &mut values);
            for (o, v) in out[m * k + column..].iter_mut().zip(&values[..per]) {
                *o = sign * v;
            }
        }
    }
    out
}

/// A warp's rows of a sparse A at their places, `[row][k]`, from the stored ones.
pub(super) fn expand(op: &WgmmaOp, selector: u8, words: &[u32; 32], stored: &[f64]) -> Vec<f64> {
    let k = op.k();
    let sparsity = Sparsity::new(op.ty.bits() as usize, k, selector as usize);
    let mut out = vec![0.0; 16 * k];
    for (m, row) in stored.chunks_exact(op.stored_k()).enumerate() {
        for (j, &v) in row.iter().enumerate() {
            out[m * k + sparsity.column(words, m, j) % k] = v;
        }
    }
    out
}

/// Types of A and B.
pub(super) fn elements(ty: WgmmaType) -> (Element, Element) {
    let fp8 = |wide_exponent| if wide_exponent { Element::E5m2 } else { Element::E4m3 };
    match ty {
        WgmmaType::F16 => (Element::F16, Element::F16),
        WgmmaType::Bf16 => (Element::Bf16, Element::Bf16),
        WgmmaType::Tf32 => (Element::Tf32, Element::Tf32),
        WgmmaType::Fp8(a, b) => (fp8(a), fp8(b)),
        WgmmaType::Int8(..) | WgmmaType::Bit => (Element::Int, Element::Int),
    }
}

/// Rounds sums to the type of the accumulators.
pub(super) fn round(op: &WgmmaOp, sums: &mut [f64]) {
    match op.ty {
        WgmmaType::Int8(..) if op.satfinite => {
            sums.iter_mut().for_each(|v| *v = v.clamp(i32::MIN as f64, i32::MAX as f64));
        }
        _ if op.ty.is_integer() => sums.iter_mut().for_each(|v| *v = *v as i64 as i32 as f64),
        _ if op.half_accumulator => sums.iter_mut().for_each(|v| {
            let half = soft::convert(soft::F64, soft::F16, Round::Nearest, v.to_bits());
            *v = f16_value(half as u32);
        }),
        _ => sums.iter_mut().for_each(|v| *v = *v as f32 as f64),
    }
}

/// The warp's 16 rows of D as `[row][n]`.
pub(super) fn load_accumulators(op: &WgmmaOp, banks: &Banks, d: &[u16], sums: &mut [f64]) {
    let n = op.n as usize;
    let integer = op.ty.is_integer();
    for (r, &slot) in d.iter().enumerate() {
        let row = read32(banks, slot);
        let (h, start) =
            if op.half_accumulator { (r & 1, 8 * (r / 2)) } else { (r >> 1 & 1, 8 * (r / 4) + (r & 1)) };
        for (g, lanes) in row.chunks_exact(4).enumerate() {
            let out = &mut sums[(g + 8 * h) * n + start..];
            for (t, &v) in lanes.iter().enumerate() {
                if op.half_accumulator {
                    (out[2 * t], out[2 * t + 1]) = (f16_value(v & 0xffff), f16_value(v >> 16));
                } else {
                    out[2 * t] = if integer { v as i32 as f64 } else { f32::from_bits(v) as f64 };
                }
            }
        }
    }
}

pub(super) fn store_accumulators(op: &WgmmaOp, banks: &Banks, d: &[u16], mask: u32, sums: &[f64]) {
    let n = op.n as usize;
    let integer = op.ty.is_integer();
    for (r, &slot) in d.iter().enumerate() {
        let (h, start) =
            if op.half_accumulator { (r & 1, 8 * (r / 2)) } else { (r >> 1 & 1, 8 * (r / 4) + (r & 1)) };
        write32(banks, slot, mask, |lane| {
            let at = (lane as usize / 4 + 8 * h) * n + start + 2 * (lane as usize % 4);
            let v = sums[at];
            if op.half_accumulator {
                let half = |v: f64| soft::convert(soft::F64, soft::F16, Round::Nearest, v.to_bits()) as u32;
                return half(v) | half(sums[at + 1]) << 16;
            }
            match v {
                _ if integer => v as i64 as u32,
                _ if v.is_nan() => 0x7fff_ffff,
                _ => (v as f32).to_bits(),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(swizzle: Swizzle, leading: u32, stride: u32) -> Descriptor {
        Descriptor { start: 0, leading, stride, base_offset: 0, swizzle }
    }

    /// The examples of PTX ISA 9.7.15.5.1.2.1.3, in 16-byte chunks: (row, chunk) to offset before the swizzle.
    #[test]
    fn canonical_layouts_follow_the_examples() {
        // K-major tf32 without swizzle: ((8,2),(4,4)):((4,32),(1,64)) elements of 4 bytes.
        let d = descriptor(Swizzle::None, 64 * 4, 32 * 4);
        for (i, c) in [(0, 0), (1, 0), (7, 1), (8, 0), (15, 3)] {
            assert_eq!(d.chunk(false, i, c), 4 * (i % 8 * 4 + i / 8 * 32 + c * 64));
        }
        // MN-major bf16 without swizzle: ((8,1,2),(8,2)):((1,8,64),(8,128)) elements of 2 bytes.
        let d = descriptor(Swizzle::None, 128 * 2, 64 * 2);
        for (k, c) in [(0, 0), (7, 1), (8, 0), (15, 1)] {
            assert_eq!(d.chunk(true, k, c), 2 * (k % 8 * 8 + k / 8 * 128 + c * 64));
        }
        // MN-major bf16 with 64 bytes: ((8,4,2),(8,2)):((1,8,256),(32,512)), then the swizzle.
        let d = descriptor(Swizzle::B64, 256 * 2, 512 * 2);
        for (k, c) in [(0, 0), (3, 2), (8, 5), (15, 7)] {
            let plain = 2 * (k % 8 * 32 + k / 8 * 512 + c % 4 * 8 + c / 4 * 256);
            assert_eq!(d.chunk(true, k, c), Swizzle::B64.apply(plain));
        }
        // K-major with 128 bytes: rows of 128 bytes, chunks exchanged.
        let d = descriptor(Swizzle::B128, 16, 1024);
        assert_eq!(d.chunk(false, 3, 1), 3 * 128 + (1 ^ 3) * 16);
        assert_eq!(d.chunk(false, 11, 0), 1024 + 3 * 128 + 3 * 16);
    }

    #[test]
    fn a_base_offset_turns_the_pattern() {
        let d = Descriptor { start: 128, base_offset: 1, ..descriptor(Swizzle::B128, 16, 1024) };
        assert_eq!(d.chunk(false, 0, 1), 128 + 16, "the pattern starts at byte 128");
    }
}
