//! Warp-level matrix products of every type and shape: fragments by the ISA's formulas for their elements, values against
//! exact sums. Every element of A and B is drawn at random, so that one in a wrong place shows.

mod common;

use common::{Random, Run};
use half::{bf16, f16};
use handloom_emulator::{LaunchConfig, Options};

/// An element type of A or B.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Ty {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
    S4,
    U4,
    B1,
}
use Ty::*;

impl Ty {
    fn bits(self) -> usize {
        match self {
            Tf32 => 32,
            F16 | Bf16 => 16,
            E4m3 | E5m2 | S8 | U8 => 8,
            S4 | U4 => 4,
            B1 => 1,
        }
    }

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// A value and its bits. Floats are halves up to 1, so that sums are exact in every arithmetic.
    fn random(self, r: &mut Random) -> (f64, u32) {
        let v = (r.next() % 5) as f64 / 2.0 - 1.0;
        let n = r.next() as u32;
        match self {
            F16 => (v, f16::from_f64(v).to_bits() as u32),
            Bf16 => (v, bf16::from_f64(v).to_bits() as u32),
            // The 13 low bits are not read.
            Tf32 => (v, (v as f32).to_bits() | n & 0x1fff),
            // 1 is the bias in the exponent, a half is one less.
            E4m3 | E5m2 => {
                let (bias, mantissa) = if self == E4m3 { (7, 3) } else { (15, 2) };
                let magnitude = if v == 0.0 { 0 } else { (bias - (v.abs() < 1.0) as u32) << mantissa };
                (v, magnitude | if v < 0.0 { 0x80 } else { 0 })
            }
            S8 => (n as u8 as i8 as f64, n & 0xff),
            U8 => ((n & 0xff) as f64, n & 0xff),
            S4 => (((n as i32) << 28 >> 28) as f64, n & 0xf),
            U4 => ((n & 0xf) as f64, n & 0xf),
            B1 => ((n & 1) as f64, n & 1),
        }
    }
}

/// A product: the shape, the types, D and C in f16, and what a sparse A is told by.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    k: usize,
    a: Ty,
    b: Ty,
    half: bool,
    xor: bool,
    satfinite: bool,
    selector: Option<usize>,
}

const fn case(m: usize, k: usize, a: Ty, b: Ty) -> Case {
    Case { m, k, a, b, half: false, xor: false, satfinite: false, selector: None }
}

/// Registers of a lane in the buffer: A, B, C, metadata.
const WORDS: usize = 4 + 4 + 4 + 1;

impl Case {
    fn accumulator(&self) -> &'static str {
        match self.a {
            _ if self.half => "f16",
            F16 | Bf16 | Tf32 | E4m3 | E5m2 => "f32",
            _ => "s32",
        }
    }

    fn stored(&self) -> usize {
        self.k / if self.selector.is_some() { 2 } else { 1 }
    }

    /// Registers of A, B, and C or D.
    fn counts(&self) -> [usize; 3] {
        let lanes = 32 * 32;
        let d = self.m * 8 / 32 / if self.half { 2 } else { 1 };
        [self.m * self.stored() * self.a.bits() / lanes, 8 * self.k * self.b.bits() / lanes, d]
    }

    fn ptx(&self) -> String {
        let [na, nb, nd] = self.counts();
        let list = |p: &str, n: usize| (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(", ");
        let load = |p: &str, n: usize, first: usize| {
            (0..n).map(|i| format!("ld.global.b32 %{p}{i}, [%w3+{}];\n", 4 * (first + i))).collect::<String>()
        };
        let acc = self.accumulator();
        let (sp, metadata) = match self.selector {
            Some(s) => (".sp::ordered_metadata", format!(", %e, {s}")),
            None => ("", String::new()),
        };
        let sat = if self.satfinite { ".satfinite" } else { "" };
        let bits = match (self.a, self.xor) {
            (B1, true) => ".xor.popc",
            (B1, false) => ".and.popc",
            _ => "",
        };
        format!(
            ".version 8.7\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 inp) {{
    .reg .b32 %t, %e, %a<4>, %b<4>; .reg .{ty} %c<4>, %d<4>; .reg .b64 %w<6>;
    ld.param.u64 %w0, [out]; ld.param.u64 %w1, [inp]; mov.u32 %t, %tid.x;
    mul.wide.u32 %w2, %t, {stride}; add.s64 %w3, %w1, %w2;
    {}{}{}ld.global.b32 %e, [%w3+48];
    mma{sp}.sync.aligned.m{}n8k{}.row.col{sat}.{acc}.{}.{}.{acc}{bits} {{{}}}, {{{}}}, {{{}}}, {{{}}}{metadata};
    mul.wide.u32 %w2, %t, 16; add.s64 %w3, %w0, %w2;
    {}ret; }}",
            load("a", na, 0),
            load("b", nb, 4),
            load("c", nd, 8),
            self.m,
            self.k,
            self.a.name(),
            self.b.name(),
            list("d", nd),
            list("a", na),
            list("b", nb),
            list("c", nd),
            (0..nd).map(|i| format!("st.global.b32 [%w3+{}], %d{i};\n", 4 * i)).collect::<String>(),
            ty = if acc == "f16" { "b32" } else { acc },
            stride = 4 * WORDS,
        )
    }

    /// Where the ISA says that element `i` of A (or `b` of B) of a lane lies: row and column.
    fn place_a(&self, lane: usize, i: usize) -> (usize, usize) {
        let (group, thread, e) = (lane >> 2, lane % 4, 32 / self.a.bits());
        if self.m == 8 {
            return (group, thread * e + i % e + 4 * e * (i / e));
        }
        let row = if (i / e).is_multiple_of(2) { group } else { group + 8 };
        (row, thread * e + i % e + if i < 2 * e { 0 } else { 4 * e })
    }

    fn place_b(&self, lane: usize, i: usize) -> (usize, usize) {
        let e = 32 / self.b.bits();
        (lane % 4 * e + i % e + i / e * 4 * e, lane >> 2)
    }

    /// Positions, among `self.k`, of the stored elements of each row, and every lane's metadata (figures 119 to 147 of the
    /// ISA): entries of four bits, of rows g and g + 8 in one word for wide types, else of one row.
    fn sparsity(&self, r: &mut Random) -> (Vec<Vec<usize>>, [u32; 32]) {
        let mut words: [u32; 32] = std::array::from_fn(|_| r.next() as u32);
        let Some(selector) = self.selector else { return (vec![], words) };
        let chunks = self.k
            / if self.a.bits() == 32 {
                2
            } else if self.a.bits() == 4 {
                8
            } else {
                4
            };
        let mut positions = vec![vec![]; 16];
        for (row, positions) in positions.iter_mut().enumerate() {
            for chunk in 0..chunks {
                const PAIRS: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
                let (x, y) = PAIRS[(r.next() % 6) as usize];
                let entry = match self.a.bits() {
                    32 => {
                        positions.push(2 * chunk + (x > 0) as usize);
                        if x > 0 { 0b1110 } else { 0b0100 }
                    }
                    4 => {
                        positions.extend([
                            8 * chunk + 2 * x,
                            8 * chunk + 2 * x + 1,
                            8 * chunk + 2 * y,
                            8 * chunk + 2 * y + 1,
                        ]);
                        x | y << 2
                    }
                    _ => {
                        positions.extend([4 * chunk + x, 4 * chunk + y]);
                        x | y << 2
                    }
                };
                let (thread, nibble) = match (self.a.bits() >= 16, chunks) {
                    (true, 4) => (selector, chunk + row / 8 * 4),
                    (true, 8) => (2 * selector + chunk / 4, chunk % 4 + row / 8 * 4),
                    (false, 8) => (2 * selector + row / 8, chunk),
                    _ => (row / 8 + chunk / 8 * 2, chunk % 8),
                };
                let word = &mut words[row % 8 * 4 + thread];
                *word = *word & !(15 << (4 * nibble)) | (entry as u32) << (4 * nibble);
            }
        }
        (positions, words)
    }

    fn check(&self, seed: u64, options: &str) {
        let mut r = Random(seed);
        let (k, stored) = (self.k, self.stored());
        let draw =
            |ty: Ty, n: usize, r: &mut Random| -> Vec<(f64, u32)> { (0..n).map(|_| ty.random(r)).collect() };
        let (a, b) = (draw(self.a, self.m * stored, &mut r), draw(self.b, k * 8, &mut r));
        let (positions, metadata) = self.sparsity(&mut r);
        // Near the end of the range where sums saturate.
        let limit = if self.satfinite { i32::MAX - 500 } else { 0 };
        let c: Vec<i32> = (0..self.m * 8).map(|_| limit + (r.next() % 64) as i32 - 32).collect();
        let [na, nb, nd] = self.counts();
        let mut words = vec![0u32; 32 * WORDS];
        for (lane, words) in words.chunks_exact_mut(WORDS).enumerate() {
            let (ea, eb) = (32 / self.a.bits(), 32 / self.b.bits());
            for i in 0..na * ea {
                let (row, column) = self.place_a(lane, i);
                words[i / ea] |= a[row * stored + column].1 << (self.a.bits() * (i % ea));
            }
            for i in 0..nb * eb {
                let (row, column) = self.place_b(lane, i);
                words[4 + i / eb] |= b[row * 8 + column].1 << (self.b.bits() * (i % eb));
            }
            for i in 0..nd {
                words[8 + i] = self.register(lane, i, &|at| match self.accumulator() {
                    "f16" => f16::from_f64(c[at] as f64).to_bits() as u32,
                    "f32" => (c[at] as f32).to_bits(),
                    _ => c[at] as u32,
                });
            }
            words[12] = metadata[lane];
        }
        let mut run = Run::new(&self.ptx(), Options::parse(&format!("arch=sm_90a,{options}")).unwrap());
        let (inp, out) = (run.put("inp", &words), run.put("out", &[0u32; 128]));
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
        let found = run.get::<u32>(out, 128);
        let sum = |at: usize| -> f64 {
            let (m, n) = (at / 8, at % 8);
            let terms = (0..stored).map(|j| {
                let l = if self.selector.is_some() { positions[m][j] } else { j };
                let (x, y) = (a[m * stored + j].0, b[l * 8 + n].0);
                if self.xor { (x != y) as u32 as f64 } else { x * y }
            });
            c[at] as f64 + terms.sum::<f64>()
        };
        for lane in 0..32 {
            for i in 0..nd {
                let expected = self.register(lane, i, &|at| match self.accumulator() {
                    "f16" => f16::from_f64(sum(at)).to_bits() as u32,
                    "f32" => (sum(at) as f32).to_bits(),
                    _ if self.satfinite => sum(at).min(i32::MAX as f64) as i32 as u32,
                    _ => sum(at) as i64 as u32,
                });
                let ours = found[4 * lane + i];
                assert_eq!(
                    ours, expected,
                    "{self:?} {options}: lane {lane} register {i}: {ours:08x}, not {expected:08x}"
                );
            }
        }
    }

    /// Register `i` of C or D in a lane, from the bits of elements.
    fn register(&self, lane: usize, i: usize, bits: &dyn Fn(usize) -> u32) -> u32 {
        let (group, column) = (lane >> 2, 2 * (lane % 4));
        if self.half {
            let at = (group + 8 * i) * 8 + column;
            return bits(at) | bits(at + 1) << 16;
        }
        bits((group + if i < 2 { 0 } else { 8 }) * 8 + column + (i & 1))
    }
}

fn all(cases: &[Case]) {
    for (i, case) in cases.iter().enumerate() {
        for mode in ["tensor=ideal", "tensor=ampere", "tensor=hopper"] {
            case.check(100 + i as u64, mode);
        }
    }
}

#[test]
fn eight_bit_floats() {
    let mut cases = Vec::new();
    for (a, b) in [(E4m3, E4m3), (E4m3, E5m2), (E5m2, E4m3), (E5m2, E5m2)] {
        for k in [16, 32] {
            cases.extend([case(16, k, a, b), Case { half: true, ..case(16, k, a, b) }]);
        }
        cases.push(Case { selector: Some(0), ..case(16, 64, a, b) });
    }
    all(&cases);
}

#[test]
fn bytes_nibbles_and_bits() {
    let mut cases = Vec::new();
    for (a, b) in [(S8, S8), (S8, U8), (U8, S8), (U8, U8)] {
        cases.extend([case(8, 16, a, b), case(16, 16, a, b), Case { satfinite: true, ..case(16, 32, a, b) }]);
    }
    for (a, b) in [(S4, S4), (S4, U4), (U4, S4), (U4, U4)] {
        cases.extend([case(8, 32, a, b), Case { satfinite: true, ..case(16, 32, a, b) }, case(16, 64, a, b)]);
    }
    for xor in [false, true] {
        cases.extend([(8, 128), (16, 128), (16, 256)].map(|(m, k)| Case { xor, ..case(m, k, B1, B1) }));
    }
    all(&cases);
}

#[test]
fn sixteen_and_thirty_two_bits() {
    let halves = |k| Case { half: true, ..case(16, k, F16, F16) };
    all(&[
        case(16, 8, F16, F16),
        case(16, 16, F16, F16),
        halves(8),
        halves(16),
        case(16, 8, Bf16, Bf16),
        case(16, 16, Bf16, Bf16),
        case(16, 4, Tf32, Tf32),
        case(16, 8, Tf32, Tf32),
    ]);
}

#[test]
fn sparse_matrices() {
    let mut cases = Vec::new();
    for ty in [F16, Bf16] {
        cases.extend((0..4).map(|s| Case { selector: Some(s), ..case(16, 16, ty, ty) }));
        cases.extend((0..2).map(|s| Case { selector: Some(s), ..case(16, 32, ty, ty) }));
    }
    cases.extend((0..2).map(|s| Case { selector: Some(s), half: true, ..case(16, 32, F16, F16) }));
    cases.extend((0..4).map(|s| Case { selector: Some(s), ..case(16, 8, Tf32, Tf32) }));
    cases.extend((0..2).map(|s| Case { selector: Some(s), ..case(16, 16, Tf32, Tf32) }));
    for (a, b, k) in [(S8, S8, 32), (U8, S8, 32), (S4, U4, 64), (U4, U4, 64)] {
        cases.extend((0..2).map(|s| Case { selector: Some(s), ..case(16, k, a, b) }));
        cases.push(Case { selector: Some(0), satfinite: true, ..case(16, 2 * k, a, b) });
    }
    all(&cases);
}

/// 1 and 2^-14, as products of e4m3: the sum of an H100 keeps 13 bits after the point.
#[test]
fn eight_bit_floats_lose_what_the_hardware_loses() {
    let case = case(16, 32, E4m3, E4m3);
    let mut words = vec![0u32; 32 * WORDS];
    // Lane 0 holds A[0][0..4] and B[0..4][0]: 1 is 0x38, 2^-7 is the subnormal 4 * 2^-9.
    words[0] = 0x0438;
    words[4] = 0x0438;
    for (mode, expected) in [("ideal", 1.0 + 2f32.powi(-14)), ("hopper", 1.0)] {
        let mut run = Run::new(&case.ptx(), Options::parse(&format!("arch=sm_90a,tensor={mode}")).unwrap());
        let (inp, out) = (run.put("inp", &words), run.put("out", &[0u32; 128]));
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
        assert_eq!(f32::from_bits(run.get::<u32>(out, 1)[0]), expected, "{mode}");
    }
}

/// f64: A of m x k and B of k x 8 by the formulas of each shape; products are added in order of k, each with one rounding.
#[test]
fn doubles() {
    for (m, k) in [(8, 4), (16, 4), (16, 8), (16, 16)] {
        let (na, nb, nd) = (m * k / 32, k / 4, m / 4);
        let list = |p: &str, n: usize| (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(", ");
        let load = |p: &str, n: usize, first: usize| {
            (0..n).map(|i| format!("ld.global.f64 %{p}{i}, [%w3+{}];\n", 8 * (first + i))).collect::<String>()
        };
        let ptx = format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 inp) {{
    .reg .b32 %t; .reg .f64 %a<8>, %b<4>, %c<4>, %d<4>; .reg .b64 %w<6>;
    ld.param.u64 %w0, [out]; ld.param.u64 %w1, [inp]; mov.u32 %t, %tid.x;
    mul.wide.u32 %w2, %t, 128; add.s64 %w3, %w1, %w2;
    {}{}{}mma.sync.aligned.m{m}n8k{k}.row.col.f64.f64.f64.f64 {{{}}}, {{{}}}, {{{}}}, {{{}}};
    mul.wide.u32 %w2, %t, 32; add.s64 %w3, %w0, %w2;
    {}ret; }}",
            load("a", na, 0),
            load("b", nb, 8),
            load("c", nd, 12),
            list("d", nd),
            list("a", na),
            list("b", nb),
            list("c", nd),
            (0..nd).map(|i| format!("st.global.f64 [%w3+{}], %d{i};\n", 8 * i)).collect::<String>()
        );
        let mut r = Random(5 + k as u64);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| r.unit() as f64 * 1.1).collect() };
        let (a, b, c) = (draw(m * k), draw(k * 8), draw(m * 8));
        let mut words = vec![0u64; 32 * 16];
        for lane in 0..32 {
            let (g, t) = (lane >> 2, lane % 4);
            for i in 0..na {
                let column = if m == 8 {
                    t
                } else if i % 2 == 0 {
                    2 * i + t
                } else {
                    2 * i - 2 + t
                };
                words[lane * 16 + i] = a[(g + 8 * (i % 2)) * k + column].to_bits();
            }
            for i in 0..nb {
                words[lane * 16 + 8 + i] = b[(t + 4 * i) * 8 + g].to_bits();
            }
            for i in 0..nd {
                words[lane * 16 + 12 + i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2].to_bits();
            }
        }
        let mut run = Run::new(&ptx, Options::parse("arch=sm_90a").unwrap());
        let (inp, out) = (run.put("inp", &words), run.put("out", &[0f64; 128]));
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
        let found = run.get::<f64>(out, 128);
        for lane in 0..32 {
            for i in 0..nd {
                let (row, column) = ((lane >> 2) + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let sum =
                    (0..k).fold(c[row * 8 + column], |s, l| a[row * k + l].mul_add(b[l * 8 + column], s));
                assert_eq!(found[4 * lane + i], sum, "m{m}n8k{k} lane {lane} register {i}");
            }
        }
    }
}

/// Four products of 8 x 8 x 4 in f16, each by lanes 4 q to 4 q + 3 and 16 more, in every layout and accumulator.
#[test]
fn quad_pairs() {
    for choice in 0..12 {
        let (a_col, b_row) = (choice & 1 != 0, choice & 2 != 0);
        let (d_half, c_half) = [(false, false), (false, true), (true, true)][choice / 4];
        let word = |col: bool| if col { "col" } else { "row" };
        let ty = |half: bool| if half { "f16" } else { "f32" };
        let (nd, nc) = (if d_half { 4 } else { 8 }, if c_half { 4 } else { 8 });
        let list = |p: &str, n: usize| (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(", ");
        let load = |p: &str, n: usize, first: usize| {
            (0..n).map(|i| format!("ld.global.b32 %{p}{i}, [%w3+{}];\n", 4 * (first + i))).collect::<String>()
        };
        let ptx = format!(
            ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 inp) {{
    .reg .b32 %t, %a<2>, %b<2>, %c<8>, %d<8>; .reg .b64 %w<6>;
    ld.param.u64 %w0, [out]; ld.param.u64 %w1, [inp]; mov.u32 %t, %tid.x;
    mul.wide.u32 %w2, %t, 48; add.s64 %w3, %w1, %w2;
    {}{}{}mma.sync.aligned.m8n8k4.{}.{}.{}.f16.f16.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};
    mul.wide.u32 %w2, %t, 32; add.s64 %w3, %w0, %w2;
    {}ret; }}",
            load("a", 2, 0),
            load("b", 2, 2),
            load("c", nc, 4),
            word(a_col),
            word(!b_row),
            ty(d_half),
            ty(c_half),
            list("d", nd),
            list("a", 2),
            list("b", 2),
            list("c", nc),
            (0..nd).map(|i| format!("st.global.b32 [%w3+{}], %d{i};\n", 4 * i)).collect::<String>()
        );
        let mut r = Random(50 + choice as u64);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| (r.next() % 9) as f64 - 4.0).collect() };
        let (a, b, c) = (draw(4 * 32), draw(4 * 32), draw(4 * 64));
        let bits = |v: f64| f16::from_f64(v).to_bits() as u32;
        // Row and column of element i of C or D in a lane, by the two formulas.
        let place = |half: bool, lane: usize, i: usize| {
            let low = if lane < 16 { 0 } else { 4 };
            match half {
                true => (lane % 4 + low, i),
                false => ((lane & 1) + (i & 2) + low, (i & 4) + (lane & 2) + (i & 1)),
            }
        };
        let mut words = vec![0u32; 32 * 12];
        for lane in 0..32 {
            let (pair, low) = (lane % 16 / 4, if lane < 16 { 0 } else { 4 });
            for i in 0..4 {
                let (row, column) = if a_col { (i + low, lane % 4) } else { (lane % 4 + low, i) };
                words[lane * 12 + i / 2] |= bits(a[pair * 32 + row * 4 + column]) << (16 * (i % 2));
                let (row, column) = if b_row { (lane % 4, i + low) } else { (i, lane % 4 + low) };
                words[lane * 12 + 2 + i / 2] |= bits(b[pair * 32 + row * 8 + column]) << (16 * (i % 2));
            }
            for i in 0..8 {
                let (row, column) = place(c_half, lane, i);
                let v = c[pair * 64 + row * 8 + column];
                match c_half {
                    true => words[lane * 12 + 4 + i / 2] |= bits(v) << (16 * (i % 2)),
                    false => words[lane * 12 + 4 + i] = (v as f32).to_bits(),
                }
            }
        }
        let mut run = Run::new(&ptx, Options::default());
        let (inp, out) = (run.put("inp", &words), run.put("out", &[0u32; 256]));
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
        let found = run.get::<u32>(out, 256);
        for lane in 0..32 {
            for i in 0..8 {
                let (pair, (m, n)) = (lane % 16 / 4, place(d_half, lane, i));
                let products = (0..4).map(|l| a[pair * 32 + m * 4 + l] * b[pair * 32 + l * 8 + n]);
                let sum = c[pair * 64 + m * 8 + n] + products.sum::<f64>();
                let ours = match d_half {
                    true => f16::from_bits((found[lane * 8 + i / 2] >> (16 * (i % 2))) as u16).to_f64(),
                    false => f32::from_bits(found[lane * 8 + i]) as f64,
                };
                assert_eq!(
                    ours, sum,
                    "layouts {a_col} {b_row}, f16 {d_half} {c_half}: lane {lane} element {i}"
                );
            }
        }
    }
}
