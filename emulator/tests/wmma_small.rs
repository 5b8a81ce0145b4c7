//! wmma of nibbles and single bits, and with accumulators of two types: from memory to memory, against exact sums.

mod common;

use common::{Random, Run};
use half::f16;
use handloom_emulator::{LaunchConfig, Options};

/// `a`, `b`, `c`: fragments of that many registers; `tail`: the product's modifiers after the shape.
fn kernel(
    shape: &str,
    [a, b, c, d]: [(&str, usize); 4],
    head: &str,
    tail: &str,
    strides: [usize; 4],
) -> String {
    let list = |p: &str, n: usize| (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(", ");
    let ty = |t: &str| if t == "f32" { "f32" } else { "b32" };
    format!(
        ".version 7.1\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 pd, .param .u64 pa, .param .u64 pb, .param .u64 pc) {{
.reg .b32 %a<8>, %b<8>; .reg .{} %c<8>; .reg .{} %d<8>; .reg .b64 %w<4>;
ld.param.u64 %w0, [pd]; ld.param.u64 %w1, [pa]; ld.param.u64 %w2, [pb]; ld.param.u64 %w3, [pc];
wmma.load.a.sync.aligned.row.{shape}.global.{} {{{}}}, [%w1], {};
wmma.load.b.sync.aligned.col.{shape}.global.{} {{{}}}, [%w2], {};
wmma.load.c.sync.aligned.row.{shape}.global.{} {{{}}}, [%w3], {};
wmma.mma{head}.sync.aligned.row.col.{shape}.{tail} {{{}}}, {{{}}}, {{{}}}, {{{}}};
wmma.store.d.sync.aligned.row.{shape}.global.{} [%w0], {{{}}}, {};
ret; }}",
        ty(c.0),
        ty(d.0),
        a.0,
        list("a", a.1),
        strides[0],
        b.0,
        list("b", b.1),
        strides[1],
        c.0,
        list("c", c.1),
        strides[2],
        list("d", d.1),
        list("a", a.1),
        list("b", b.1),
        list("c", c.1),
        d.0,
        list("d", d.1),
        strides[3],
    )
}

/// A value of `bits` bits at element `at` of a packed array.
fn element(data: &[u32], at: usize, bits: usize, signed: bool) -> i64 {
    let raw = (data[at * bits / 32] >> (at * bits % 32)) as i64 & ((1 << bits) - 1);
    if signed && raw >> (bits - 1) != 0 { raw - (1 << bits) } else { raw }
}

#[test]
fn nibbles_and_bits() {
    let cases = [
        ("s4", 4, 32, true, "", "s32.s4.s4.s32"),
        ("u4", 4, 32, false, "", "s32.u4.u4.s32.satfinite"),
        ("b1", 1, 128, false, ".xor.popc", "s32.b1.b1.s32"),
        ("b1", 1, 128, false, ".and.popc", "s32.b1.b1.s32"),
    ];
    for (seed, (ty, bits, k, signed, head, tail)) in cases.into_iter().enumerate() {
        // Rows of A and columns of B are longer than K, by a multiple of what the alignment asks for.
        let stride = 2 * k;
        let fragments = [(ty, 1), (ty, 1), ("s32", 2), ("s32", 2)];
        let ptx = kernel(&format!("m8n8k{k}"), fragments, head, tail, [stride, stride, 8, 12]);
        let mut r = Random(seed as u64);
        let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| r.next() as u32).collect() };
        let (a, b) = (draw(8 * stride * bits / 32), draw(8 * stride * bits / 32));
        let c: Vec<u32> = draw(64).into_iter().map(|v| v % 1000).collect();
        let mut run = Run::new(&ptx, Options::default());
        let (pa, pb, pc) = (run.put("a", &a), run.put("b", &b), run.put("c", &c));
        let out = run.put("d", &[0u32; 96]);
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), pa.into(), pb.into(), pc.into()]);
        let found = run.get::<u32>(out, 96);
        for m in 0..8 {
            for n in 0..8 {
                let terms = (0..k).map(|l| {
                    let x = element(&a, m * stride + l, bits, signed);
                    let y = element(&b, n * stride + l, bits, signed);
                    if head == ".xor.popc" { x ^ y } else { x * y }
                });
                let sum = c[m * 8 + n] as i64 + terms.sum::<i64>();
                assert_eq!(found[m * 12 + n] as i32 as i64, sum, "{ty}{head} ({m}, {n})");
            }
        }
    }
}

#[test]
fn accumulators_of_two_types() {
    for (d, c) in [("f32", "f16"), ("f16", "f32")] {
        let count = |ty: &str| if ty == "f16" { 4 } else { 8 };
        let fragments = [("f16", 8), ("f16", 8), (c, count(c)), (d, count(d))];
        let ptx = kernel("m16n16k16", fragments, "", &format!("{d}.{c}"), [16; 4]);
        let mut r = Random(9);
        let mut draw = || -> Vec<f32> { (0..256).map(|_| (r.next() % 17) as f32 / 4.0 - 2.0).collect() };
        let (a, b, x) = (draw(), draw(), draw());
        let halves = |v: &[f32]| -> Vec<u16> { v.iter().map(|&v| f16::from_f32(v).to_bits()).collect() };
        let mut run = Run::new(&ptx, Options::default());
        let (pa, pb) = (run.put("a", &halves(&a)), run.put("b", &halves(&b)));
        let pc = if c == "f16" { run.put("c", &halves(&x)) } else { run.put("c", &x) };
        let out = run.put("d", &[0f32; 256]);
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), pa.into(), pb.into(), pc.into()]);
        for m in 0..16 {
            for n in 0..16 {
                let sum: f32 = x[m * 16 + n] + (0..16).map(|l| a[m * 16 + l] * b[n * 16 + l]).sum::<f32>();
                let ours = match d {
                    "f32" => run.get::<f32>(out, 256)[m * 16 + n],
                    _ => f16::from_bits(run.get::<u16>(out, 256)[m * 16 + n]).to_f32(),
                };
                let expected = if d == "f32" { sum } else { f16::from_f32(sum).to_f32() };
                assert_eq!(ours, expected, "{d}.{c} ({m}, {n})");
            }
        }
    }
}
