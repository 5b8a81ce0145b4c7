//! Prints the steps of a warp: where, which lanes, the instruction, and what it wrote.

use std::fmt::Write as _;

use handloom_emulator::{Step, Write};

/// How a value is to be read, from the last type in its instruction.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    F32,
    F64,
    Signed,
    Unsigned,
    Hex,
}

fn reading(instruction: &str) -> Reading {
    let opcode = instruction.split_whitespace().find(|w| !w.starts_with('@')).unwrap_or("");
    // The first type is the result's: `cvt.f32.s32`, `mul.wide.u32`.
    for part in opcode.split('.').skip(1) {
        match part.trim_end_matches(';') {
            "f32" => return Reading::F32,
            "f64" => return Reading::F64,
            "s8" | "s16" | "s32" | "s64" => return Reading::Signed,
            "u8" | "u16" | "u32" | "u64" => return Reading::Unsigned,
            "b16" | "b32" | "b64" | "f16" | "f16x2" | "bf16" | "bf16x2" => return Reading::Hex,
            _ => {}
        }
    }
    Reading::Unsigned
}

fn value(bits: u32, v: u64, how: Reading) -> String {
    match (bits, how) {
        (32, Reading::F32) => format!("{:?}", f32::from_bits(v as u32)),
        (64, Reading::F64) => format!("{:?}", f64::from_bits(v)),
        (32, Reading::Signed) => format!("{}", v as u32 as i32),
        (64, Reading::Signed) if (v as i64).unsigned_abs() < 1 << 40 => format!("{}", v as i64),
        (32, Reading::Unsigned) => format!("{}", v as u32),
        (64, _) if v >= 1 << 40 => format!("{v:#x}"),
        (64, Reading::Unsigned) => format!("{v}"),
        _ => format!("{v:#x}"),
    }
}

/// The values of the lanes in `mask`: one when they agree, else the first few and the last.
fn values(w: &Write, mask: u32, how: Reading) -> String {
    let lanes: Vec<usize> = (0..32).filter(|i| mask >> i & 1 != 0).collect();
    if w.bits == 1 {
        let held = lanes.iter().fold(0u32, |m, &i| m | (w.values[i] as u32 & 1) << i);
        return match held {
            0 => "false".to_string(),
            held if held == mask => "true".to_string(),
            held => format!("true in {held:08x}"),
        };
    }
    let Some(&first) = lanes.first() else { return String::new() };
    if lanes.iter().all(|&i| w.values[i] == w.values[first]) {
        return value(w.bits, w.values[first], how);
    }
    let shown = |i: &usize| value(w.bits, w.values[*i], how);
    if lanes.len() <= 5 {
        return lanes.iter().map(shown).collect::<Vec<_>>().join(", ");
    }
    let head: Vec<String> = lanes[..4].iter().map(shown).collect();
    format!("{}, … {}", head.join(", "), shown(&lanes[lanes.len() - 1]))
}

/// The steps as text, one instruction to a line; `ptx` is the module's text.
pub fn text(steps: &[Step], ptx: &str, source: &dyn Fn(&str) -> Option<String>) -> String {
    let lines: Vec<&str> = ptx.lines().collect();
    let mut out = String::new();
    let mut last: Option<&(String, u32)> = None;
    let mut texts: std::collections::HashMap<&str, Option<String>> = Default::default();
    for step in steps {
        if let Some(place) = step.source.as_ref().filter(|s| last != Some(*s)) {
            let (file, number) = place;
            let text = texts.entry(file).or_insert_with(|| source(file));
            let code = text.as_ref().and_then(|t| t.lines().nth(*number as usize - 1)).unwrap_or("").trim();
            let _ = writeln!(out, "\n{file}:{number}  {code}"); // writing to a string cannot fail
            last = Some(place);
        }
        let instruction = lines.get(step.ptx_line as usize - 1).map_or("", |l| l.trim());
        let instruction = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
        let lanes = match step.mask {
            u32::MAX => "all lanes".to_string(),
            0 => "no lane  ".to_string(),
            mask => format!("{mask:08x} "),
        };
        let how = reading(&instruction);
        let writes: Vec<String> = match step.mask {
            0 => Vec::new(),
            mask => {
                step.writes.iter().map(|w| format!("{} = {}", w.register, values(w, mask, how))).collect()
            }
        };
        let _ = writeln!(out, "{:>5}  {lanes}  {instruction:<44} {}", step.ptx_line, writes.join("   "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_shows_its_values_by_the_instructions_type() {
        let ptx = "mul.wide.u32 \t%rd2, %r1, 4;\nadd.f32 %f1, %f2, %f3;\nsetp.lt.s32 %p1, %r1, 4;";
        let write = |register: &str, bits, f: &dyn Fn(u64) -> u64| Write {
            register: register.to_string(),
            bits,
            values: std::array::from_fn(|i| f(i as u64)),
        };
        let step =
            |ptx_line, mask, w| Step { ptx_line, source: None, active: u32::MAX, mask, writes: vec![w] };
        let steps = [
            step(1, u32::MAX, write("%rd2", 64, &|i| 4 * i)),
            step(2, 0x3, write("%f1", 32, &|_| 1.5f32.to_bits() as u64)),
            step(3, u32::MAX, write("%p1", 1, &|i| (i < 4) as u64)),
        ];
        let text = text(&steps, ptx, &|_| None);
        assert!(text.contains("all lanes") && text.contains("%rd2 = 0, 4, 8, 12, … 124"), "{text}");
        assert!(text.contains("00000003") && text.contains("%f1 = 1.5"), "{text}");
        assert!(text.contains("%p1 = true in 0000000f"), "{text}");
    }
}
