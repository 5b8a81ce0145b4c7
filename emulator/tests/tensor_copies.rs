//! Tensor copies in generated PTX: every rank, swizzle, fill and direction, boxes half outside the tensor, element
//! strides and reductions, against loops over the elements and the swizzle tables of PTX ISA 5.5.7.

mod common;

use common::{Random, Run};
use handloom_emulator::tensormap::{Tiled, encode_tiled};
use handloom_emulator::{Arch, Arg, AsyncTiming, LaunchConfig, Options};

/// The driver's number of an element type, its size, and whether it is a float.
#[derive(Clone, Copy, Debug)]
struct Element(u32, usize, bool);

const ELEMENTS: [Element; 5] = [
    Element(0, 1, false),
    Element(9, 2, true),
    Element(7, 4, true),
    Element(2, 4, false),
    Element(8, 8, true),
];
const SHARED: u32 = 64 << 10;

#[derive(Debug)]
struct Case {
    element: Element,
    dims: Vec<u64>,
    boxes: Vec<u32>,
    steps: Vec<u32>,
    at: Vec<i32>,
    swizzle: u32,
    nan: bool,
}

impl Case {
    fn random(r: &mut Random, element: Element, rank: usize, swizzle: u32) -> Case {
        let mut below = |n: u64| r.next() % n;
        let span = [16 * (1 + below(8)) as u32, 32, 64, 128][swizzle as usize];
        let inner = span / element.1 as u32;
        let mut boxes = vec![inner.min(256)];
        let mut dims = vec![inner as u64 + 3 + below(20)];
        let mut steps = vec![1];
        for d in 1..rank {
            let step = if d % 2 == 1 { 1 + below(2) as u32 } else { 1 };
            // An even number of rows, four where a row is 32 bytes: whole rows of 128 bytes are exchanged.
            let rows = if d == 1 { 4 + 4 * below(3) as u32 } else { 1 + below(3) as u32 };
            boxes.push(rows * step);
            steps.push(step);
            dims.push((rows * step) as u64 + below(6));
        }
        if rank == 1 && swizzle != 0 {
            // One row of a swizzled box: it must be alone in its 128 bytes.
            boxes[0] = 128 / element.1 as u32;
        }
        let at = dims.iter().map(|&d| below(d + 8) as i32 - 5).collect();
        Case { element, dims, boxes, steps, at, swizzle, nan: element.2 && below(2) == 1 }
    }

    fn strides(&self) -> Vec<u64> {
        let mut stride = (self.dims[0] * self.element.1 as u64).div_ceil(16) * 16;
        let mut out = Vec::new();
        for d in 1..self.dims.len() {
            out.push(stride);
            stride *= self.dims[d];
        }
        out
    }

    fn tensor_bytes(&self) -> usize {
        let row = (self.dims[0] * self.element.1 as u64).div_ceil(16) * 16;
        (row * self.dims[1..].iter().product::<u64>()) as usize
    }

    fn map(&self, address: u64) -> Arg {
        let tiled = Tiled {
            data_type: self.element.0,
            address,
            dims: &self.dims,
            strides: &self.strides(),
            box_dims: &self.boxes,
            element_strides: &self.steps,
            interleave: 0,
            swizzle: if self.dims.len() == 1 && self.swizzle != 3 { 0 } else { self.swizzle },
            l2_promotion: 0,
            oob_fill: self.nan as u32,
        };
        Arg(encode_tiled(&tiled).unwrap().to_vec())
    }

    fn span(&self) -> usize {
        if self.dims.len() == 1 && self.swizzle != 3 { 16 } else { [16, 32, 64, 128][self.swizzle as usize] }
    }

    /// For each element of the box: its offset in shared memory, and its offset in the tensor where it is inside.
    fn elements(&self) -> Vec<(usize, Option<usize>)> {
        let counts: Vec<usize> =
            self.boxes.iter().zip(&self.steps).map(|(b, s)| b.div_ceil(*s) as usize).collect();
        let total: usize = counts.iter().product();
        let strides = self.strides();
        (0..total)
            .map(|e| {
                let (mut rest, mut offset, mut inside) = (e, 0i64, true);
                for d in 0..counts.len() {
                    let c = self.at[d] as i64 + (rest % counts[d]) as i64 * self.steps[d] as i64;
                    rest /= counts[d];
                    inside &= c >= 0 && c < self.dims[d] as i64;
                    offset += c * if d == 0 { self.element.1 as i64 } else { strides[d - 1] as i64 };
                }
                (swizzled(self.span(), e * self.element.1), inside.then_some(offset as usize))
            })
            .collect()
    }
}

/// The tables of PTX ISA 5.5.7: where chunk `c` of 128-byte row `r` goes.
fn swizzled(span: usize, at: usize) -> usize {
    const TABLE: [[usize; 8]; 8] = [
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
    row * 128 + TABLE[row % (span / 16)][chunk] * 16 + byte
}

/// Loads a box and copies shared memory out, or copies shared memory in and stores or reduces a box.
fn ptx(rank: usize, store: Option<&str>) -> String {
    let coordinates: Vec<String> = (0..rank).map(|d| format!("%c{d}")).collect();
    let params: String = (0..rank).map(|d| format!(", .param .u32 x{d}")).collect();
    let loads: String = (0..rank).map(|d| format!("ld.param.u32 %c{d}, [x{d}];\n")).collect();
    let list = coordinates.join(", ");
    let copy = |body: &str| {
        format!(
            "mov.u32 %r3, %tid.x;\nmul.lo.u32 %r3, %r3, 4;\n{name}:\nsetp.ge.u32 %p, %r3, %bytes;\n@%p bra {name}_END;\nadd.u32 %r4, %data, %r3;\ncvt.u64.u32 %rd3, %r3;\nadd.s64 %rd4, %rd2, %rd3;\n{body}add.u32 %r3, %r3, 512;\nbra {name};\n{name}_END:\n",
            name = "COPY"
        )
    };
    let body = match store {
        None => format!(
            "@%first mbarrier.arrive.expect_tx.shared.b64 _, [bar], %bytes;
@%first cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [%data], [%rd1, {{{list}}}], [bar];
WAIT: mbarrier.try_wait.parity.shared.b64 %p, [bar], 0;
@!%p bra WAIT;
{}",
            copy("ld.shared.u32 %r5, [%r4];\nst.global.u32 [%rd4], %r5;\n")
        ),
        Some(op) => format!(
            "{}fence.proxy.async.shared::cta;
bar.sync 0;
@!%first bra END;
{op}.{rank}d.global.shared::cta{red}.tile.bulk_group [%rd1, {{{list}}}], [%data];
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;
END:
",
            copy("ld.global.u32 %r5, [%rd4];\nst.shared.u32 [%r4], %r5;\n"),
            op = if op.is_empty() { "cp.async.bulk.tensor" } else { "cp.reduce.async.bulk.tensor" },
            red = if op.is_empty() { String::new() } else { format!(".{op}") },
        ),
    };
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 data[];
.visible .entry k(.param .align 64 .b8 map[128], .param .u64 buffer, .param .u32 bytes{params}) {{
.shared .align 8 .b64 bar;
.reg .b32 %c<5>, %r<8>, %data, %bytes; .reg .b64 %rd<8>; .reg .pred %p, %first;
mov.b64 %rd1, map; cvta.param.u64 %rd1, %rd1;
ld.param.u64 %rd2, [buffer]; ld.param.u32 %bytes, [bytes];
{loads}mov.u32 %data, data;
mov.u32 %r1, %tid.x; setp.eq.u32 %first, %r1, 0;
@%first mbarrier.init.shared.b64 [bar], 1;
bar.sync 0;
{body}ret;
}}"
    )
}

fn launch(case: &Case, run: &Run, tensor: u64, buffer: u64, bytes: usize) {
    let mut args = vec![case.map(tensor), buffer.into(), (bytes as u32).into()];
    args.extend(case.at.iter().map(|&c| Arg::from(c)));
    let config = LaunchConfig { grid: [1; 3], block: [128, 1, 1], cluster: [1; 3], dynamic_shared: SHARED };
    let report = run.launch("k", config, &args);
    assert!(report.is_clean(), "{case:?}\n{}", report.text());
}

fn options(i: usize) -> Options {
    let async_timing = if i.is_multiple_of(2) { AsyncTiming::Late } else { AsyncTiming::Early };
    Options { arch: Arch::named("sm_90a").unwrap(), async_timing, ..Options::default() }
}

fn is_nan(element: Element, bytes: &[u8]) -> bool {
    match element.1 {
        2 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        4 => f32::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        _ => f64::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
    }
}

fn cases() -> Vec<Case> {
    let mut r = Random(11);
    let mut out = Vec::new();
    for rank in 1..=5 {
        for swizzle in 0..4 {
            for element in ELEMENTS {
                (0..2).for_each(|_| out.push(Case::random(&mut r, element, rank, swizzle)));
            }
        }
    }
    out
}

#[test]
fn boxes_are_loaded_with_their_swizzle_and_fill() {
    for (i, case) in cases().iter().enumerate() {
        let mut r = Random(i as u64);
        let tensor: Vec<u8> = (0..case.tensor_bytes()).map(|_| r.next() as u8).collect();
        let elements = case.elements();
        let bytes = elements.len() * case.element.1;
        let mut run = Run::new(&ptx(case.dims.len(), None), options(i));
        let (t, buffer) = (run.put("tensor", &tensor), run.empty::<u8>("out", bytes));
        launch(case, &run, t, buffer, bytes);
        let found = run.get::<u8>(buffer, bytes);
        for (k, &(at, from)) in elements.iter().enumerate() {
            let ours = &found[at..at + case.element.1];
            match from {
                Some(from) => assert_eq!(ours, &tensor[from..from + case.element.1], "{case:?}: element {k}"),
                None if case.nan => assert!(is_nan(case.element, ours), "{case:?}: element {k}"),
                None => assert!(ours.iter().all(|&b| b == 0), "{case:?}: element {k}"),
            }
        }
    }
}

#[test]
fn boxes_are_stored_where_they_are_inside() {
    for (i, case) in cases().iter().enumerate() {
        let mut r = Random(100 + i as u64);
        let mut tensor: Vec<u8> = (0..case.tensor_bytes()).map(|_| r.next() as u8).collect();
        let elements = case.elements();
        let bytes = elements.len() * case.element.1;
        let source: Vec<u8> = (0..bytes).map(|_| r.next() as u8).collect();
        let mut run = Run::new(&ptx(case.dims.len(), Some("")), options(i));
        let (t, buffer) = (run.put("tensor", &tensor), run.put("source", &source));
        launch(case, &run, t, buffer, bytes);
        for &(at, to) in &elements {
            if let Some(to) = to {
                tensor[to..to + case.element.1].copy_from_slice(&source[at..at + case.element.1]);
            }
        }
        assert!(run.get::<u8>(t, tensor.len()) == tensor, "{case:?}");
    }
}

type Combine = fn(u32, u32) -> u32;

#[test]
fn boxes_are_reduced_into_the_tensor() {
    let u32s: [(&str, Combine); 8] = [
        ("add", |a, b| a.wrapping_add(b)),
        ("min", |a, b| a.min(b)),
        ("max", |a, b| a.max(b)),
        ("inc", |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("and", |a, b| a & b),
        ("or", |a, b| a | b),
        ("xor", |a, b| a ^ b),
    ];
    let mut r = Random(5);
    for (i, (name, f)) in u32s.into_iter().enumerate() {
        let case = Case::random(&mut r, Element(2, 4, false), 1 + i % 5, (i % 4) as u32);
        let mut tensor: Vec<u32> = (0..case.tensor_bytes() / 4).map(|_| r.next() as u32).collect();
        let elements = case.elements();
        let source: Vec<u32> = (0..elements.len()).map(|_| r.next() as u32).collect();
        let mut run = Run::new(&ptx(case.dims.len(), Some(name)), options(i));
        let (t, buffer) = (run.put("tensor", &tensor), run.put("source", &source));
        launch(&case, &run, t, buffer, 4 * elements.len());
        for &(at, to) in &elements {
            if let Some(to) = to {
                tensor[to / 4] = f(tensor[to / 4], source[at / 4]);
            }
        }
        assert_eq!(run.get::<u32>(t, tensor.len()), tensor, "{name} {case:?}");
    }
    for (i, (name, f)) in [("add", f32::max as fn(f32, f32) -> f32), ("min", f32::min), ("max", f32::max)]
        .into_iter()
        .enumerate()
    {
        let case = Case::random(&mut r, Element(9, 2, true), 2, i as u32);
        let values = |r: &mut Random, n: usize| -> Vec<u16> {
            (0..n).map(|_| half::bf16::from_f32((r.next() % 64) as f32 - 32.0).to_bits()).collect()
        };
        let mut tensor = values(&mut r, case.tensor_bytes() / 2);
        let elements = case.elements();
        let source = values(&mut r, elements.len());
        let mut run = Run::new(&ptx(2, Some(name)), options(i));
        let (t, buffer) = (run.put("tensor", &tensor), run.put("source", &source));
        launch(&case, &run, t, buffer, 2 * elements.len());
        let value = |bits: u16| half::bf16::from_bits(bits).to_f32();
        for &(at, to) in &elements {
            if let Some(to) = to {
                let (a, b) = (value(tensor[to / 2]), value(source[at / 2]));
                let sum = if name == "add" { a + b } else { f(a, b) };
                tensor[to / 2] = half::bf16::from_f32(sum).to_bits();
            }
        }
        assert_eq!(run.get::<u16>(t, tensor.len()), tensor, "bf16 {name} {case:?}");
    }
}

/// Maps that lead out of their allocation, by a little or beyond any address, are findings and touch nothing.
#[test]
fn maps_that_lead_astray_are_found() {
    for (dims, strides, at) in [
        ([16u64, 9], 64u64, [0, 5]),
        ([16, 1 << 32], 1 << 39, [0, i32::MAX]),
        ([16, 1 << 32], (1 << 40) - 16, [8, 1 << 30]),
    ] {
        for store in [None, Some("")] {
            let mut run = Run::new(&ptx(2, store), options(0));
            let (t, buffer) = (run.put("tensor", &[7u32; 16 * 8]), run.put("buffer", &[1u32; 32]));
            let tiled = Tiled {
                data_type: 2,
                address: t,
                dims: &dims,
                strides: &[strides],
                box_dims: &[8, 4],
                element_strides: &[1, 1],
                interleave: 0,
                swizzle: 0,
                l2_promotion: 0,
                oob_fill: 0,
            };
            let map = Arg(encode_tiled(&tiled).unwrap().to_vec());
            let args = [map, buffer.into(), 128u32.into(), at[0].into(), at[1].into()];
            let config =
                LaunchConfig { grid: [1; 3], block: [128, 1, 1], cluster: [1; 3], dynamic_shared: 128 };
            let report = run.launch("k", config, &args);
            assert!(report.text().contains("of global memory at"), "{}", report.text());
            assert_eq!(run.get::<u32>(t, 16 * 8), [7; 16 * 8]);
        }
    }
}
