//! Sparse and single-bit wgmma: A from registers and from shared memory, B in shared memory, with and without swizzle,
//! against exact sums. Layouts as in `wgmma.rs`, by the formulas of PTX ISA 9.7.15.5.1.2; metadata by figures 176 to 181.

mod common;

use common::{Random, Run};
use half::{bf16, f16};
use handloom_emulator::{LaunchConfig, Options};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ty {
    F16,
    Bf16,
    Tf32,
    E4m3,
    S8,
    U8,
    B1,
}

impl Ty {
    fn bits(self) -> usize {
        match self {
            Ty::Tf32 => 32,
            Ty::F16 | Ty::Bf16 => 16,
            Ty::B1 => 1,
            _ => 8,
        }
    }

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn random(self, r: &mut Random) -> (f64, u32) {
        let n = r.next() as u32;
        let v = (n % 5) as f64 / 2.0 - 1.0;
        match self {
            Ty::F16 => (v, f16::from_f64(v).to_bits() as u32),
            Ty::Bf16 => (v, bf16::from_f64(v).to_bits() as u32),
            Ty::Tf32 => (v, (v as f32).to_bits()),
            Ty::E4m3 => {
                let magnitude = if v == 0.0 { 0 } else { (7 - (v.abs() < 1.0) as u32) << 3 };
                (v, magnitude | if v < 0.0 { 0x80 } else { 0 })
            }
            Ty::S8 => (n as u8 as i8 as f64, n & 0xff),
            Ty::U8 => ((n & 0xff) as f64, n & 0xff),
            Ty::B1 => ((n & 1) as f64, n & 1),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    a: Ty,
    b: Ty,
    n: usize,
    /// The selector of a sparse A.
    selector: Option<usize>,
    a_registers: bool,
    /// Rows of 128 bytes with their chunks exchanged, else chunks apart.
    swizzled: bool,
}

const B_AT: usize = 16 << 10;
const SHARED: usize = 64 << 10;

impl Case {
    fn stored(&self) -> usize {
        256 / self.a.bits()
    }

    fn k(&self) -> usize {
        self.stored() * if self.selector.is_some() { 2 } else { 1 }
    }

    fn integer(&self) -> bool {
        matches!(self.a, Ty::S8 | Ty::U8 | Ty::B1)
    }

    fn ptx(&self) -> String {
        let registers = self.n / 2;
        let acc = if self.integer() { "s32" } else { "f32" };
        let list: Vec<String> = (0..registers).map(|i| format!("%d{i}")).collect();
        let a = if self.a_registers { "{%a0, %a1, %a2, %a3}" } else { "%desca" };
        let (sp, metadata) = match self.selector {
            Some(s) => (".sp", format!("%meta, {s}, ")),
            None => ("", String::new()),
        };
        let tail = match self.a {
            Ty::F16 | Ty::Bf16 if self.a_registers => ", 1, 1, 0",
            Ty::F16 | Ty::Bf16 => ", 1, 1, 0, 0",
            _ if self.integer() => "",
            _ => ", 1, 1",
        };
        let bits = if self.a == Ty::B1 { ".and.popc" } else { "" };
        let each = |f: &dyn Fn(usize, &String) -> String| {
            list.iter().enumerate().map(|(i, r)| f(i, r)).collect::<String>()
        };
        format!(
            ".version 8.4\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 data[];
.visible .entry k(.param .u64 image, .param .u64 c, .param .u64 a, .param .u64 desca, .param .u64 descb) {{
.reg .b32 %r<8>, %x<4>, %a<4>, %meta; .reg .{acc} %d<128>; .reg .b64 %rd<8>, %cp, %ap, %desca, %descb; .reg .pred %p;
ld.param.u64 %rd1, [image]; ld.param.u64 %cp, [c]; ld.param.u64 %ap, [a];
ld.param.u64 %desca, [desca]; ld.param.u64 %descb, [descb];
mov.u32 %r2, %tid.x;
mul.wide.u32 %rd2, %r2, {}; add.s64 %cp, %cp, %rd2;
mul.wide.u32 %rd3, %r2, 20; add.s64 %ap, %ap, %rd3;
mul.lo.u32 %r3, %r2, 16; mov.u32 %r4, data;
LOOP:
add.u32 %r5, %r4, %r3; cvt.u64.u32 %rd4, %r3; add.s64 %rd5, %rd1, %rd4;
ld.global.v4.u32 {{%x0, %x1, %x2, %x3}}, [%rd5]; st.shared.v4.u32 [%r5], {{%x0, %x1, %x2, %x3}};
add.u32 %r3, %r3, 2048; setp.lt.u32 %p, %r3, {SHARED}; @%p bra LOOP;
fence.proxy.async; bar.sync 0;
{}{}ld.global.u32 %meta, [%ap+16]; setp.eq.u32 %p, %r2, %r2;
wgmma.fence.sync.aligned;
wgmma.mma_async{sp}.sync.aligned.m64n{}k{}.{acc}.{}.{}{bits} {{{}}}, {a}, %descb, {metadata}%p{tail};
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
{}ret; }}",
            4 * registers,
            each(&|i, r| format!("ld.global.{acc} {r}, [%cp+{}];\n", 4 * i)),
            (0..4).map(|i| format!("ld.global.u32 %a{i}, [%ap+{}];\n", 4 * i)).collect::<String>(),
            self.n,
            self.k(),
            self.a.name(),
            self.b.name(),
            list.join(", "),
            each(&|i, r| format!("st.global.{acc} [%cp+{}], {r};\n", 4 * i)),
        )
    }

    /// Where bit `bit` of row `row` of a K-major matrix lies, in bytes and bits, from its start.
    fn place(&self, row: usize, bit: usize) -> (usize, usize) {
        let byte = bit / 8;
        let (chunk, within) = (byte / 16, byte % 16);
        let at = match self.swizzled {
            // Groups of eight rows of 128 bytes; the chunk's number is combined with the row's.
            true => row / 8 * 1024 + row % 8 * 128 + (chunk ^ (row % 8)) * 16 + within,
            // Chunks 4096 bytes apart, eight rows of one chunk after the other.
            false => row % 8 * 16 + row / 8 * 128 + chunk * 4096 + within,
        };
        (at, bit % 8)
    }

    fn descriptor(&self, start: usize) -> u64 {
        let (leading, stride, mode) = if self.swizzled { (16u64, 1024u64, 1u64) } else { (4096, 128, 0) };
        start as u64 >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
    }

    fn check(&self, seed: u64) {
        let mut r = Random(seed);
        let (k, stored, bits) = (self.k(), self.stored(), self.a.bits());
        let a: Vec<(f64, u32)> = (0..64 * stored).map(|_| self.a.random(&mut r)).collect();
        let b: Vec<(f64, u32)> = (0..self.n * k).map(|_| self.b.random(&mut r)).collect();
        let mut image = vec![0u8; SHARED];
        let mut put = |start: usize, row: usize, column: usize, raw: u32| {
            for i in 0..bits {
                let (byte, bit) = self.place(row, column * bits + i);
                image[start + byte] |= ((raw >> i & 1) as u8) << bit;
            }
        };
        // Registers of A and the metadata of each thread.
        let mut threads = vec![0u32; 128 * 5];
        let per = 32 / bits;
        for (at, &(_, raw)) in a.iter().enumerate() {
            let (row, column) = (at / stored, at % stored);
            put(0, row, column, raw);
            let thread = 32 * (row / 16) + 4 * (row % 8) + column / per % 4;
            let register = row / 8 % 2 + 2 * (column / per / 4);
            threads[thread * 5 + register] |= raw << (bits * (column % per));
        }
        for (at, &(_, raw)) in b.iter().enumerate() {
            put(B_AT, at / k, at % k, raw);
        }
        // Two of four columns, or one of two, for each chunk of each row.
        let width = if bits == 32 { 2 } else { 4 };
        let mut columns = vec![vec![]; 64];
        for (row, columns) in columns.iter_mut().enumerate() {
            for chunk in 0..k / width {
                let Some(selector) = self.selector else {
                    columns.extend(width * chunk..width * (chunk + 1));
                    continue;
                };
                let (x, y) = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)][r.next() as usize % 6];
                let entry = match bits {
                    32 => [0b0100, 0b1110][(x != 0) as usize],
                    _ => x | y << 2,
                };
                match bits {
                    32 => columns.push(2 * chunk + (x != 0) as usize),
                    _ => columns.extend([4 * chunk + x, 4 * chunk + y]),
                }
                let (half, warp) = (row / 8 % 2, row / 16);
                let (thread, nibble) = match bits {
                    8 => (half + 2 * (chunk / 8), chunk % 8),
                    _ => (2 * selector + chunk / 4, chunk % 4 + 4 * half),
                };
                threads[(32 * warp + 4 * (row % 8) + thread) * 5 + 4] |= (entry as u32) << (4 * nibble);
            }
        }
        let registers = self.n / 2;
        let place = |m: usize, j: usize| {
            let thread = 32 * (m / 16) + 4 * (m % 8) + j % 8 / 2;
            thread * registers + j / 8 * 4 + 2 * (m / 8 % 2) + j % 2
        };
        let mut c = vec![0u32; 128 * registers];
        let mut expected = vec![0u32; 128 * registers];
        let bits_of = |v: f64| if self.integer() { v as i64 as u32 } else { (v as f32).to_bits() };
        for m in 0..64 {
            for j in 0..self.n {
                let start = (r.next() % 64) as f64 - 32.0;
                let terms = columns[m].iter().enumerate();
                let sum: f64 = terms.map(|(i, &l)| a[m * stored + i].0 * b[j * k + l].0).sum();
                c[place(m, j)] = bits_of(start);
                expected[place(m, j)] = bits_of(start + sum);
            }
        }
        let mut run = Run::new(&self.ptx(), Options::parse("arch=sm_90a").unwrap());
        let (image, threads, out) = (run.put("image", &image), run.put("a", &threads), run.put("c", &c));
        let config = LaunchConfig { dynamic_shared: SHARED as u32, ..LaunchConfig::linear(1, 128) };
        let descriptors = [self.descriptor(0), self.descriptor(B_AT)];
        run.clean(
            "k",
            config,
            &[image.into(), out.into(), threads.into(), descriptors[0].into(), descriptors[1].into()],
        );
        let found = run.get::<u32>(out, c.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{self:?}: register {} of thread {}", i % registers, i / registers);
        }
    }
}

#[test]
fn sparse_products() {
    let types = [
        (Ty::F16, Ty::F16, 2),
        (Ty::Bf16, Ty::Bf16, 2),
        (Ty::Tf32, Ty::Tf32, 2),
        (Ty::E4m3, Ty::E4m3, 1),
        (Ty::S8, Ty::S8, 1),
        (Ty::U8, Ty::S8, 1),
    ];
    for (i, (a, b, selectors)) in types.into_iter().enumerate() {
        for selector in 0..selectors {
            for choice in 0..4 {
                let (a_registers, swizzled) = (choice & 1 != 0, choice & 2 != 0);
                let n = [8, 24, 64, 16][(i + choice) % 4];
                Case { a, b, n, selector: Some(selector), a_registers, swizzled }
                    .check(10 * i as u64 + choice as u64);
            }
        }
    }
}

#[test]
fn single_bits() {
    for (i, n) in [8, 24, 48, 128].into_iter().enumerate() {
        let (a_registers, swizzled) = (i % 2 == 1, i < 2);
        Case { a: Ty::B1, b: Ty::B1, n, selector: None, a_registers, swizzled }.check(i as u64);
    }
}
