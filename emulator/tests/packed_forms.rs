//! Packed and saturating forms, and what came to PTX lately: against the ISA's pseudocode, written out again for each
//! instruction.

mod common;

use common::Run;
use common::words::{check, one};
use half::{bf16, f16};
use handloom_emulator::{LaunchConfig, Options};

const LOW: u64 = 0xffff_ffff;

fn bounds(bits: u32, signed: bool) -> (i64, i64) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// The sum with its last bit set where it is not exact: rounding it again, to far fewer bits, is then rounding once.
fn odd_sum(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let back = sum - x;
    let error = (x - (sum - back)) + (y - back);
    if !sum.is_finite() || error == 0.0 || error.is_nan() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if error > 0.0 { sum.next_up() } else { sum.next_down() }
}

/// The same from f64 to f32.
fn odd_f32(v: f64) -> f32 {
    let near = v as f32;
    if near as f64 == v || !v.is_finite() {
        return near;
    }
    let cut = if (near as f64).abs() > v.abs() { f32::from_bits(near.to_bits() - 1) } else { near };
    f32::from_bits(cut.to_bits() | 1)
}

#[test]
fn integers_with_bounds() {
    let s = |x: u64| x as i32;
    check("min.relu.s32 %rd, %ra, %rb;", |[a, b, ..]| s(a).min(s(b)).max(0) as u64);
    check("max.relu.s32 %rd, %ra, %rb;", |[a, b, ..]| s(a).max(s(b)).max(0) as u64);
    for (op, pick) in [("min", i16::min as fn(i16, i16) -> i16), ("max", i16::max)] {
        check(&format!("{op}.relu.s16x2 %rd, %ra, %rb;"), |[a, b, ..]| {
            let half = |at: u32| pick((a >> at) as i16, (b >> at) as i16).max(0) as u64;
            half(0) | half(16) << 16
        });
        check(&format!("{op}.s16x2 %rd, %ra, %rb;"), |[a, b, ..]| {
            let half = |at: u32| pick((a >> at) as i16, (b >> at) as i16) as u16 as u64;
            half(0) | half(16) << 16
        });
    }
    check("mad24.hi.sat.s32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| {
        let low24 = |x: u64| (s(x) << 8 >> 8) as i64;
        ((low24(a) * low24(b)) >> 16).wrapping_add(s(c) as i64).clamp(i32::MIN as i64, i32::MAX as i64) as u64
            & LOW
    });
    check(
        "add.cc.u32 %r1, %ra, %rb; cvt.u16.u32 %h1, %ra; cvt.u16.u32 %h2, %rc; addc.u16 %h3, %h1, %h2; cvt.u32.u16 %rd, %h3;",
        |[a, b, c, _]| {
            let carry = ((a & LOW) + (b & LOW)) >> 32;
            ((a & 0xffff) + (c & 0xffff) + carry) & 0xffff
        },
    );
    for (ty, bits, signed) in [
        ("u2", 2, false),
        ("s2", 2, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u8", 8, false),
        ("s8", 8, true),
    ] {
        check(&format!("cvt.pack.sat.{ty}.s32.b32 %rd, %ra, %rb, %rc;"), |[a, b, c, _]| {
            let (low, high) = bounds(bits, signed);
            let part = |x: u64| ((s(x) as i64).clamp(low, high) as u64) & ((1 << bits) - 1);
            (part(b) | part(a) << bits | c << (2 * bits)) & LOW
        });
    }
    for (op, both) in [("and", (|p, q| p && q) as fn(bool, bool) -> bool), ("or", |p, q| p || q)] {
        let line = format!(
            "setp.gt.u32 %p1, %re, 1000; lop3.{op}.b32 %rd|%p2, %ra, %rb, %rc, 0x96, !%p1; @%p2 xor.b32 %rd, %rd, 1;"
        );
        check(&line, |[a, b, c, e]| {
            let d = (a ^ b ^ c) & LOW;
            d ^ both(d != 0, e & LOW <= 1000) as u64
        });
    }
}

/// Every 16-bit input of the conversions between the two half formats, in every rounding.
#[test]
fn half_formats_into_each_other() {
    let all: Vec<[u64; 4]> = (0..=0xffff).map(|x| [x, 0, 0, 0]).collect();
    let value = |bits: u64, to_bf16: bool| {
        if to_bf16 { f16::from_bits(bits as u16).to_f64() } else { bf16::from_bits(bits as u16).to_f64() }
    };
    for to_bf16 in [true, false] {
        let (to, from) = if to_bf16 { ("bf16", "f16") } else { ("f16", "bf16") };
        // The finite results in order of size.
        let result =
            |bits: u16| if to_bf16 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() };
        let infinity = if to_bf16 { 0x7f80u16 } else { 0x7c00 };
        for mode in ["rn", "rz", "rm", "rp"] {
            let found: Vec<u64> = all
                .chunks(1024)
                .flat_map(|part| {
                    one(
                        &format!(
                            "cvt.u16.u32 %h1, %ra; cvt.{mode}.{to}.{from} %h2, %h1; cvt.u32.u16 %rd, %h2;"
                        ),
                        part,
                    )
                })
                .collect();
            for (x, ours) in found.into_iter().enumerate() {
                let v = value(x as u64, to_bf16);
                if v.is_nan() {
                    assert_eq!(ours, 0x7fff, "{mode} {x:04x}");
                    continue;
                }
                let sign = if v.is_sign_negative() { 0x8000u16 } else { 0 };
                // The largest result not above |v|, by halving.
                let (mut low, mut high) = (0u16, infinity + 1);
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if result(middle) <= v.abs() { low = middle } else { high = middle }
                }
                let exact = result(low) == v.abs();
                let away = match mode {
                    "rz" => false,
                    "rm" => sign != 0,
                    "rp" => sign == 0,
                    _ => {
                        // What follows the largest counts as a power of two above it.
                        let next = if low + 1 == infinity {
                            2.0 * result(low) - result(low - 1)
                        } else {
                            result(low + 1)
                        };
                        let (below, above) = (v.abs() - result(low), next - v.abs());
                        above < below || above == below && low & 1 == 1
                    }
                };
                let expected = if exact || !away { low } else { low + 1 };
                assert_eq!(ours, (expected | sign) as u64, "cvt.{mode}.{to}.{from} of {x:04x}");
            }
        }
    }
}

#[test]
fn half_arithmetic_lately_added() {
    let h = |x: u64| f16::from_bits(x as u16);
    let halves = |f: &dyn Fn(u32) -> u16| f(0) as u64 | (f(16) as u64) << 16;
    // 0 where an operand is the NaN that fills what lies outside of a tensor.
    let fma = |[a, b, c]: [f16; 3], relu: bool| -> u16 {
        if [a, b, c].iter().any(|x| x.to_bits() == 0x7fff) {
            return 0;
        }
        let exact = odd_sum(a.to_f64() * b.to_f64(), c.to_f64());
        let bits = f16::from_f32(odd_f32(exact)).to_bits();
        match exact {
            v if v.is_nan() => 0x7fff,
            _ if relu && bits & 0x8000 != 0 => 0,
            _ => bits,
        }
    };
    for (name, relu) in [("oob", false), ("oob.relu", true)] {
        let line = format!(
            "mov.b32 %r1, 0x7fff3c00; setp.gt.u32 %p1, %re, 1000; selp.b32 %r2, %ra, %r1, %p1; fma.rn.{name}.f16x2 %rd, %r2, %rb, %rc;"
        );
        check(&line, |[a, b, c, e]| {
            let a = if e & LOW > 1000 { a } else { 0x7fff_3c00 };
            halves(&|at| fma([h(a >> at), h(b >> at), h(c >> at)], relu))
        });
    }
    // min and max of magnitudes, with the sign of the product.
    for (op, least) in [("min", true), ("max", false)] {
        check(&format!("{op}.xorsign.abs.f16x2 %rd, %ra, %rb;"), |[a, b, ..]| {
            halves(&|at| {
                let (x, y) = (h(a >> at), h(b >> at));
                let (m, n) = (x.to_bits() & 0x7fff, y.to_bits() & 0x7fff);
                let d = match (x.is_nan(), y.is_nan()) {
                    (true, true) => return 0x7fff,
                    (true, false) => n,
                    (false, true) => m,
                    _ => {
                        if (m < n) == least {
                            m
                        } else {
                            n
                        }
                    }
                };
                d | (x.to_bits() ^ y.to_bits()) & 0x8000
            })
        });
    }
    let b = |x: u64| bf16::from_bits(x as u16);
    check(
        "cvt.u16.u32 %h1, %ra; cvt.u16.u32 %h2, %rb; cvt.u16.u32 %h3, %rc; fma.rz.bf16 %h4, %h1, %h2, %h3; cvt.u32.u16 %rd, %h4;",
        |[x, y, z, _]| {
            let (x, y, z) = (b(x).to_f64(), b(y).to_f64(), b(z).to_f64());
            let sum = odd_sum(x * y, z);
            if sum.is_nan() {
                return 0x7fff;
            }
            let magnitude = if sum.is_infinite() {
                0x7f80
            } else {
                // Largest bf16 not above.
                let (mut low, mut high) = (0u16, 0x7f80u16);
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if bf16::from_bits(middle).to_f64() <= sum.abs() { low = middle } else { high = middle }
                }
                low
            };
            (magnitude | if sum.is_sign_negative() { 0x8000 } else { 0 }) as u64
        },
    );
    for (ty, largest, infinity) in [("f16", 0x7bffu64, 0x7c00u64), ("bf16", 0x7f7f, 0x7f80)] {
        let line = format!("mov.b32 %f1, %ra; cvt.rn.satfinite.{ty}.f32 %h1, %f1; cvt.u32.u16 %rd, %h1;");
        check(&line, |[a, ..]| {
            let x = f32::from_bits(a as u32);
            let plain =
                if ty == "f16" { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() } as u64;
            match plain & 0x7fff {
                _ if x.is_nan() => 0x7fff,
                m if m == infinity => largest | plain & 0x8000,
                _ => plain,
            }
        });
    }
    check("set.lt.f16.s32 %h1, %ra, %rb; cvt.u32.u16 %rd, %h1;", |[a, b, ..]| {
        if (a as i32) < b as i32 { 0x3c00 } else { 0 }
    });
}

/// Exchanges and comparisons of 128 bits in both memories: lanes take turns.
#[test]
fn atomics_of_128_bits() {
    for space in ["global", "shared"] {
        let ptx = format!(
            ".version 8.3\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 cell) {{
    .reg .b64 %w<12>; .reg .b32 %t; .reg .b128 %q<4>; .reg .pred %p; .shared .align 16 .b8 sh[16];
    ld.param.u64 %w0, [out]; ld.param.u64 %w1, [cell]; mov.u32 %t, %tid.x; cvt.u64.u32 %w2, %t;
    setp.ne.u32 %p, %t, 0;
    mov.u64 %w9, sh;
    @%p bra READY;
    ld.global.v2.u64 {{%w3, %w4}}, [%w1];
    st.shared.v2.u64 [%w9], {{%w3, %w4}};
READY:
    bar.sync 0;
    {}
    // Where both halves hold t, they become t + 1 and t + 101: only lane after lane can do so.
    add.u64 %w5, %w2, 100; mov.b128 %q0, {{%w2, %w5}};
    add.u64 %w6, %w2, 1; add.u64 %w7, %w2, 101; mov.b128 %q1, {{%w6, %w7}};
    atom.{space}.cas.b128 %q2, [%w1], %q0, %q1;
    mov.b128 {{%w3, %w4}}, %q2;
    atom.{space}.exch.b128 %q3, [%w1], %q1;
    mov.b128 {{%w6, %w7}}, %q3;
    shl.b64 %w8, %w2, 5; add.u64 %w0, %w0, %w8;
    st.global.v2.u64 [%w0], {{%w3, %w4}}; st.global.v2.u64 [%w0+16], {{%w6, %w7}};
    ret; }}",
            if space == "shared" { "mov.u64 %w1, %w9;" } else { "" }
        );
        let mut run = Run::new(&ptx, Options::parse("arch=sm_90a").unwrap());
        let (cell, out) = (run.put("cell", &[0u64, 100]), run.put("out", &[0u64; 128]));
        run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), cell.into()]);
        let found = run.get::<u64>(out, 128);
        // Lane 0 finds (0, 100), each other what the one before it has put there.
        for (t, lane) in found.chunks_exact(4).enumerate() {
            let t = t as u64;
            assert_eq!(lane[..2], [t, t + 100], "{space}, cas of lane {t}");
            let before = if t == 0 { 32 } else { t };
            assert_eq!(lane[2..], [before, before + 100], "{space}, exch of lane {t}");
        }
    }
}

/// cp.async with a predicate: where it is true, the source is not read and zeros come.
#[test]
fn copies_that_ignore_their_source() {
    let ptx =
        ".version 7.5\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 inp) {
    .reg .b64 %w<8>; .reg .b32 %r<8>; .reg .pred %p; .shared .align 16 .b8 sh[512];
    ld.param.u64 %w0, [out]; ld.param.u64 %w1, [inp]; mov.u32 %r0, %tid.x;
    mul.wide.u32 %w2, %r0, 16; add.s64 %w3, %w1, %w2; add.s64 %w4, %w0, %w2;
    shl.b32 %r1, %r0, 4; mov.u32 %r2, sh; add.u32 %r2, %r2, %r1;
    and.b32 %r3, %r0, 1; setp.eq.u32 %p, %r3, 1;
    cp.async.cg.shared.global [%r2], [%w3], 16, %p;
    cp.async.commit_group; cp.async.wait_group 0;
    ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r2];
    st.global.v4.u32 [%w4], {%r4, %r5, %r6, %r7};
    ret; }";
    let mut run = Run::new(ptx, Options::default());
    let x: Vec<u32> = (1..=128).collect();
    let (inp, out) = (run.put("inp", &x), run.empty::<u32>("out", 128));
    run.clean("k", LaunchConfig::linear(1, 32), &[out.into(), inp.into()]);
    for (i, v) in run.get::<u32>(out, 128).into_iter().enumerate() {
        assert_eq!(v, if i / 4 % 2 == 1 { 0 } else { x[i] }, "word {i}");
    }
}
