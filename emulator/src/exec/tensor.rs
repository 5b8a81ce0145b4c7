//! Tensor-core instructions of sm_80: mma.sync, ldmatrix, movmatrix (PTX ISA 9.7.14).
//!
//! Fragments, with g = lane / 4, t = lane % 4 and E elements per 32-bit register: A register i holds row g + 8 (i & 1),
//! columns E t + 4 E (i >> 1) on; B register i holds column g, rows E t + 4 E i on; C and D hold rows g and g + 8,
//! columns 2t and 2t + 1.
//!
//! Arithmetic is `ideal`: products are exact, the sum is formed in f64 and rounded once to the accumulator's type.
//! The ISA leaves order and intermediate rounding open, so hardware differs in the last bits. tf32 inputs lose their
//! 13 low bits; integer sums wrap, or saturate with `.satfinite`.

use super::access::What;
use super::engine::Engine;
use super::lanes::{Banks, Level, level};
use super::rows::{lanes_of, read32, read64, write32};
use super::soft::{self, Round};
use crate::check::Kind as Check;
use crate::code::{Mma, MmaType};

/// D = A B + C over a warp's tile, K columns of A used; `b` is indexed [k][n].
#[inline(always)]
fn multiply_body(a: &[[f64; 16]; 16], b: &[[f64; 8]; 16], c: &mut [[f64; 8]; 16], k: usize) {
    for (row, sum) in a.iter().zip(c.iter_mut()) {
        let mut acc = *sum;
        for (x, b) in row.iter().zip(b).take(k) {
            for n in 0..8 {
                acc[n] += x * b[n];
            }
        }
        *sum = acc;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(a: &[[f64; 16]; 16], b: &[[f64; 8]; 16], c: &mut [[f64; 8]; 16], k: usize) {
    multiply_body(a, b, c, k);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
fn multiply_avx512(a: &[[f64; 16]; 16], b: &[[f64; 8]; 16], c: &mut [[f64; 8]; 16], k: usize) {
    multiply_body(a, b, c, k);
}

fn multiply(a: &[[f64; 16]; 16], b: &[[f64; 8]; 16], c: &mut [[f64; 8]; 16], k: usize) {
    match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` says that the processor has these instructions.
        Level::Avx512 => unsafe { multiply_avx512(a, b, c, k) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` says that the processor has these instructions.
        Level::Avx2 => unsafe { multiply_avx2(a, b, c, k) },
        _ => multiply_body(a, b, c, k),
    }
}

/// Spreads the fragments of A and B, PER elements to a register, into matrices; `value` decodes an element.
#[inline(always)]
fn gather<const PER: usize>(
    ra: &[[u32; 32]],
    rb: &[[u32; 32]],
    a: &mut [[f64; 16]; 16],
    b: &mut [[f64; 8]; 16],
    value: impl Fn(u32, usize) -> f64,
) {
    for (i, row) in ra.iter().enumerate() {
        let column = 4 * PER * (i >> 1);
        for lane in 0..32 {
            for e in 0..PER {
                a[lane / 4 + 8 * (i & 1)][(PER * (lane % 4) + column + e) & 15] = value(row[lane], e);
            }
        }
    }
    for (i, row) in rb.iter().enumerate() {
        for lane in 0..32 {
            for e in 0..PER {
                b[(PER * (lane % 4) + 4 * PER * i + e) & 15][lane / 4] = value(row[lane], e);
            }
        }
    }
}

/// f16 to f64, exact.
fn f16_value(h: u32) -> f64 {
    let exponent = h >> 10 & 0x1f;
    let mantissa = (h & 0x3ff) as f64;
    let magnitude = match exponent {
        0 => mantissa * (1.0 / 16_777_216.0),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => f64::from_bits(((exponent as u64 + 1008) << 52) | ((h as u64 & 0x3ff) << 42)),
    };
    if h & 0x8000 != 0 { -magnitude } else { magnitude }
}

impl Engine<'_> {
    pub(super) fn mma(&mut self, banks: &Banks, mma: Mma, pool: &[u16], mask: u32) {
        let (nd, na, nb) = mma.registers();
        let (d, rest) = pool.split_at(nd);
        let (a, rest) = rest.split_at(na);
        let (b, rest) = rest.split_at(nb);
        let c = &rest[..nd];
        let rows = |slots: &[u16]| -> [[u32; 32]; 4] {
            let mut out = [[0; 32]; 4];
            out.iter_mut().zip(slots).for_each(|(o, &s)| *o = read32(banks, s));
            out
        };
        let (ra, rb, rc) = (rows(a), rows(b), rows(c));
        if let MmaType::Int8(a_signed, b_signed) = mma.ty {
            return self.mma_int8(banks, mma, (a_signed, b_signed), [&ra, &rb, &rc], d, mask);
        }
        let (mut ma, mut mb, mut mc) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
        let (ra, rb) = (&ra[..na], &rb[..nb]);
        match mma.ty {
            MmaType::Bf16 => {
                gather::<2>(ra, rb, &mut ma, &mut mb, |r, e| f32::from_bits((r >> (16 * e)) << 16) as f64)
            }
            MmaType::Tf32 => {
                gather::<1>(ra, rb, &mut ma, &mut mb, |r, _| f32::from_bits(r & 0xffff_e000) as f64)
            }
            _ => gather::<2>(ra, rb, &mut ma, &mut mb, |r, e| f16_value(r >> (16 * e) & 0xffff)),
        }
        for (m, row) in mc.iter_mut().enumerate() {
            for (n, c) in row.iter_mut().enumerate() {
                let (lane, half, e) = (4 * (m % 8) + n / 2, m / 8, n % 2);
                *c = if mma.half_accumulator {
                    f16_value(rc[half][lane] >> (16 * e) & 0xffff)
                } else {
                    f32::from_bits(rc[2 * half + e][lane]) as f64
                };
            }
        }
        multiply(&ma, &mb, &mut mc, mma.k as usize);
        for h in 0..2usize {
            if mma.half_accumulator {
                write32(banks, d[h], mask, |lane| {
                    let (g, t) = (lane as usize / 4, lane as usize % 4);
                    let half = |e: usize| {
                        let v = mc[g + 8 * h][2 * t + e].to_bits();
                        soft::convert(soft::F64, soft::F16, Round::Nearest, v) as u32
                    };
                    half(0) | half(1) << 16
                });
                continue;
            }
            for e in 0..2 {
                write32(banks, d[2 * h + e], mask, |lane| {
                    let v = mc[lane as usize / 4 + 8 * h][2 * (lane as usize % 4) + e] as f32;
                    if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
                });
            }
        }
    }

    fn mma_int8(
        &mut self,
        banks: &Banks,
        mma: Mma,
        (a_signed, b_signed): (bool, bool),
        [ra, rb, rc]: [&[[u32; 32]; 4]; 3],
        d: &[u16],
        mask: u32,
    ) {
        let byte = |v: u32, e: usize, signed: bool| {
            let b = (v >> (8 * e)) as u8;
            if signed { b as i8 as i64 } else { b as i64 }
        };
        let (_, na, nb) = mma.registers();
        let (mut ma, mut mb) = ([[0i64; 32]; 16], [[0i64; 8]; 32]);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for e in 0..4 {
                for (i, row) in ra.iter().enumerate().take(na) {
                    ma[g + 8 * (i & 1)][4 * t + 16 * (i >> 1) + e] = byte(row[lane], e, a_signed);
                }
                for (i, row) in rb.iter().enumerate().take(nb) {
                    mb[4 * t + 16 * i + e][g] = byte(row[lane], e, b_signed);
                }
            }
        }
        for h in 0..2usize {
            for e in 0..2 {
                write32(banks, d[2 * h + e], mask, |lane| {
                    let (m, n) = (lane as usize / 4 + 8 * h, 2 * (lane as usize % 4) + e);
                    let products: i64 = (0..mma.k as usize).map(|k| ma[m][k] * mb[k][n]).sum();
                    let sum = rc[2 * h + e][lane as usize] as i32 as i64 + products;
                    if mma.satfinite {
                        sum.clamp(i32::MIN as i64, i32::MAX as i64) as u32
                    } else {
                        sum as u32
                    }
                });
            }
        }
    }

    /// Lane 8m + r gives the address of row r of matrix m; each lane gets two neighbouring elements of each matrix.
    pub(super) fn ldmatrix(
        &mut self,
        warp: u32,
        banks: &Banks,
        pool: &[u16],
        count: usize,
        transpose: bool,
        pc: u32,
        mask: u32,
    ) {
        let addresses = read64(banks, pool[count]);
        let giving = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        let what = What { pc, warp, bytes: 16, count: 1, write: false, strong: false, atomic: false };
        let (good, offsets) = self.shared_lanes(what, &addresses, giving & mask);
        for (m, &slot) in pool.iter().enumerate().take(count) {
            let mut rows = [[u16::MAX; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * m + r;
                if good >> lane & 1 == 0 {
                    continue;
                }
                let at = offsets[lane] as usize;
                if self.l.options.checks.uninitialised && self.b.shared.written[at..at + 16].contains(&0) {
                    self.report(Check::Uninitialised, pc, warp, lane as u32, || {
                        format!("reads a matrix row at byte {at} of shared memory that nothing has written")
                    });
                }
                for (e, v) in row.iter_mut().enumerate() {
                    let p = &self.b.shared.data[at + 2 * e..at + 2 * e + 2];
                    *v = u16::from_le_bytes([p[0], p[1]]);
                }
            }
            write32(banks, slot, mask, |lane| {
                let (g, t) = (lane as usize / 4, lane as usize % 4);
                let (low, high) = if transpose {
                    (rows[2 * t][g], rows[2 * t + 1][g])
                } else {
                    (rows[g][2 * t], rows[g][2 * t + 1])
                };
                low as u32 | (high as u32) << 16
            });
        }
    }

    /// Transposes an 8 x 8 matrix of 16-bit elements held two to a lane.
    pub(super) fn movmatrix(&mut self, banks: &Banks, pool: &[u16], mask: u32) {
        let a = read32(banks, pool[1]);
        let mut rows = [[0u32; 8]; 8];
        for lane in lanes_of(mask) {
            let (g, t) = (lane as usize / 4, lane as usize % 4);
            (rows[g][2 * t], rows[g][2 * t + 1]) = (a[lane as usize] & 0xffff, a[lane as usize] >> 16);
        }
        write32(banks, pool[0], mask, |lane| {
            let (g, t) = (lane as usize / 4, lane as usize % 4);
            rows[2 * t][g] | rows[2 * t + 1][g] << 16
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_values_are_exact() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f64();
            let ours = f16_value(bits as u32);
            assert!(ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan(), "{bits:04x}");
        }
    }
}
