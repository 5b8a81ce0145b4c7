//! The f32 matrix product: register tiles over a packed right-hand side (Goto and van de Geijn 2008, "Anatomy of
//! high-performance matrix multiplication").
//!
//! Why not a library: the fused vocabulary loss needs products whose operands stay where they are (no packing of a
//! 50,257-row weight for every few rows of input), and every element here is one fused multiply-add chain over k in
//! blocks of [`KC`], whatever the vector width, the tile and the number of threads. So the same inputs give the same bits on
//! every CPU.

use rayon::prelude::*;

use super::matmul::{Mat, Threads};
use super::simd::{Level, level};
use crate::storage::Storage;

/// Length of the multiply-add chains: each block of k is summed from zero, then added to the output.
pub const KC: usize = 256;
/// Most rows of the output per task: with KC columns of the left operand they take 120 KiB of the 512 KiB or more of L2.
const MC: usize = 120;
/// Most columns of the output per task: KC rows of them take 512 KiB.
const NC: usize = 512;
/// Columns of a register tile at the widest level: packed panels have this width at every level.
pub const NR: usize = 32;
/// Rows of a register tile. 12 rows of 2 vectors leave room for the operands in 32 AVX-512 registers.
pub const MR: usize = 12;

/// One register tile: c (m, n) = alpha a (m, k) b (k, n), or c += that; m <= MR, n <= NR.
///
/// `b` may be read up to column NR whatever `n` is.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    pub a: &'a [f32],
    pub a_row: usize,
    pub a_col: usize,
    pub b: &'a [f32],
    pub b_row: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    pub accumulate: bool,
}

impl Tile<'_> {
    /// Computes the tile with the kernel of this CPU.
    ///
    /// # Safety
    /// `c` must be valid for reads and writes at i * c_row .. + n for each i < m, and nobody else may use it meanwhile.
    #[inline]
    pub unsafe fn run(&self, kernel: Kernel) {
        let (m, n, k) = (self.m, self.n, self.k);
        let fits = (1..=MR).contains(&m)
            && (1..=NR).contains(&n)
            && k > 0
            && (m - 1) * self.a_row + (k - 1) * self.a_col < self.a.len()
            && (k - 1) * self.b_row + NR <= self.b.len();
        assert!(fits, "bug in handloom-engine: a {m}x{n}x{k} tile leaves its operands");
        // SAFETY: a and b hold what the kernel reads by the assertion, c is the caller's promise.
        unsafe { (kernel.0)(self) }
    }
}

/// The tile function of an instruction set.
#[derive(Clone, Copy)]
pub struct Kernel(unsafe fn(&Tile));

/// The tile function of this CPU. It reads `a` at i * a_row + p * a_col for i < m and p < k, `b` at p * b_row .. + NR.
pub fn kernel() -> Kernel {
    kernel_of(level())
}

fn kernel_of(level: Level) -> Kernel {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Kernel(x86::avx512),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Kernel(x86::avx2),
        _ => Kernel(portable),
    }
}

/// The tile in plain Rust, for CPUs without the vector kernels below.
unsafe fn portable(t: &Tile) {
    let mut acc = [[0.0f32; NR]; MR];
    for p in 0..t.k {
        // SAFETY: within what `kernel` requires of the caller, for each i < m, p < k and column < NR.
        let b = unsafe { &*t.b.as_ptr().add(p * t.b_row).cast::<[f32; NR]>() };
        for (i, acc) in acc.iter_mut().enumerate().take(t.m) {
            // SAFETY: as above.
            let a = unsafe { *t.a.as_ptr().add(i * t.a_row + p * t.a_col) };
            acc.iter_mut().zip(b).for_each(|(acc, b)| *acc = a.mul_add(*b, *acc));
        }
    }
    for (i, acc) in acc.iter().enumerate().take(t.m) {
        // SAFETY: `c` is valid for n elements of row i, and apart from the operands.
        let c = unsafe { std::slice::from_raw_parts_mut(t.c.add(i * t.c_row), t.n) };
        for (c, acc) in c.iter_mut().zip(acc) {
            *c = if t.accumulate { acc.mul_add(t.alpha, *c) } else { acc * t.alpha };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{NR, Tile};
    use std::arch::x86_64::*;

    /// Calls `$tile::<m>` for m = 1..=12.
    macro_rules! by_rows {
        ($tile:ident, $t:expr) => {
            match $t.m {
                1 => $tile::<1>($t),
                2 => $tile::<2>($t),
                3 => $tile::<3>($t),
                4 => $tile::<4>($t),
                5 => $tile::<5>($t),
                6 => $tile::<6>($t),
                7 => $tile::<7>($t),
                8 => $tile::<8>($t),
                9 => $tile::<9>($t),
                10 => $tile::<10>($t),
                11 => $tile::<11>($t),
                _ => $tile::<12>($t),
            }
        };
    }

    pub unsafe fn avx512(t: &Tile) {
        // SAFETY: chosen by `kernel_of` on CPUs with AVX-512F only; the pointers are the caller's promise.
        unsafe { by_rows!(tile_avx512, t) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn tile_avx512<const M: usize>(t: &Tile) {
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        let (mut a, mut b) = (t.a.as_ptr(), t.b.as_ptr());
        for _ in 0..t.k {
            // SAFETY: row p of b has NR = 32 readable elements, and a is readable at i * a_row for i < M (see `kernel`).
            unsafe {
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.add(i * t.a_row));
                    acc[0] = _mm512_fmadd_ps(a, b0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(a, b1, acc[1]);
                }
            }
            a = a.wrapping_add(t.a_col);
            b = b.wrapping_add(t.b_row);
        }
        let alpha = _mm512_set1_ps(t.alpha);
        let mask = if t.n >= NR { u32::MAX } else { (1u32 << t.n) - 1 };
        let masks = [mask as __mmask16, (mask >> 16) as __mmask16];
        for (i, acc) in acc.iter().enumerate() {
            for (half, &mask) in masks.iter().enumerate() {
                // SAFETY: the mask limits the access to the n valid elements of row i of c.
                unsafe {
                    let c = t.c.wrapping_add(i * t.c_row + 16 * half);
                    let value = if t.accumulate {
                        _mm512_fmadd_ps(acc[half], alpha, _mm512_maskz_loadu_ps(mask, c))
                    } else {
                        _mm512_mul_ps(acc[half], alpha)
                    };
                    _mm512_mask_storeu_ps(c, mask, value);
                }
            }
        }
    }

    pub unsafe fn avx2(t: &Tile) {
        // Sixteen registers hold 6 rows of 2 vectors: two halves by columns, two by rows.
        for first_row in (0..t.m).step_by(6) {
            for first_col in (0..t.n).step_by(16) {
                let part = Tile {
                    a: &t.a[first_row * t.a_row..],
                    b: &t.b[first_col..],
                    c: t.c.wrapping_add(first_row * t.c_row + first_col),
                    m: (t.m - first_row).min(6),
                    n: (t.n - first_col).min(16),
                    ..*t
                };
                // SAFETY: chosen by `kernel_of` on CPUs with AVX2 and FMA only; the part lies inside the caller's tile.
                unsafe { by_rows!(tile_avx2, &part) }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile_avx2<const M: usize>(t: &Tile) {
        let mut acc = [[_mm256_setzero_ps(); 2]; M];
        let (mut a, mut b) = (t.a.as_ptr(), t.b.as_ptr());
        for _ in 0..t.k {
            // SAFETY: row p of b has 16 readable elements here, and a is readable at i * a_row for i < M.
            unsafe {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*a.add(i * t.a_row));
                    acc[0] = _mm256_fmadd_ps(a, b0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(a, b1, acc[1]);
                }
            }
            a = a.wrapping_add(t.a_col);
            b = b.wrapping_add(t.b_row);
        }
        for (i, acc) in acc.iter().enumerate() {
            let mut row = [0.0f32; 16];
            // SAFETY: `row` holds the 16 elements stored; c is valid for the n elements of row i.
            let c = unsafe {
                _mm256_storeu_ps(row.as_mut_ptr(), acc[0]);
                _mm256_storeu_ps(row.as_mut_ptr().add(8), acc[1]);
                std::slice::from_raw_parts_mut(t.c.add(i * t.c_row), t.n)
            };
            for (c, x) in c.iter_mut().zip(row) {
                *c = if t.accumulate { x.mul_add(t.alpha, *c) } else { x * t.alpha };
            }
        }
    }
}

/// Elements of a packed operand of `cols` columns and `k` rows.
pub fn packed_len(cols: usize, k: usize) -> usize {
    cols.next_multiple_of(NR) * k
}

/// Packs columns `first..` of b (K, N) into one panel (K, NR), zero beyond `cols`.
pub fn pack_panel(panel: &mut [f32], b: Mat<f32>, first: usize, cols: usize, k: usize) {
    if b.col_stride == 1 {
        for (p, row) in panel.chunks_exact_mut(NR).enumerate().take(k) {
            row[..cols].copy_from_slice(&b.data[p * b.row_stride + first..][..cols]);
            row[cols..].fill(0.0);
        }
        return;
    }
    // A transposition: blocks of 16 rows of k keep both sides in a few cache lines.
    for start in (0..k).step_by(16) {
        let end = (start + 16).min(k);
        for j in 0..NR {
            if j < cols {
                let column = &b.data[(first + j) * b.col_stride..];
                for p in start..end {
                    panel[p * NR + j] = column[p * b.row_stride];
                }
            } else {
                (start..end).for_each(|p| panel[p * NR + j] = 0.0);
            }
        }
    }
}

/// Packs all of b (K, N): panel after panel of NR columns, each (K, NR).
fn pack(packed: &mut [f32], b: Mat<f32>, n: usize, k: usize, threads: Threads) {
    let pack_one = |(i, panel): (usize, &mut [f32])| pack_panel(panel, b, i * NR, NR.min(n - i * NR), k);
    match threads {
        Threads::All => packed.par_chunks_exact_mut(NR * k).enumerate().for_each(pack_one),
        Threads::One => packed.chunks_exact_mut(NR * k).enumerate().for_each(pack_one),
    }
}

struct Out(*mut f32);
// SAFETY: tasks write disjoint rectangles of the output.
unsafe impl Sync for Out {}

impl Out {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// out (M, N) = alpha a (M, K) b (K, N), or out += that. Sizes are not 0 and have been checked against the slices.
pub(super) fn gemm(
    out: &mut [f32],
    out_stride: usize,
    a: Mat<f32>,
    b: Mat<f32>,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    accumulate: bool,
    threads: Threads,
) {
    // A few rows do not repay packing: use the right operand where it lies, if its rows are contiguous.
    let in_place = b.col_stride == 1 && m <= 2 * MR;
    let whole_panels = if in_place { n / NR } else { 0 };
    let packed_cols = n - whole_panels * NR;
    let mut packed = Storage::new(packed_len(packed_cols, k) * size_of::<f32>());
    let packed: &mut [f32] = bytemuck::cast_slice_mut(packed.as_bytes_mut());
    if packed_cols > 0 {
        let rest = Mat { data: &b.data[whole_panels * NR * b.col_stride..], ..b };
        pack(packed, rest, packed_cols, k, threads);
    }
    let packed = &*packed;
    let out = Out(out.as_mut_ptr());
    let kernel = kernel();
    // The left operand is read where it lies if its k is contiguous and the rows of a tile do not all fall into the same
    // sets of a 4 KiB-per-way first-level cache.
    let a_in_place = a.col_stride == 1 && !(a.row_stride * size_of::<f32>()).is_multiple_of(2048);

    // Tasks of equal size, so that no thread is left with a sliver while another has a whole one.
    let (row_tasks, col_tasks) = (m.div_ceil(MC), n.div_ceil(NC));
    let task_rows = m.div_ceil(row_tasks).next_multiple_of(MR);
    let task_cols = n.div_ceil(col_tasks).next_multiple_of(NR);
    let (row_tasks, col_tasks) = (m.div_ceil(task_rows), n.div_ceil(task_cols));
    let place = |i: usize| (i % row_tasks * task_rows, i / row_tasks * task_cols);

    let task = |(row, col): (usize, usize)| {
        let (rows, cols) = (task_rows.min(m - row), task_cols.min(n - col));
        let mut a_block = if a_in_place { Vec::new() } else { vec![0.0f32; rows.next_multiple_of(MR) * KC] };
        for p in (0..k).step_by(KC) {
            let depth = KC.min(k - p);
            if !a_in_place {
                pack_left(&mut a_block, a, row, rows, p, depth);
            }
            for j in (col..col + cols).step_by(NR) {
                let panel = j / NR;
                let (b_at, b_row) = if panel < whole_panels {
                    (&b.data[p * b.row_stride + j..], b.row_stride)
                } else {
                    (&packed[(panel - whole_panels) * NR * k + p * NR..], NR)
                };
                for i in (0..rows).step_by(MR) {
                    let (a_at, a_row, a_col) = if a_in_place {
                        (&a.data[(row + i) * a.row_stride + p..], a.row_stride, 1)
                    } else {
                        (&a_block[i * KC..], 1, MR)
                    };
                    let tile = Tile {
                        a: a_at,
                        a_row,
                        a_col,
                        b: b_at,
                        b_row,
                        c: out.at((row + i) * out_stride + j),
                        c_row: out_stride,
                        m: MR.min(rows - i),
                        n: NR.min(n - j),
                        k: depth,
                        alpha,
                        accumulate: accumulate || p > 0,
                    };
                    // SAFETY: the output holds M rows of N elements (checked by `gemm_f32`); no other task writes this part.
                    unsafe { tile.run(kernel) };
                }
            }
        }
    };
    match threads {
        Threads::All => (0..row_tasks * col_tasks).into_par_iter().map(place).for_each(task),
        Threads::One => (0..row_tasks * col_tasks).map(place).for_each(task),
    }
}

/// Packs rows of a into strips of MR rows: element (i, p) of a strip at p * MR + i; strips KC * MR apart.
fn pack_left(block: &mut [f32], a: Mat<f32>, row: usize, rows: usize, first: usize, depth: usize) {
    for (strip, i) in block.chunks_exact_mut(MR * KC).zip((0..rows).step_by(MR)) {
        let count = MR.min(rows - i);
        let start = (row + i) * a.row_stride + first * a.col_stride;
        if a.row_stride == 1 {
            for (p, out) in strip.chunks_exact_mut(MR).enumerate().take(depth) {
                out[..count].copy_from_slice(&a.data[start + p * a.col_stride..][..count]);
            }
            continue;
        }
        for i in 0..count {
            let row = &a.data[start + i * a.row_stride..];
            for (p, out) in strip.chunks_exact_mut(MR).enumerate().take(depth) {
                out[i] = row[p * a.col_stride];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Stream;

    fn random(n: usize, stream: u32) -> Vec<f32> {
        let mut reader = Stream { seed: 5, stream, step: 0 }.reader();
        (0..n).map(|_| reader.uniform() - 0.5).collect()
    }

    #[test]
    fn products_of_all_layouts_match_f64() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 5, 7),
            (12, 32, 16),
            (13, 33, 257),
            (25, 31, 3),
            (121, 67, 300),
            (130, 520, 20),
            (14, 40, 512),
        ] {
            for (a_t, b_t) in [(false, false), (false, true), (true, false), (true, true)] {
                for (alpha, accumulate) in [(1.0, false), (0.5, true)] {
                    let (a, b, start) = (random(m * k, 0), random(k * n, 1), random(m * n, 2));
                    let a_mat = if a_t { Mat::rows(&a, m).t() } else { Mat::rows(&a, k) };
                    let b_mat = if b_t { Mat::rows(&b, k).t() } else { Mat::rows(&b, n) };
                    let mut out = start.clone();
                    gemm(&mut out, n, a_mat, b_mat, m, n, k, alpha, accumulate, Threads::All);
                    for i in 0..m {
                        for j in 0..n {
                            let at = |mat: Mat<f32>, r: usize, c: usize| {
                                mat.data[r * mat.row_stride + c * mat.col_stride] as f64
                            };
                            let sum: f64 = (0..k).map(|p| at(a_mat, i, p) * at(b_mat, p, j)).sum();
                            let want =
                                sum * alpha as f64 + if accumulate { start[i * n + j] as f64 } else { 0.0 };
                            let got = out[i * n + j] as f64;
                            // k products below 1/4 each, f32 partial sums below k/4: error below k * 2^-24 * k/4.
                            let bound = 2f64.powi(-24) * (k as f64 * 0.25 + 2.0) * 4.0;
                            let case = format!("{m}x{n}x{k} {a_t} {b_t} {accumulate} at ({i}, {j})");
                            assert!((got - want).abs() <= bound, "{case}: {got} != {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (m, n, k) = (12, 29, 77);
        let (a, b) = (random(m * k, 3), random(NR * k, 4));
        let run = |level: Level, rows: usize| {
            let mut c = vec![1.0f32; m * NR];
            let tile = Tile {
                a: &a,
                a_row: k,
                a_col: 1,
                b: &b,
                b_row: NR,
                c: c.as_mut_ptr(),
                c_row: NR,
                m: rows,
                n,
                k,
                alpha: 0.75,
                accumulate: true,
            };
            // SAFETY: c holds 12 x 32 elements; the level is at most this CPU's.
            unsafe { tile.run(kernel_of(level)) };
            c
        };
        for rows in 1..=m {
            let want = run(Level::Baseline, rows);
            assert!(
                want[rows * NR..].iter().chain(&want[n..NR]).all(|c| *c == 1.0),
                "wrote outside the tile"
            );
            if level() != Level::Baseline {
                assert_eq!(run(Level::Avx2, rows), want, "AVX2, {rows} rows");
            }
            if level() == Level::Avx512 {
                assert_eq!(run(Level::Avx512, rows), want, "AVX-512, {rows} rows");
            }
        }
    }
}
