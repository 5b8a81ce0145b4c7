//! wgmma.mma_async in generated PTX: every N of every type, A from registers and from shared memory, all swizzles and
//! both majors, signs and scale-d, against f64. The host lays matrices out by the formulas of PTX ISA 9.7.15.5.1.2 in
//! elements, and swizzles by its tables.

mod common;

use common::{Random, Run};
use handloom_emulator::{Arch, AsyncTiming, LaunchConfig, Options};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ty {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl Ty {
    fn name(self) -> &'static str {
        match self {
            Ty::F16 => "f16",
            Ty::Bf16 => "bf16",
            Ty::Tf32 => "tf32",
            Ty::E4m3 => "e4m3",
            Ty::E5m2 => "e5m2",
            Ty::S8 => "s8",
            Ty::U8 => "u8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Ty::F16 | Ty::Bf16 => 2,
            Ty::Tf32 => 4,
            _ => 1,
        }
    }

    /// Small exact values: sums of products are exact in f32, so the comparison is of bits.
    fn random(self, r: &mut Random) -> (f64, Vec<u8>) {
        let i = (r.next() % 9) as i32 - 4;
        match self {
            Ty::F16 => (i as f64 / 2.0, half::f16::from_f64(i as f64 / 2.0).to_le_bytes().to_vec()),
            Ty::Bf16 => (i as f64 / 2.0, half::bf16::from_f64(i as f64 / 2.0).to_le_bytes().to_vec()),
            // The 13 low bits are not read.
            Ty::Tf32 => {
                let bits = (i as f32 / 2.0).to_bits() | (r.next() as u32 & 0x1fff);
                (i as f64 / 2.0, bits.to_le_bytes().to_vec())
            }
            // Exponent 7 - 2 and up: 0.25, 0.5, 1, 2, with a sign; e5m2 alike with bias 15.
            Ty::E4m3 | Ty::E5m2 => {
                let (bias, mantissa) = if self == Ty::E4m3 { (7, 3) } else { (15, 2) };
                let e = (i.unsigned_abs() as i32) % 4 - 2;
                let sign = if i < 0 { 0x80 } else { 0 };
                let value = 2f64.powi(e) * if i < 0 { -1.0 } else { 1.0 };
                (value, vec![sign | ((e + bias) << mantissa) as u8])
            }
            Ty::S8 => {
                let v = r.next() as i8;
                (v as f64, vec![v as u8])
            }
            Ty::U8 => {
                let v = r.next() as u8;
                (v as f64, vec![v])
            }
        }
    }
}

/// One instruction to test.
#[derive(Clone, Copy, Debug)]
struct Case {
    a: Ty,
    b: Ty,
    n: usize,
    half: bool,
    a_registers: bool,
    transpose: [bool; 2],
    negate: [bool; 2],
    /// Spans of the swizzles of A and B: 16 (none), 32, 64, 128.
    spans: [usize; 2],
    accumulate: bool,
    satfinite: bool,
}

const A_AT: usize = 0;
const B_AT: usize = 16 << 10;
const SHARED: usize = 96 << 10;

impl Case {
    fn k(&self) -> usize {
        32 / self.a.bytes()
    }

    fn integer(&self) -> bool {
        matches!(self.a, Ty::S8 | Ty::U8)
    }

    fn ptx(&self) -> String {
        let registers = if self.half { self.n / 4 } else { self.n / 2 };
        let acc = if self.half {
            "f16"
        } else if self.integer() {
            "s32"
        } else {
            "f32"
        };
        let prefix = if acc == "f32" { "%f" } else { "%d" };
        let list: Vec<String> = (0..registers).map(|i| format!("{prefix}{i}")).collect();
        let mut tail = String::new();
        if !self.integer() {
            self.negate.iter().for_each(|&n| tail += if n { ", -1" } else { ", 1" });
        }
        if self.a.bytes() == 2 {
            let from = self.a_registers as usize;
            self.transpose[from..].iter().for_each(|&t| tail += if t { ", 1" } else { ", 0" });
        }
        let a = if self.a_registers { "{%a0, %a1, %a2, %a3}" } else { "%desca" };
        let sat = if self.satfinite { ".satfinite" } else { "" };
        let mut body = String::new();
        for (i, r) in list.iter().enumerate() {
            let ty = if acc == "f32" { "f32" } else { "u32" };
            body += &format!("ld.global.{ty} {r}, [%cp+{}];\n", 4 * i);
        }
        for i in 0..4 {
            body += &format!("ld.global.u32 %a{i}, [%ap+{}];\n", 4 * i);
        }
        body += &format!(
            "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n{}k{}{sat}.{acc}.{}.{} {{{}}}, {a}, %descb, %scale{tail};\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
            self.n,
            self.k(),
            self.a.name(),
            self.b.name(),
            list.join(", ")
        );
        for (i, r) in list.iter().enumerate() {
            let ty = if acc == "f32" { "f32" } else { "u32" };
            body += &format!("st.global.{ty} [%cp+{}], {r};\n", 4 * i);
        }
        format!(
            ".version 8.4\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 data[];
.visible .entry k(.param .u64 image, .param .u64 c, .param .u64 a, .param .u64 desca, .param .u64 descb, .param .u32 scale) {{
.reg .b32 %d<128>, %r<8>, %a<4>; .reg .f32 %f<128>; .reg .b64 %rd<8>, %cp, %ap, %desca, %descb; .reg .pred %p, %scale;
ld.param.u64 %rd1, [image]; ld.param.u64 %cp, [c]; ld.param.u64 %ap, [a];
ld.param.u64 %desca, [desca]; ld.param.u64 %descb, [descb]; ld.param.u32 %r1, [scale];
setp.ne.u32 %scale, %r1, 0;
mov.u32 %r2, %tid.x;
mul.wide.u32 %rd2, %r2, {c_stride}; add.s64 %cp, %cp, %rd2;
mul.wide.u32 %rd3, %r2, 16; add.s64 %ap, %ap, %rd3;
mul.lo.u32 %r3, %r2, 16; mov.u32 %r4, data;
LOOP:
add.u32 %r5, %r4, %r3; cvt.u64.u32 %rd4, %r3; add.s64 %rd5, %rd1, %rd4;
ld.global.v4.u32 {{%d0, %d1, %d2, %d3}}, [%rd5];
st.shared.v4.u32 [%r5], {{%d0, %d1, %d2, %d3}};
add.u32 %r3, %r3, 2048;
setp.lt.u32 %p, %r3, {SHARED};
@%p bra LOOP;
fence.proxy.async; bar.sync 0;
{body}ret;
}}",
            c_stride = 4 * registers,
        )
    }

    /// Byte offset of an element of matrix `which` from its start, before the swizzle; and the two strides in bytes.
    fn offset(&self, which: usize, mn: usize, k: usize) -> (usize, [usize; 2]) {
        let bytes = self.a.bytes();
        let t = 16 / bytes;
        let w = self.spans[which] / 16;
        if !self.transpose[which] {
            // ((8,m),(T,2k)): rows of a span, groups of eight rows; without swizzle chunks lie apart.
            if w == 1 {
                let (lbo, sbo) = (4096, 128);
                return (((mn % 8) * t + k % t) * bytes + mn / 8 * sbo + k / t * lbo, [lbo, sbo]);
            }
            let sbo = 1024;
            return ((mn % 8) * self.spans[which] + mn / 8 * sbo + k * bytes, [16, sbo]);
        }
        if w == 1 {
            // ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
            let (sbo, lbo) = (256, 256 * 40);
            return ((mn % t + k % 8 * t) * bytes + mn / t * sbo + k / 8 * lbo, [lbo, sbo]);
        }
        // ((T,W,m),(8,k)):((1,T,LBO),(W T,SBO))
        let (lbo, sbo) = (2048, 1024);
        let inside = mn % t + mn / t % w * t + k % 8 * w * t;
        (inside * bytes + mn / (t * w) * lbo + k / 8 * sbo, [lbo, sbo])
    }

    /// The table of the swizzle: where chunk `c` of 128-byte row `r` goes.
    fn swizzled(span: usize, at: usize) -> usize {
        const B32: [[usize; 8]; 2] = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]];
        const B64: [[usize; 8]; 4] = [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [1, 0, 3, 2, 5, 4, 7, 6],
            [2, 3, 0, 1, 6, 7, 4, 5],
            [3, 2, 1, 0, 7, 6, 5, 4],
        ];
        const B128: [[usize; 8]; 8] = [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [1, 0, 3, 2, 5, 4, 7, 6],
            [2, 3, 0, 1, 6, 7, 4, 5],
            [3, 2, 1, 0, 7, 6, 5, 4],
            [4, 5, 6, 7, 0, 1, 2, 3],
            [5, 4, 7, 6, 1, 0, 3, 2],
            [6, 7, 4, 5, 2, 3, 0, 1],
            [7, 6, 5, 4, 3, 2, 1, 0],
        ];
        let (row, chunk, byte) = (at / 128, at / 16 % 8, at % 16);
        let chunk = match span {
            32 => B32[row % 2][chunk],
            64 => B64[row % 4][chunk],
            128 => B128[row % 8][chunk],
            _ => chunk,
        };
        row * 128 + chunk * 16 + byte
    }

    fn descriptor(&self, which: usize, start: usize) -> u64 {
        let (_, [lbo, sbo]) = self.offset(which, 0, 0);
        let mode = match self.spans[which] {
            128 => 1u64,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        (start as u64 >> 4) | (lbo as u64 >> 4) << 16 | (sbo as u64 >> 4) << 32 | mode << 62
    }

    fn check(&self, seed: u64, timing: AsyncTiming) {
        let mut r = Random(seed);
        let (k, bytes) = (self.k(), self.a.bytes());
        let mut image = vec![0u8; SHARED];
        let mut matrices = [vec![0.0; 64 * k], vec![0.0; self.n * k]];
        let mut fragments = vec![0u8; 128 * 16];
        for which in 0..2 {
            let rows = [64, self.n][which];
            for mn in 0..rows {
                for kk in 0..k {
                    let (v, raw) = [self.a, self.b][which].random(&mut r);
                    matrices[which][mn * k + kk] = v * if self.negate[which] { -1.0 } else { 1.0 };
                    let plain = [A_AT, B_AT][which] + self.offset(which, mn, kk).0;
                    let at = Case::swizzled(self.spans[which], plain);
                    image[at..at + bytes].copy_from_slice(&raw);
                    if which == 0 {
                        // Row 16 w + g + 8 h, column (K/4 elements of 32 bits) of lane 4 g + t.
                        let per = 4 / bytes;
                        let (w, g, h) = (mn / 16, mn % 8, mn / 8 % 2);
                        let (t, hi, e) = (kk / per % 4, kk / per / 4, kk % per);
                        let thread = 32 * w + 4 * g + t;
                        let byte = thread * 16 + (h + 2 * hi) * 4 + e * bytes;
                        fragments[byte..byte + bytes].copy_from_slice(&raw);
                    }
                }
            }
        }
        let registers = if self.half { self.n / 4 } else { self.n / 2 };
        let mut c = vec![0u32; 128 * registers];
        let place = |m: usize, j: usize| {
            let (w, g, h, t, e) = (m / 16, m % 8, m / 8 % 2, j % 8 / 2, j % 2);
            let thread = 32 * w + 4 * g + t;
            if self.half {
                (thread * registers + j / 8 * 2 + h, e)
            } else {
                (thread * registers + j / 8 * 4 + 2 * h + e, 0)
            }
        };
        let mut expected = vec![0.0; 64 * self.n];
        for m in 0..64 {
            for j in 0..self.n {
                let limit = if self.satfinite { i32::MAX as i64 - 1000 } else { 0 };
                let start = (r.next() % 64) as i64 - 32 + limit;
                let (at, e) = place(m, j);
                if self.half {
                    c[at] |= (half::f16::from_f64(start as f64).to_bits() as u32) << (16 * e);
                } else if self.integer() {
                    c[at] = start as i32 as u32;
                } else {
                    c[at] = (start as f32).to_bits();
                }
                let sum: f64 = (0..k).map(|x| matrices[0][m * k + x] * matrices[1][j * k + x]).sum();
                expected[m * self.n + j] = sum + if self.accumulate { start as f64 } else { 0.0 };
            }
        }
        let arch = Arch::named("sm_90a").unwrap();
        let mut run = Run::new(&self.ptx(), Options { arch, async_timing: timing, ..Options::default() });
        let (image, fragments) = (run.put("image", &image), run.put("a", &fragments));
        let out = run.put("c", &c);
        let config =
            LaunchConfig { grid: [1; 3], block: [128, 1, 1], cluster: [1; 3], dynamic_shared: SHARED as u32 };
        let args = [
            image.into(),
            out.into(),
            fragments.into(),
            self.descriptor(0, A_AT).into(),
            self.descriptor(1, B_AT).into(),
            (self.accumulate as u32).into(),
        ];
        let report = run.launch("k", config, &args);
        assert!(report.is_clean(), "{self:?}\n{}", report.text());
        let found = run.get::<u32>(out, c.len());
        for m in 0..64 {
            for j in 0..self.n {
                let (at, e) = place(m, j);
                let want = expected[m * self.n + j];
                let (ours, want) = if self.half {
                    let bits = (found[at] >> (16 * e)) as u16;
                    (bits as u32, half::f16::from_f64(want).to_bits() as u32)
                } else if self.integer() {
                    let wide = want as i64;
                    let clamped = wide.clamp(i32::MIN as i64, i32::MAX as i64);
                    (found[at], if self.satfinite { clamped as u32 } else { wide as u32 })
                } else {
                    (found[at], (want as f32).to_bits())
                };
                assert_eq!(ours, want, "{self:?}: row {m} column {j}");
            }
        }
    }
}

const PLAIN: Case = Case {
    a: Ty::Bf16,
    b: Ty::Bf16,
    n: 8,
    half: false,
    a_registers: false,
    transpose: [false; 2],
    negate: [false; 2],
    spans: [128; 2],
    accumulate: true,
    satfinite: false,
};
const SPANS: [usize; 4] = [16, 32, 64, 128];

/// Every N of every pair of types, with the other properties varied along the way.
#[test]
fn every_shape_of_every_type() {
    let floats = [
        (Ty::F16, Ty::F16, false),
        (Ty::F16, Ty::F16, true),
        (Ty::Bf16, Ty::Bf16, false),
        (Ty::Tf32, Ty::Tf32, false),
        (Ty::E4m3, Ty::E4m3, false),
        (Ty::E4m3, Ty::E5m2, true),
        (Ty::E5m2, Ty::E4m3, false),
        (Ty::E5m2, Ty::E5m2, true),
        (Ty::S8, Ty::S8, false),
        (Ty::U8, Ty::U8, false),
        (Ty::S8, Ty::U8, false),
        (Ty::U8, Ty::S8, false),
    ];
    for (t, &(a, b, half)) in floats.iter().enumerate() {
        for n in (8..=256).step_by(8) {
            let integer = matches!(a, Ty::S8 | Ty::U8);
            if integer && n > 24 && n % 16 != 0 {
                continue;
            }
            let i = n / 8 + t;
            let span = |x: usize| SPANS[x % 4];
            let case = Case { a, b, n, half, spans: [span(i), span(i / 4)], accumulate: i % 3 != 0, ..PLAIN };
            let case = Case { a_registers: i % 5 == 0, ..case };
            let case = if integer {
                Case { satfinite: i % 2 == 0, accumulate: true, ..case }
            } else {
                Case { negate: [i % 2 == 1, i % 7 == 3], ..case }
            };
            case.check(i as u64, if i % 2 == 0 { AsyncTiming::Late } else { AsyncTiming::Early });
        }
    }
}

/// Both majors of both matrices in every swizzle.
#[test]
fn every_layout_of_shared_memory() {
    for ty in [Ty::F16, Ty::Bf16] {
        for i in 0..64 {
            let spans = [SPANS[i % 4], SPANS[i / 4 % 4]];
            let transpose = [i & 16 != 0, i & 32 != 0];
            let n = [8, 64, 136, 256][(i + i / 4) % 4];
            Case { a: ty, b: ty, n, spans, transpose, ..PLAIN }.check(i as u64, AsyncTiming::Late);
        }
        for i in 0..8 {
            let transpose = [false, i & 4 != 0];
            let case = Case {
                a: ty,
                b: ty,
                n: 96,
                a_registers: true,
                spans: [16, SPANS[i % 4]],
                transpose,
                ..PLAIN
            };
            case.check(i as u64, AsyncTiming::Early);
        }
    }
}
