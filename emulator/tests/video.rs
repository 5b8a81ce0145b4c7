//! Video instructions against the pseudocode of PTX ISA 9.7.18, written out again.

mod common;

use common::Random;
use common::words::check;

const LOW: u64 = 0xffff_ffff;

/// partSelectSignExtend of the ISA.
fn select(word: u64, signed: bool, selection: &str) -> i64 {
    let word = word as u32;
    let (bytes, at) = match selection {
        "" => (4, 0),
        "b0" | "b1" | "b2" | "b3" => (1, selection[1..].parse::<u32>().unwrap()),
        "h0" => (2, 0),
        _ => (2, 2),
    };
    match (bytes, signed) {
        (1, true) => (word >> (8 * at)) as i8 as i64,
        (1, false) => (word >> (8 * at)) as u8 as i64,
        (2, true) => (word >> (8 * at)) as i16 as i64,
        (2, false) => (word >> (8 * at)) as u16 as i64,
        (_, true) => word as i32 as i64,
        _ => word as i64,
    }
}

fn bounds(bits: u32, signed: bool) -> (i64, i64) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn dot(selection: &str) -> String {
    if selection.is_empty() { String::new() } else { format!(".{selection}") }
}

const SIGNS: [(&str, bool); 2] = [("u32", false), ("s32", true)];

/// Every scalar operation with every pair of selections and signs; the third operand and the part of the result are varied
/// along the way.
#[test]
fn scalar_video_instructions() {
    let selections = ["", "b0", "b1", "b2", "b3", "h0", "h1"];
    type Operation = fn(i64, i64) -> i64;
    let operations: [(&str, Operation); 7] = [
        ("vadd", |a, b| a + b),
        ("vsub", |a, b| a - b),
        ("vabsdiff", |a, b| (a - b).abs()),
        ("vmin", |a, b| a.min(b)),
        ("vmax", |a, b| a.max(b)),
        ("vshl", |a, b| a << b),
        ("vshr", |a, b| a >> b),
    ];
    let mut n = 0;
    for (name, operation) in operations {
        let shift = name.starts_with("vsh");
        for (dt, d_signed) in SIGNS {
            for (at, a_signed) in SIGNS {
                for (bt, b_signed) in SIGNS.into_iter().filter(|s| !shift || !s.1) {
                    n += 1;
                    let pick = |i: usize| selections[(n * (i + 3) + n / 7) % 7];
                    let (sa, sb) = (pick(0), pick(2));
                    let sat = n % 3 == 0;
                    let mode = if !shift {
                        ""
                    } else if n % 2 == 0 {
                        ".clamp"
                    } else {
                        ".wrap"
                    };
                    // A second operation, a part of the third operand, or nothing.
                    let second = ["", "add", "min", "max"][n % 4];
                    let sd = if second.is_empty() { selections[n % 7] } else { "" };
                    let suffix = if sat { ".sat" } else { "" };
                    let line = format!(
                        "{name}.{dt}.{at}.{bt}{suffix}{mode}{} %rd{}, %ra{}, %rb{}, %rc;",
                        dot(second),
                        dot(sd),
                        dot(sa),
                        dot(sb)
                    );
                    check(&line, |[a, b, c, _]| {
                        let (ta, mut tb) = (select(a, a_signed, sa), select(b, b_signed, sb));
                        if shift {
                            tb = if mode == ".clamp" { tb.min(32) } else { tb & 0x1f };
                        }
                        let mut t = operation(ta, tb);
                        if sat {
                            let bits = if sd.starts_with('b') {
                                8
                            } else if sd.starts_with('h') {
                                16
                            } else {
                                32
                            };
                            let (low, high) = bounds(bits, d_signed);
                            t = t.clamp(low, high);
                        }
                        let tc = if d_signed { c as i32 as i64 } else { (c & LOW) as i64 };
                        t = match second {
                            "add" => t + tc,
                            "min" => t.min(tc),
                            "max" => t.max(tc),
                            _ => t,
                        };
                        let c = c as u32;
                        let t = t as u32;
                        (match sd {
                            "h0" => t & 0xffff | 0xffff_0000 & c,
                            "h1" => (t & 0xffff) << 16 | 0x0000_ffff & c,
                            "b0" => t & 0xff | 0xffff_ff00 & c,
                            "b1" => (t & 0xff) << 8 | 0xffff_00ff & c,
                            "b2" => (t & 0xff) << 16 | 0xff00_ffff & c,
                            "b3" => (t & 0xff) << 24 | 0x00ff_ffff & c,
                            _ => t,
                        }) as u64
                    });
                }
            }
        }
    }
    for (i, relation) in ["eq", "ne", "lt", "le", "gt", "ge"].into_iter().enumerate() {
        let holds = |a: i64, b: i64| [a == b, a != b, a < b, a <= b, a > b, a >= b][i];
        check(&format!("vset.s32.u32.{relation} %rd, %ra.b1, %rb.h1;"), |[a, b, ..]| {
            holds(select(a, true, "b1"), select(b, false, "h1")) as u64
        });
        check(&format!("vset.u32.s32.{relation}.add %rd, %ra, %rb, %rc;"), |[a, b, c, _]| {
            ((c & LOW) + holds(select(a, false, ""), select(b, true, "")) as u64) & LOW
        });
    }
}

#[test]
fn video_multiply_and_add() {
    for (at, a_signed) in SIGNS {
        for (bt, b_signed) in SIGNS {
            for sat in ["", ".sat"] {
                for (scale, shift) in [("", 0), (".shr7", 7), (".shr15", 15)] {
                    for (po, na, nb, nc) in [
                        ("", "", "", ""),
                        (".po", "", "", ""),
                        ("", "-", "", ""),
                        ("", "", "-", ""),
                        ("", "", "", "-"),
                    ] {
                        let line =
                            format!("vmad.s32.{at}.{bt}{po}{sat}{scale} %rd, {na}%ra.h1, {nb}%rb, {nc}%rc;");
                        check(&line, |[a, b, c, _]| {
                            let negated = na != nb;
                            let signed = a_signed || b_signed || negated || nc == "-";
                            let mut t = select(a, a_signed, "h1") as i128 * select(b, b_signed, "") as i128;
                            let mut lsb = 0;
                            let mut c = c as u32;
                            if po == ".po" {
                                lsb = 1;
                            } else if negated {
                                t = !t;
                                lsb = 1;
                            } else if nc == "-" {
                                c = !c;
                                lsb = 1;
                            }
                            t += lsb + if signed { c as i32 as i128 } else { c as i128 };
                            let t = t >> shift;
                            let (low, high) = bounds(32, signed);
                            let clamped = if sat == ".sat" { t.clamp(low as i128, high as i128) } else { t };
                            clamped as u64 & LOW
                        });
                    }
                }
            }
        }
    }
}

/// Both widths, every operation and sign, with selections of any digits.
#[test]
fn simd_video_instructions() {
    let mut random = Random(3);
    let names = ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset"];
    for (case, name) in (0..4).flat_map(|case| names.into_iter().map(move |name| (case, name))) {
        for lanes in [2usize, 4] {
            for (dt, d_signed) in SIGNS {
                for (at, a_signed) in SIGNS {
                    for (bt, b_signed) in SIGNS {
                        let letter = if lanes == 2 { "h" } else { "b" };
                        let mut digits = || -> Vec<usize> {
                            (0..lanes).map(|_| random.next() as usize % (2 * lanes)).collect()
                        };
                        let (mut pa, mut pb) = (digits(), digits());
                        let text = |p: &[usize]| p.iter().rev().map(|d| d.to_string()).collect::<String>();
                        let (mut sa, mut sb) =
                            (format!(".{letter}{}", text(&pa)), format!(".{letter}{}", text(&pb)));
                        let masks = [(vec![0, 1, 2, 3], String::new()), (vec![1], format!(".{letter}1"))];
                        let (mask, sd) = masks[case % 2].clone();
                        if case == 0 {
                            // What is meant when nothing is said.
                            (pa, pb) = ((0..lanes).collect(), (lanes..2 * lanes).collect());
                            (sa, sb) = (String::new(), String::new());
                        }
                        let (sat, add) = (case == 1 && name != "vset", case == 2);
                        let suffix = if sat {
                            ".sat"
                        } else if add {
                            ".add"
                        } else {
                            ""
                        };
                        let types =
                            if name == "vset" { format!("{at}.{bt}.lt") } else { format!("{dt}.{at}.{bt}") };
                        let line = format!("{name}{lanes}.{types}{suffix} %rd{sd}, %ra{sa}, %rb{sb}, %rc;");
                        let bits = 32 / lanes;
                        let part = |a: u64, b: u64, index: usize, signed: bool| {
                            let word = if index < lanes { a } else { b };
                            let selection = format!("{letter}{}", index % lanes);
                            select(word, signed, &selection)
                        };
                        check(&line, |[a, b, c, _]| {
                            let mut d = c as u32;
                            for lane in (0..lanes).filter(|l| mask.contains(l)) {
                                let (x, y) = (part(a, b, pa[lane], a_signed), part(a, b, pb[lane], b_signed));
                                let mut t = match name {
                                    "vadd" => x + y,
                                    "vsub" => x - y,
                                    "vavrg" if x + y >= 0 => (x + y + 1) >> 1,
                                    "vavrg" => (x + y) >> 1,
                                    "vabsdiff" => (x - y).abs(),
                                    "vmin" => x.min(y),
                                    "vmax" => x.max(y),
                                    _ => (x < y) as i64,
                                };
                                if sat {
                                    let (low, high) = bounds(bits as u32, d_signed);
                                    t = t.clamp(low, high);
                                }
                                if add {
                                    d = d.wrapping_add(t as u32);
                                } else {
                                    let place = ((1u64 << bits) - 1) << (bits * lane);
                                    d = (d as u64 & !place | (t as u64) << (bits * lane) & place) as u32;
                                }
                            }
                            d as u64
                        });
                    }
                }
            }
        }
    }
}
