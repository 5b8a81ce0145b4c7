//! Warp-level matrix products of every type and shape, sparse ones too: fragments to matrices and back (PTX ISA 9.7.14.5
//! and 9.7.14.6).
//!
//! With g = lane / 4, t = lane % 4 and E elements per register: A register i holds row g + 8 (i & 1), columns E t + 4 E
//! (i >> 1) on (with 8 rows: row g, columns E t + 4 E i on); B register i holds column g, rows E t + 4 E i on; C and D
//! hold rows g and g + 8, columns 2t and 2t + 1.
//!
//! Every value of A, B and integer accumulators is exact in f64, and so are integer sums, which wrap, or saturate with
//! `.satfinite`. Products of f64 are added one after the other in order of k, each with one rounding.

use super::accumulate::{Element, Sum, accumulate};
use super::engine::Engine;
use super::lanes::Banks;
use super::matrix::fp8_values;
use super::rows::{read32, read64, write32, write64};
use super::soft::{self, F64, Round};
use super::tensor::f16_value;
use crate::code::{Mma, MmaType, QuadMma};

const N: usize = 8;

/// The value of an element of A (`which` 0) or B (1).
fn value(ty: MmaType, which: usize, raw: u64) -> f64 {
    let signed = |v: u64, bits: u32| ((v << (64 - bits)) as i64 >> (64 - bits)) as f64;
    let pick = |a: bool, b: bool| [a, b][which];
    match ty {
        MmaType::F64(_) => f64::from_bits(raw),
        MmaType::F16 => f16_value(raw as u32),
        MmaType::Bf16 => f32::from_bits((raw as u32) << 16) as f64,
        MmaType::Tf32 => f32::from_bits(raw as u32 & 0xffff_e000) as f64,
        MmaType::Fp8(a, b) => fp8_values(pick(a, b))[raw as usize],
        MmaType::Int8(a, b) if pick(a, b) => signed(raw, 8),
        MmaType::Int4(a, b) if pick(a, b) => signed(raw, 4),
        MmaType::Int8(..) | MmaType::Int4(..) | MmaType::Bit { .. } => raw as f64,
    }
}

/// What sums depend on, of A and B.
pub(super) fn elements(ty: MmaType) -> (Element, Element) {
    let fp8 = |wide_exponent| if wide_exponent { Element::E5m2 } else { Element::E4m3 };
    match ty {
        MmaType::F16 => (Element::F16, Element::F16),
        MmaType::Bf16 => (Element::Bf16, Element::Bf16),
        MmaType::Tf32 => (Element::Tf32, Element::Tf32),
        MmaType::Fp8(a, b) => (fp8(a), fp8(b)),
        _ => (Element::Int, Element::Int),
    }
}

/// Reads the elements of a fragment: `put(register, lane, element, value)`.
fn each(
    banks: &Banks,
    slots: &[u16],
    ty: MmaType,
    which: usize,
    mut put: impl FnMut(usize, usize, usize, f64),
) {
    let bits = ty.bits();
    let cut = u64::MAX >> (64 - bits);
    for (i, &slot) in slots.iter().enumerate() {
        let row = if bits == 64 { read64(banks, slot) } else { read32(banks, slot).map(|v| v as u64) };
        for (lane, &word) in row.iter().enumerate() {
            for e in 0..(32 / bits).max(1) {
                put(i, lane, e, value(ty, which, word >> (bits * e) & cut));
            }
        }
    }
}

/// Positions of the stored elements of a sparse A.
///
/// A row is cut into chunks, each with one 4-bit entry of metadata: two 2-bit indices of elements out of four (of pairs
/// out of eight for 4-bit elements), or, for tf32, 0100 or 1110 for the first or second of two. A thread's word holds
/// four entries of each of rows g and g + 8 for elements of 16 bits and more, else eight entries of one of these rows.
/// The selector says which thread, or pair of threads, of a group of four holds the words where not all do.
#[derive(Clone, Copy)]
pub(super) struct Sparsity {
    bits: usize,
    chunks: usize,
    selector: usize,
}

impl Sparsity {
    /// Of rows with `k` columns.
    pub(super) fn new(bits: usize, k: usize, selector: usize) -> Sparsity {
        let chunk = match bits {
            32 => 2,
            4 => 8,
            _ => 4,
        };
        Sparsity { bits, chunks: k / chunk, selector }
    }

    /// The column of stored element `j` of row `m` (below 16), given the words of a warp's 32 threads.
    pub(super) fn column(self, words: &[u32; 32], m: usize, j: usize) -> usize {
        let (kept, width) = match self.bits {
            32 => (1, 2),
            4 => (4, 8),
            _ => (2, 4),
        };
        let (chunk, within) = (j / kept, j % kept);
        let (half, group) = (m / 8, m % 8);
        let (thread, entry) = match (self.bits >= 16, self.chunks) {
            (true, 4) => (self.selector % 4, chunk + 4 * half),
            (true, _) => (2 * (self.selector % 2) + chunk / 4, chunk % 4 + 4 * half),
            (false, 8) => (2 * (self.selector % 2) + half, chunk),
            (false, _) => (2 * (chunk / 8) + half, chunk % 8),
        };
        let bits = words[4 * group + thread] >> (4 * entry) & 15;
        let index = |i: usize| (bits >> (2 * i) & 3) as usize;
        width * chunk
            + match self.bits {
                32 => index(0) >> 1,
                4 => 2 * index(within / 2) + within % 2,
                _ => index(within),
            }
    }
}

/// A as `[m][k]` and B as `[k][n]`.
fn matrices(banks: &Banks, mma: Mma, a: &[u16], b: &[u16], metadata: Option<u16>) -> (Vec<f64>, Vec<f64>) {
    let (m, k, stored) = (mma.m as usize, mma.k as usize, mma.stored_k());
    let per = (32 / mma.ty.bits()).max(1);
    let sparse = mma.sparse.map(|s| Sparsity::new(mma.ty.bits(), k, s as usize));
    let words = metadata.map(|slot| read32(banks, slot));
    let (mut ma, mut mb) = (vec![0.0; m * k], vec![0.0; k * N]);
    each(banks, a, mma.ty, 0, |i, lane, e, v| {
        let (low, high) = if m == 16 { (i & 1, i >> 1) } else { (0, i) };
        let (row, column) = (lane / 4 + 8 * low, per * (lane % 4) + 4 * per * high + e);
        let column = match (sparse, &words) {
            (Some(sparse), Some(words)) => sparse.column(words, row, column),
            _ => column,
        };
        ma[row * k + column % k] = v;
    });
    debug_assert_eq!(a.len() * 32 * per, m * stored);
    each(banks, b, mma.ty, 1, |i, lane, e, v| {
        mb[(per * (lane % 4) + 4 * per * i + e) * N + lane / 4] = v;
    });
    (ma, mb)
}

/// Row and column of element `e` of register `i` of C or D in a lane.
fn accumulator(half: bool, lane: usize, i: usize, e: usize) -> usize {
    let (high, e) = if half { (i, e) } else { (i >> 1, i & 1) };
    (lane / 4 + 8 * high) * N + 2 * (lane % 4) + e
}

fn load_accumulators(banks: &Banks, mma: Mma, c: &[u16]) -> Vec<f64> {
    let mut out = vec![0.0; mma.m as usize * N];
    for (i, &slot) in c.iter().enumerate() {
        if mma.ty.bits() == 64 {
            let row = read64(banks, slot);
            row.iter().enumerate().for_each(|(l, &v)| out[accumulator(false, l, i, 0)] = f64::from_bits(v));
            continue;
        }
        for (lane, &v) in read32(banks, slot).iter().enumerate() {
            if mma.half[1] {
                out[accumulator(true, lane, i, 0)] = f16_value(v & 0xffff);
                out[accumulator(true, lane, i, 1)] = f16_value(v >> 16);
            } else {
                let value = if mma.ty.is_integer() { v as i32 as f64 } else { f32::from_bits(v) as f64 };
                out[accumulator(false, lane, i, 0)] = value;
            }
        }
    }
    out
}

/// The bits of a sum in an accumulator of 32 bits, or in f16.
fn rounded(mma: Mma, v: f64) -> u32 {
    match v {
        _ if mma.half[0] => soft::convert(F64, soft::F16, Round::Nearest, v.to_bits()) as u32,
        _ if mma.ty.is_integer() && mma.satfinite => v.clamp(i32::MIN as f64, i32::MAX as f64) as i32 as u32,
        _ if mma.ty.is_integer() => v as i64 as u32,
        _ if v.is_nan() => 0x7fff_ffff,
        _ => (v as f32).to_bits(),
    }
}

fn store_accumulators(banks: &Banks, mma: Mma, d: &[u16], mask: u32, sums: &[f64]) {
    for (i, &slot) in d.iter().enumerate() {
        if mma.ty.bits() == 64 {
            write64(banks, slot, mask, |lane| sums[accumulator(false, lane as usize, i, 0)].to_bits());
            continue;
        }
        write32(banks, slot, mask, |lane| {
            let bits = |e| rounded(mma, sums[accumulator(mma.half[0], lane as usize, i, e)]);
            if mma.half[0] { bits(0) | bits(1) << 16 } else { bits(0) }
        });
    }
}

impl Engine<'_> {
    /// Any mma.sync or mma.sp.sync.
    pub(super) fn mma_general(&mut self, banks: &Banks, mma: Mma, pool: &[u16], mask: u32) {
        let [nd, na, nb, nc] = mma.registers();
        let (d, rest) = pool.split_at(nd);
        let (a, rest) = rest.split_at(na);
        let (b, rest) = rest.split_at(nb);
        let metadata = mma.sparse.map(|_| rest[nc]);
        let (ma, mb) = matrices(banks, mma, a, b, metadata);
        let mut sums = load_accumulators(banks, mma, &rest[..nc]);
        let k = mma.k as usize;
        let (element_a, element_b) = elements(mma.ty);
        let arithmetic = Sum::new(self.l.options.tensor, element_a, element_b, mma.half[0]);
        for (row, sum) in ma.chunks_exact(k).zip(sums.chunks_exact_mut(N)) {
            match mma.ty {
                MmaType::F64(mode) => {
                    for (n, sum) in sum.iter_mut().enumerate() {
                        *sum = row.iter().enumerate().fold(*sum, |s, (l, &x)| fma(mode, x, mb[l * N + n], s));
                    }
                }
                MmaType::Bit { xor: true } => {
                    for (n, sum) in sum.iter_mut().enumerate() {
                        *sum += row.iter().enumerate().map(|(l, x)| (x - mb[l * N + n]).abs()).sum::<f64>();
                    }
                }
                _ => accumulate(row, &mb, sum, arithmetic),
            }
        }
        store_accumulators(banks, mma, d, mask, &sums);
    }

    /// m8n8k4 in f16: lanes 4 q to 4 q + 3 and 16 more form pair q, each pair a product of its own (9.7.14.5.1).
    pub(super) fn mma_quads(&mut self, banks: &Banks, mma: QuadMma, pool: &[u16], mask: u32) {
        let [half_d, half_c] = mma.half;
        let nd = if half_d { 4 } else { 8 };
        let (d, rest) = pool.split_at(nd);
        let rows: Vec<[u32; 32]> = rest.iter().map(|&slot| read32(banks, slot)).collect();
        let (a, b, c) = (&rows[..2], &rows[2..4], &rows[4..]);
        let half = |rows: &[[u32; 32]], lane: usize, i: usize| {
            f16_value(rows[i / 2][lane] >> (16 * (i % 2)) & 0xffff)
        };
        // Lane of the pair that holds row (or column) `x` of A and C (of B), and element `k` of it.
        let side = |rows: &[[u32; 32]], pair: usize, x: usize, k: usize, turned: bool| {
            let base = 4 * pair + 16 * (x / 4);
            if turned { half(rows, base + k, x % 4) } else { half(rows, base + x % 4, k) }
        };
        let arithmetic = Sum::new(self.l.options.tensor, Element::F16, Element::F16, half_d);
        let mut sums = [[0.0; 64]; 4];
        for (pair, sums) in sums.iter_mut().enumerate() {
            let mb: Vec<f64> = (0..32).map(|i| side(b, pair, i % 8, i / 8, mma.turned[1])).collect();
            for (m, sums) in sums.chunks_exact_mut(8).enumerate() {
                let row: [f64; 4] = std::array::from_fn(|k| side(a, pair, m, k, mma.turned[0]));
                for (n, sum) in sums.iter_mut().enumerate() {
                    let (lane, i) = quad_place(pair, m, n, half_c);
                    *sum = if half_c { half(c, lane, i) } else { f32::from_bits(c[i][lane]) as f64 };
                }
                accumulate(&row, &mb, sums, arithmetic);
            }
        }
        let mut out = vec![[0u32; 32]; nd];
        let as_mma = Mma { m: 8, k: 4, ty: MmaType::F16, half: [half_d; 2], satfinite: false, sparse: None };
        for (pair, sums) in sums.iter().enumerate() {
            for (at, &v) in sums.iter().enumerate() {
                let (lane, i) = quad_place(pair, at / 8, at % 8, half_d);
                let bits = rounded(as_mma, v);
                if half_d {
                    out[i / 2][lane] |= bits << (16 * (i % 2));
                } else {
                    out[i][lane] = bits;
                }
            }
        }
        for (&slot, row) in d.iter().zip(&out) {
            write32(banks, slot, mask, |lane| row[lane as usize]);
        }
    }
}

/// The lane and the element that hold row `m`, column `n` of C or D of a pair.
fn quad_place(pair: usize, m: usize, n: usize, half: bool) -> (usize, usize) {
    let base = 4 * pair + 16 * (m / 4);
    if half {
        return (base + m % 4, n);
    }
    // f32: row (lane & 1) + (i & 2), column (i & 4) + (lane & 2) + (i & 1).
    (base + (m & 1) + (n & 2), (m & 2) + (n & 4) + (n & 1))
}

fn fma(mode: Round, a: f64, b: f64, c: f64) -> f64 {
    match mode {
        Round::Nearest => a.mul_add(b, c),
        _ => f64::from_bits(soft::fma_bits(F64, mode, a.to_bits(), b.to_bits(), c.to_bits())),
    }
}
