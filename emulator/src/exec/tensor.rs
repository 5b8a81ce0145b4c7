//! Tensor-core instructions of sm_80: mma.sync, ldmatrix, movmatrix (PTX ISA 9.7.14).
//!
//! Here are the products with a fast path; the rest, and how fragments are laid out, is in [`super::fragments`]. How
//! sums are rounded is an option ([`super::accumulate`]). tf32 inputs lose their 13 low bits.

use super::access::What;
use super::accumulate::{Element, Sum, accumulate};
use super::engine::Engine;
use super::lanes::{Banks, by_level};
use super::rows::{lanes_of, read32, read64, write_row32, write32};
use super::soft::{self, Round};
use crate::check::Kind as Check;
use crate::code::Strength;
use crate::code::{Mma, MmaType};

by_level! {
    /// D = A B + C over a warp's tile of K columns of A; `a` is indexed [k][m], `b` [k][n].
    fn multiply(a: &[[f64; 16]; 16], b: &[[f64; 8]; 16], c: &mut [[f64; 8]; 16], k: usize) {
        for (m, sum) in c.iter_mut().enumerate() {
            let mut acc = *sum;
            for (a, b) in a.iter().zip(b).take(k) {
                for n in 0..8 {
                    acc[n] += a[m] * b[n];
                }
            }
            *sum = acc;
        }
    }
}

by_level! {
    /// Element `e` of each lane's register.
    fn decode(row: &[u32; 32], ty: Element, e: u32, out: &mut [f64; 32]) {
        match ty {
            Element::F16 => {
                for i in 0..32 {
                    out[i] = super::fast::from_f16(row[i] >> (16 * e) & 0xffff) as f64;
                }
            }
            Element::Bf16 => {
                for i in 0..32 {
                    out[i] = f32::from_bits(row[i] >> (16 * e) << 16) as f64;
                }
            }
            _ => {
                for i in 0..32 {
                    out[i] = f32::from_bits(row[i] & 0xffff_e000) as f64;
                }
            }
        }
    }
}

/// Spreads the fragments of A and B into matrices indexed [k][m] and [k][n].
fn spread(ra: &[[u32; 32]], rb: &[[u32; 32]], ty: Element, a: &mut [[f64; 16]; 16], b: &mut [[f64; 8]; 16]) {
    let per = if ty == Element::Tf32 { 1 } else { 2 };
    let mut lanes = [0.0; 32];
    for e in 0..per {
        for (i, row) in ra.iter().enumerate() {
            decode(row, ty, e as u32, &mut lanes);
            for t in 0..4 {
                let column = &mut a[(per * t + 4 * per * (i >> 1) + e) & 15];
                for g in 0..8 {
                    column[g + 8 * (i & 1)] = lanes[4 * g + t];
                }
            }
        }
        for (i, row) in rb.iter().enumerate() {
            decode(row, ty, e as u32, &mut lanes);
            for t in 0..4 {
                let row = &mut b[(per * t + 4 * per * i + e) & 15];
                for g in 0..8 {
                    row[g] = lanes[4 * g + t];
                }
            }
        }
    }
}

/// f16 to f64, exact.
pub(super) fn f16_value(h: u32) -> f64 {
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

/// The element type of the products that have a fast path.
fn fast_element(mma: Mma) -> Option<Element> {
    match mma.ty {
        _ if mma.sparse.is_some() || mma.m != 16 => None,
        MmaType::F16 => Some(Element::F16),
        MmaType::Bf16 => Some(Element::Bf16),
        MmaType::Tf32 => Some(Element::Tf32),
        _ => None,
    }
}

impl Engine<'_> {
    pub(super) fn mma(&mut self, banks: &Banks, mma: Mma, pool: &[u16], mask: u32) {
        let [nd, na, nb, nc] = mma.registers();
        let (d, rest) = pool.split_at(nd);
        let (a, rest) = rest.split_at(na);
        let (b, rest) = rest.split_at(nb);
        let c = &rest[..nc];
        if let Some(element) = fast_element(mma) {
            return self.mma_fast(banks, mma, element, [d, a, b, c], mask);
        }
        self.mma_general(banks, mma, pool, mask);
    }

    /// 16-bit floats and tf32, dense, by vectorised loops.
    fn mma_fast(&mut self, banks: &Banks, mma: Mma, element: Element, [d, a, b, c]: [&[u16]; 4], mask: u32) {
        let rows = |slots: &[u16]| -> [[u32; 32]; 4] {
            let mut out = [[0; 32]; 4];
            out.iter_mut().zip(slots).for_each(|(o, &s)| *o = read32(banks, s));
            out
        };
        let (ra, rb, rc) = (rows(a), rows(b), rows(c));
        let (mut ma, mut mb, mut mc) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
        spread(&ra[..a.len()], &rb[..b.len()], element, &mut ma, &mut mb);
        for (m, row) in mc.iter_mut().enumerate() {
            for (n, c) in row.iter_mut().enumerate() {
                let (lane, half, e) = (4 * (m % 8) + n / 2, m / 8, n % 2);
                *c = if mma.half[1] {
                    f16_value(rc[half][lane] >> (16 * e) & 0xffff)
                } else {
                    f32::from_bits(rc[2 * half + e][lane]) as f64
                };
            }
        }
        match Sum::new(self.l.options.tensor, element, element, mma.half[0]) {
            Sum::Ideal => multiply(&ma, &mb, &mut mc, mma.k as usize),
            sum => {
                let k = mma.k as usize;
                for (m, c) in mc.iter_mut().enumerate() {
                    let row: [f64; 16] = std::array::from_fn(|i| ma[i][m]);
                    accumulate(&row[..k], mb.as_flattened(), c, sum);
                }
            }
        }
        for h in 0..2usize {
            if mma.half[0] {
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
                let mut out = [0; 32];
                for g in 0..8 {
                    for t in 0..4 {
                        let v = mc[g + 8 * h][2 * t + e] as f32;
                        out[4 * g + t] = if v.is_nan() { 0x7fff_ffff } else { v.to_bits() };
                    }
                }
                write_row32(banks, d[2 * h + e], mask, &out);
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
        let what =
            What { pc, warp, bytes: 16, count: 1, write: false, strength: Strength::Weak, atomic: false };
        let (good, offsets) = self.shared_lanes(what, &addresses, giving & mask);
        for (m, &slot) in pool.iter().enumerate().take(count) {
            let mut rows = [[u16::MAX; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * m + r;
                if good >> lane & 1 == 0 {
                    continue;
                }
                let at = offsets[lane] as usize;
                if !self.b.shared.is_written(at, 16) {
                    self.report(Check::Uninitialised, pc, warp, lane as u32, || {
                        format!("reads a matrix row at byte {at} of shared memory that nothing has written")
                    });
                }
                for (e, v) in row.iter_mut().enumerate() {
                    let p = &self.b.shared.data[at + 2 * e..at + 2 * e + 2];
                    *v = u16::from_le_bytes([p[0], p[1]]);
                }
            }
            let mut out = [0; 32];
            for g in 0..8 {
                for t in 0..4 {
                    let (low, high) = if transpose {
                        (rows[2 * t][g], rows[2 * t + 1][g])
                    } else {
                        (rows[g][2 * t], rows[g][2 * t + 1])
                    };
                    out[4 * g + t] = low as u32 | (high as u32) << 16;
                }
            }
            write_row32(banks, slot, mask, &out);
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
