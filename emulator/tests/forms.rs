//! Instruction forms that no compiled test kernel uses, each from a line of PTX: against the ISA's pseudocode.

mod common;

use common::words::{check, one};
use common::{Random, Run};
use half::f16;
use handloom_emulator::{LaunchConfig, Options};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// `bfe`, word for word from the ISA.
fn bfe(a: u64, b: u64, c: u64, bits: u32, signed: bool) -> u64 {
    let (msb, pos, len) = (bits - 1, b as u32 & 0xff, c as u32 & 0xff);
    let sbit = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
    (0..=msb).map(|i| (if i < len && pos + i <= msb { a >> (pos + i) & 1 } else { sbit }) << i).sum()
}

fn bfi(a: u64, b: u64, c: u64, d: u64, bits: u32) -> u64 {
    let (pos, len) = (c as u32 & 0xff, d as u32 & 0xff);
    let mut f = b;
    let mut i = 0;
    while i < len && pos + i < bits {
        f = f & !(1 << (pos + i)) | (a >> i & 1) << (pos + i);
        i += 1;
    }
    f
}

#[test]
fn bit_fields() {
    let low = 0xffff_ffff;
    check("bfe.u32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| bfe(a & low, b, c, 32, false));
    check("bfe.s32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| bfe(a & low, b, c, 32, true));
    check("bfe.u64 %d, %a, %rb, %rc;", |[a, b, c, _]| bfe(a, b, c, 64, false));
    check("bfe.s64 %d, %a, %rb, %rc;", |[a, b, c, _]| bfe(a, b, c, 64, true));
    check("bfi.b32 %rd, %ra, %rb, %rc, %re;", |[a, b, c, e]| bfi(a & low, b & low, c, e, 32));
    check("bfi.b64 %d, %a, %b, %rc, %re;", |[a, b, c, e]| bfi(a, b, c, e, 64));
    let mask = |a: u64, b: u64| (0..32u64).map(|i| ((i >= a && i - a < b) as u64) << i).sum::<u64>();
    check("bmsk.clamp.b32 %rd, %ra, %rb;", |[a, b, _, _]| mask(a & low, b & low));
    check("bmsk.wrap.b32 %rd, %ra, %rb;", |[a, b, _, _]| mask(a & 31, b & 31));
    let szext = |a: u64, n: u32, signed: bool| match (n, signed) {
        (0, _) => 0,
        (_, true) => ((a as u32 as i32) << (32 - n) >> (32 - n)) as u32 as u64,
        (_, false) => ((a as u32) << (32 - n) >> (32 - n)) as u64,
    };
    check("szext.wrap.s32 %rd, %ra, %rb;", |[a, b, _, _]| szext(a, b as u32 & 31, true));
    check("szext.clamp.u32 %rd, %ra, %rb;", |[a, b, _, _]| szext(a, (b as u32).min(32), false));
    check("lop3.b32 %rd, %ra, %rb, %rc, 0xE8;", |[a, b, c, _]| (a & b | a & c | b & c) & low);
    check("and.b32 %r1, %rb, 31; fns.b32 %rd, %ra, %r1, 2;", |[a, b, ..]| {
        (b & 31..32).filter(|i| a >> i & 1 == 1).nth(1).unwrap_or(low)
    });
    check("and.b32 %r1, %rb, 31; fns.b32 %rd, %ra, %r1, -1;", |[a, b, ..]| {
        (0..=b & 31).rev().find(|i| a >> i & 1 == 1).unwrap_or(low)
    });
    check("cnot.b32 %rd, %ra;", |[a, ..]| (a as u32 == 0) as u64);
    let top = |a: u64, signed: bool, bits: u32| {
        let v = if signed && a >> (bits - 1) & 1 == 1 { !a } else { a } & (u64::MAX >> (64 - bits));
        if v == 0 { low } else { 63 - v.leading_zeros() as u64 }
    };
    check("bfind.u32 %rd, %ra;", |[a, ..]| top(a & low, false, 32));
    check("bfind.s32 %rd, %ra;", |[a, ..]| top(a & low, true, 32));
    check("bfind.s64 %rd, %a;", |[a, ..]| top(a, true, 64));
    check("bfind.shiftamt.u64 %rd, %a;", |[a, ..]| if a == 0 { low } else { a.leading_zeros() as u64 });
    check("shf.r.wrap.b32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| ((b & low) << 32 | a & low) >> (c & 31) & low);
    check("shf.l.clamp.b32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| {
        let n = (c & low).min(32);
        ((((b & low) << 32 | a & low) as u128 * (1u128 << n)) >> 32) as u64 & low
    });
    check("shl.b32 %rd, %ra, %rb;", |[a, b, ..]| if b & low > 31 { 0 } else { a << (b & 31) & low });
    check("shr.s32 %rd, %ra, %rb;", |[a, b, ..]| ((a as i32) >> (b & low).min(31)) as u32 as u64);
    check("shr.s64 %d, %a, %rb;", |[a, b, ..]| ((a as i64) >> (b & low).min(63)) as u64);
}

#[test]
fn permutations_of_bytes() {
    let bytes = |a: u64, b: u64| (b & 0xffff_ffff) << 32 | a & 0xffff_ffff;
    let pick = |a: u64, b: u64, s: [u64; 4]| {
        (0..4).map(|i| (bytes(a, b) >> (8 * s[i]) & 0xff) << (8 * i)).sum::<u64>()
    };
    check("prmt.b32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| {
        (0..4)
            .map(|i| {
                let s = c >> (4 * i) & 0xf;
                let v = bytes(a, b) >> (8 * (s & 7)) & 0xff;
                (if s & 8 == 0 {
                    v
                } else if v & 0x80 != 0 {
                    0xff
                } else {
                    0
                }) << (8 * i)
            })
            .sum()
    });
    // The tables of PTX ISA 9.7.9.7.
    let tables: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in tables {
        check(&format!("prmt.b32.{mode} %rd, %ra, %rb, %rc;"), |[a, b, c, _]| {
            pick(a, b, table[(c & 3) as usize])
        });
    }
}

#[test]
fn integers() {
    let (s, low) = (|x: u64| x as i32 as i64, 0xffff_ffffu64);
    check("add.sat.s32 %rd, %ra, %rb;", |[a, b, ..]| {
        (s(a) + s(b)).clamp(i32::MIN as i64, i32::MAX as i64) as u64 & low
    });
    check("sub.sat.s32 %rd, %ra, %rb;", |[a, b, ..]| {
        (s(a) - s(b)).clamp(i32::MIN as i64, i32::MAX as i64) as u64 & low
    });
    check("mad.hi.u32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| {
        (((a & low) * (b & low)) >> 32).wrapping_add(c) & low
    });
    check("mad.hi.sat.s32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| {
        (((s(a) * s(b)) >> 32) + s(c)).clamp(i32::MIN as i64, i32::MAX as i64) as u64 & low
    });
    check("mad.wide.s32 %d, %ra, %rb, %c;", |[a, b, c, _]| ((s(a) * s(b)) as u64).wrapping_add(c));
    check("mad.lo.s64 %d, %a, %b, %c;", |[a, b, c, _]| a.wrapping_mul(b).wrapping_add(c));
    check("mul24.lo.u32 %rd, %ra, %rb;", |[a, b, ..]| ((a & 0xff_ffff) * (b & 0xff_ffff)) & low);
    check("mul24.hi.s32 %rd, %ra, %rb;", |[a, b, ..]| {
        let m = |x: u64| ((x as i32) << 8 >> 8) as i64;
        ((m(a) * m(b)) >> 16) as u64 & low
    });
    check("sad.u64 %d, %a, %b, %c;", |[a, b, c, _]| a.abs_diff(b).wrapping_add(c));
    check("abs.s64 %d, %a;", |[a, ..]| (a as i64).wrapping_abs() as u64);
    check("dp2a.hi.s32.u32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| {
        let h = |i: u64| (a >> (16 * i)) as i16 as i64;
        let q = |i: u64| (b >> (16 + 8 * i) & 0xff) as i64;
        (h(0) * q(0) + h(1) * q(1) + c as i32 as i64) as u64 & low
    });
    check("cvt.sat.u8.s32 %rd, %ra;", |[a, ..]| s(a).clamp(0, 255) as u64);
    check("cvt.s32.s8 %rd, %ra;", |[a, ..]| a as i8 as i32 as u32 as u64);
    check("cvt.pack.sat.s16.s32 %rd, %ra, %rb;", |[a, b, ..]| {
        let h = |x: u64| (s(x).clamp(-32768, 32767) as u64) & 0xffff;
        h(a) << 16 | h(b)
    });
    check("slct.b32.s32 %rd, %ra, %rb, %rc;", |[a, b, c, _]| if s(c) >= 0 { a & low } else { b & low });
}

#[test]
fn carries_across_words() {
    let add = "mov.b64 {%r0, %r1}, %a; mov.b64 {%r2, %r3}, %b; add.cc.u32 %r4, %r0, %r2; addc.u32 %r5, %r1, %r3; mov.b64 %d, {%r4, %r5};";
    check(add, |[a, b, ..]| a.wrapping_add(b));
    check(&add.replace("add.cc", "sub.cc").replace("addc", "subc"), |[a, b, ..]| a.wrapping_sub(b));
    // 64 x 64 -> low 64 bits by 32-bit pieces, with carries through mad.
    let mul =
        "mov.b64 {%r0, %r1}, %a; mov.b64 {%r2, %r3}, %b; mul.lo.u32 %r4, %r0, %r2; mul.hi.u32 %r5, %r0, %r2;
        mad.lo.cc.u32 %r5, %r0, %r3, %r5; madc.hi.u32 %r6, %r0, %r3, 0; mad.lo.cc.u32 %r5, %r1, %r2, %r5;
        mov.b64 %d, {%r4, %r5};";
    check(mul, |[a, b, ..]| a.wrapping_mul(b));
    check("add.cc.u64 %w4, %a, %b; addc.u64 %d, 0, 0;", |[a, b, ..]| a.checked_add(b).is_none() as u64);
}

#[test]
fn predicates_and_tests() {
    let s = |x: u64| x as i32;
    check(
        "setp.lt.and.s32 %p1|%p2, %ra, %rb, %p0; selp.u32 %rd, 1, 0, %p1; @%p2 add.u32 %rd, %rd, 2;"
            .replace("setp", "setp.gt.u32 %p0, %rc, 99; setp")
            .as_str(),
        |[a, b, c, _]| {
            let (less, p) = (s(a) < s(b), c & 0xffff_ffff > 99);
            (less && p) as u64 + 2 * (!less && p) as u64
        },
    );
    check("set.ge.u32.s32 %rd, %ra, %rb;", |[a, b, ..]| if s(a) >= s(b) { 0xffff_ffff } else { 0 });
    let h = |x: u64| f16::from_bits(x as u16).to_f32();
    check("set.lt.f16x2.f16x2 %rd, %ra, %rb;", |[a, b, ..]| {
        let one = |yes: bool| if yes { 0x3c00 } else { 0 };
        one(h(a) < h(b)) | one(h(a >> 16) < h(b >> 16)) << 16
    });
    check("set.neu.u32.f16x2 %rd, %ra, %rb;", |[a, b, ..]| {
        let ones = |yes: bool| if yes { 0xffff } else { 0 };
        ones(h(a) != h(b)) | ones(h(a >> 16) != h(b >> 16)) << 16
    });
    let f = |x: u64| f32::from_bits(x as u32);
    for (name, test) in [
        ("finite", (|x: f32| x.is_finite()) as fn(f32) -> bool),
        ("infinite", f32::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ] {
        check(
            &format!("mov.b32 %f1, %ra; testp.{name}.f32 %p1, %f1; selp.u32 %rd, 1, 0, %p1;"),
            |[a, ..]| test(f(a)) as u64,
        );
    }
    check(
        "mov.b32 %f1, %ra; mov.b32 %f2, %rb; setp.equ.f32 %p1, %f1, %f2; selp.u32 %rd, 1, 0, %p1;",
        |[a, b, ..]| (f(a) == f(b) || f(a).is_nan() || f(b).is_nan()) as u64,
    );
    check(
        "mov.b32 %f1, %ra; mov.b32 %f2, %rb; setp.num.f32 %p1, %f1, %f2; selp.u32 %rd, 1, 0, %p1;",
        |[a, b, ..]| !(f(a).is_nan() || f(b).is_nan()) as u64,
    );
}

#[test]
fn double_approximations_give_their_upper_words() {
    let upper = |x: u64| f64::from_bits(if x >> 52 & 0x7ff == 0 { x & 1 << 63 } else { x & !0xffff_ffff });
    let cut = |v: f64| match v.is_nan() {
        true => 0x7fff_ffff_0000_0000,
        false if v.is_subnormal() => v.to_bits() & 1 << 63,
        false => v.to_bits() & !0xffff_ffff,
    };
    check("rcp.approx.ftz.f64 %d, %a;", |[a, ..]| cut(1.0 / upper(a)));
    check("rsqrt.approx.ftz.f64 %d, %a;", |[a, ..]| cut(1.0 / upper(a).sqrt()));
}

#[test]
fn flushing_saturating_and_converting() {
    let f = |x: u64| f32::from_bits(x as u32);
    let flush = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let bits = |x: f32| if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 };
    let binary =
        |op: &str| format!("mov.b32 %f1, %ra; mov.b32 %f2, %rb; {op} %f3, %f1, %f2; mov.b32 %rd, %f3;");
    check(&binary("add.ftz.f32"), |[a, b, ..]| bits(flush(flush(f(a)) + flush(f(b)))));
    check(&binary("mul.rn.ftz.f32"), |[a, b, ..]| bits(flush(flush(f(a)) * flush(f(b)))));
    check(&binary("add.sat.f32"), |[a, b, ..]| {
        let v = f(a) + f(b);
        if v.is_nan() || v <= 0.0 { 0 } else { bits(v.min(1.0)) }
    });
    check("mov.b32 %f1, %ra; cvt.rna.tf32.f32 %rd, %f1;", |[a, ..]| {
        let x = a as u32;
        if f(a).is_nan() {
            0x7fff_e000
        } else if f(a).is_infinite() {
            x as u64
        } else {
            (x.wrapping_add(0x1000) & 0xffff_e000) as u64
        }
    });
    check("mov.b32 %f1, %ra; mov.b32 %f2, %rb; cvt.rn.relu.f16x2.f32 %rd, %f1, %f2;", |[a, b, ..]| {
        let h = |x: f32| {
            if x.is_nan() {
                0x7fff
            } else if x.is_sign_negative() {
                0
            } else {
                f16::from_f32(x).to_bits() as u64
            }
        };
        h(f(a)) << 16 | h(f(b))
    });
    check("mov.b32 %f1, %ra; cvt.rz.bf16.f32 %h1, %f1; cvt.u32.u16 %rd, %h1;", |[a, ..]| {
        if f(a).is_nan() { 0x7fff } else { a >> 16 & 0xffff }
    });
    check("cvt.rn.f16.u32 %h1, %ra; cvt.u32.u16 %rd, %h1;", |[a, ..]| {
        // u32 to f64 is exact, and f64 to f16 through f32 rounded to odd rounds once.
        let x = a as u32 as f64;
        let odd = {
            let y = x as f32;
            let t = if y as f64 > x { y.next_down() } else { y };
            if t as f64 == x { t } else { f32::from_bits(t.to_bits() | 1) }
        };
        f16::from_f32(odd).to_bits() as u64
    });
}

/// Bits of an 8-bit float's value by its definition.
fn fp8(bits: u8, mantissa: u32, bias: i32, finite_only: bool) -> f32 {
    let (e, m) = ((bits & 0x7f) >> mantissa, bits & ((1 << mantissa) - 1));
    let sign = if bits & 0x80 != 0 { -1.0 } else { 1.0 };
    let top = 0x7f >> mantissa;
    if e == top && (if finite_only { bits & 0x7f == 0x7f } else { true }) {
        return if !finite_only && m == 0 { sign * f32::INFINITY } else { f32::NAN };
    }
    let fraction = m as f32 / (1 << mantissa) as f32;
    sign * if e == 0 { fraction * 2f32.powi(1 - bias) } else { (1.0 + fraction) * 2f32.powi(e as i32 - bias) }
}

#[test]
fn eight_bit_floats() {
    for (ty, mantissa, bias, finite_only) in [("e4m3x2", 3, 7, true), ("e5m2x2", 2, 15, false)] {
        // Up: every pattern, exactly.
        let all: Vec<[u64; 4]> = (0..256u64).map(|i| [i | (255 - i) << 8, 0, 0, 0]).collect();
        let found = one(&format!("cvt.u16.u32 %h1, %ra; cvt.rn.f16x2.{ty} %rd, %h1;"), &all);
        for (i, v) in found.into_iter().enumerate() {
            for (part, byte) in [(v & 0xffff, i as u8), (v >> 16, 255 - i as u8)] {
                let (f, e) = (f16::from_bits(part as u16).to_f32(), fp8(byte, mantissa, bias, finite_only));
                assert!(
                    f == e && f.is_sign_negative() == e.is_sign_negative() || f.is_nan() && e.is_nan(),
                    "{ty} {byte:02x}: {f} {e}"
                );
            }
        }
        // Down: the nearest of all patterns, ties to even, saturating.
        let mut random = Random(31);
        let mut values: Vec<f32> =
            (0..400).map(|_| random.unit() * 2f32.powi((random.next() % 40) as i32 - 22)).collect();
        values.extend([
            0.0,
            -0.0,
            448.0,
            464.0,
            465.0,
            57344.0,
            61440.0,
            1e9,
            f32::INFINITY,
            -f32::INFINITY,
            f32::NAN,
        ]);
        values.extend(
            (0..127u8)
                .map(|b| {
                    (fp8(b, mantissa, bias, finite_only) + fp8(b + 1, mantissa, bias, finite_only)) / 2.0
                })
                .filter(|v| v.is_finite()),
        );
        let inputs: Vec<[u64; 4]> =
            values.iter().map(|v| [v.to_bits() as u64, (-v).to_bits() as u64, 0, 0]).collect();
        let body = format!(
            "mov.b32 %f1, %ra; mov.b32 %f2, %rb; cvt.rn.satfinite.{ty}.f32 %h1, %f1, %f2; cvt.u32.u16 %rd, %h1;"
        );
        for (v, out) in values.iter().zip(one(&body, &inputs)) {
            let nearest = |v: f32| -> u64 {
                if v.is_nan() {
                    return 0x7f;
                }
                let numbers = (0..128u8).filter(|&b| fp8(b, mantissa, bias, finite_only).is_finite());
                let m = v.abs().min(1e6) as f64;
                let best = numbers.min_by(|&a, &b| {
                    let d = |x: u8| (fp8(x, mantissa, bias, finite_only) as f64 - m).abs();
                    d(a).partial_cmp(&d(b)).unwrap().then((a & 1).cmp(&(b & 1)))
                });
                best.unwrap() as u64 | if v.is_sign_negative() { 0x80 } else { 0 }
            };
            let nan = v.is_nan();
            assert_eq!(out >> 8, if nan { 0x7f } else { nearest(*v) }, "{ty} {v:e}, high half");
            assert_eq!(out & 0xff, if nan { 0x7f } else { nearest(-v) }, "{ty} {v:e}, low half");
        }
    }
}

#[test]
fn habits_of_other_compilers() {
    // Triton's inline assembly blocks with spaces and hexadecimal offsets; LLVM's .b32 loads; brx.idx; a jump over a
    // block with its own label and register names.
    let ptx = format!(
        "{HEAD}.extern .shared .align 16 .b8 global_smem[];
.visible .entry k(
	.param .u64 .ptr .global .align 16 out,
	.param .u64 .ptr .global .align 1 inp
)
.reqntid 32, 1, 1
{{
	.reg .pred 	%p<5>;
	.reg .b32 	%r<20>;
	.reg .b64 	%rd<6>;
	ld.param.b64 	%rd1, [inp];
	ld.param.b64 	%rd2, [out];
	mov.u32 	%r1, %tid.x;
	mul.wide.s32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd1, %rd3;
	mov.pred 	%p1, -1;
	// begin inline asm
	mov.u32 %r2, 0x0;
	@%p1 ld.global.b32 {{ %r2 }}, [ %rd4 + 0 ];
	// end inline asm
	mov.b32 	%r3, global_smem;
	shl.b32 	%r4, %r1, 2;
	add.s32 	%r5, %r3, %r4;
	// begin inline asm
	@%p1 st.shared.b32 [ %r5 + 0 ], %r2;
	// end inline asm
	bar.warp.sync 0xffffffff;
	xor.b32 %r6, %r4, 0x1c;
	add.s32 %r7, %r3, %r6;
	ld.shared.b32 %r8, [%r7];
	and.b32 %r9, %r1, 3;
	{{
	.reg .pred q;
	setp.gt.u32 q, %r9, 1;
	@q bra DONE;
	add.u32 %r8, %r8, 1000;
DONE:
	}}
	{{
	.reg .pred q;
	setp.eq.u32 q, %r9, 0;
	@q bra DONE;
	add.u32 %r8, %r8, 5000;
DONE:
	}}
$table: .branchtargets $one, $two, $one, $three;
	brx.idx 	%r9, $table;
$one:
	add.u32 %r8, %r8, 10000;
	bra.uni $end;
$two:
	add.u32 %r8, %r8, 20000;
	bra.uni $end;
$three:
	add.u32 %r8, %r8, 30000;
$end:
	add.s64 	%rd5, %rd2, %rd3;
	st.global.b32 	[%rd5], %r8;
	ret;
}}"
    );
    let mut run = Run::new(&ptx, Options::default());
    let x: Vec<u32> = (0..32).map(|i| i * 3).collect();
    let (inp, out) = (run.put("inp", &x), run.empty::<u32>("out", 32));
    let config = LaunchConfig { dynamic_shared: 128, ..LaunchConfig::linear(1, 32) };
    run.clean("k", config, &[out.into(), inp.into()]);
    for (i, v) in run.get::<u32>(out, 32).into_iter().enumerate() {
        let part = i % 4;
        let low = if part <= 1 { 1000 } else { 0 } + if part != 0 { 5000 } else { 0 };
        let jump = [10000, 20000, 10000, 30000][part];
        assert_eq!(v, x[i ^ 7] + low + jump, "thread {i}");
    }
}
