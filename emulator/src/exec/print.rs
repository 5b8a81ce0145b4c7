//! Device-side printf (`vprintf`) and assert (`__assertfail`): the system calls of the CUDA ABI.

use super::engine::Engine;
use super::lanes::Banks;
use super::rows::load_bytes;
use super::rows::{lanes_of, read64, write32};
use super::state::Warp;
use crate::check::Kind as Check;
use crate::memory::LOCAL_WINDOW;

/// Longest string that is followed.
const MAX_TEXT: u64 = 4096;

impl Engine<'_> {
    /// A C string in global memory.
    fn text(&self, address: u64) -> Option<String> {
        let mut out = Vec::new();
        for k in 0..MAX_TEXT {
            let a = self.l.memory.find(address + k)?;
            // SAFETY: `find` says that the byte lies within the allocation.
            let byte = unsafe { a.load(address + k - a.base, 1) } as u8;
            if byte == 0 {
                break;
            }
            out.push(byte);
        }
        Some(String::from_utf8_lossy(&out).into_owned())
    }

    /// `bytes` bytes at a generic address of local or global memory.
    fn peek(&self, warp: &Warp, lane: u32, address: u64, bytes: u64) -> Option<u64> {
        if address >> 32 == LOCAL_WINDOW >> 32 {
            let at = (address - LOCAL_WINDOW) as usize;
            let end = at + bytes as usize;
            if end > warp.local_bytes as usize {
                return None;
            }
            let base = lane as usize * warp.local_bytes as usize;
            return Some(load_bytes(&warp.local[base + at..base + end]));
        }
        let a = self
            .l
            .memory
            .find(address)
            .filter(|a| address + bytes <= a.base + a.size && address.is_multiple_of(bytes))?;
        // SAFETY: the range lies within the allocation and is aligned, both checked just above.
        Some(unsafe { a.load(address - a.base, bytes as u32) })
    }

    pub(super) fn print(&mut self, warp: &Warp, banks: &Banks, pc: u32, mask: u32) {
        let pool = &self.l.code.pool[self.l.code.insts[pc as usize].pool as usize..];
        let (formats, buffers) = (read64(banks, pool[1]), read64(banks, pool[2]));
        for lane in lanes_of(mask) {
            let Some(format) = self.text(formats[lane as usize]) else {
                self.report(Check::OutOfBounds, pc, warp.index, lane, || {
                    "prints with a format that is not in global memory".to_string()
                });
                continue;
            };
            let mut at = buffers[lane as usize];
            let mut argument = |bytes: u64| {
                at = at.div_ceil(bytes) * bytes;
                let v = self.peek(warp, lane, at, bytes);
                at += bytes;
                v
            };
            let line = expand(&format, &mut argument, &|address| self.text(address));
            let mut printed = self.l.printed.lock().unwrap_or_else(|e| e.into_inner());
            printed.push_str(&line);
        }
        write32(banks, pool[0], mask, |_| 0);
    }

    pub(super) fn assert_failed(&mut self, banks: &Banks, pc: u32, mask: u32, warp: u32) {
        let pool = &self.l.code.pool[self.l.code.insts[pc as usize].pool as usize..];
        let lane = mask.trailing_zeros();
        let text = |slot: u16| self.text(read64(banks, slot)[lane as usize]).unwrap_or_default();
        let (condition, file, function) = (text(pool[0]), text(pool[1]), text(pool[2]));
        self.fatal(Check::AssertFailed, pc, warp, lane, || {
            format!("fails assert({condition}) in {function} of {file}")
        });
    }
}

/// Expands a format. `argument(bytes)` gives the next argument, None when it cannot be read.
fn expand(
    format: &str,
    argument: &mut dyn FnMut(u64) -> Option<u64>,
    text: &dyn Fn(u64) -> Option<String>,
) -> String {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut flags, mut width, mut precision, mut long) = (String::new(), String::new(), None, false);
        while let Some(&f) = chars.peek().filter(|f| "-+ #0".contains(**f)) {
            flags.push(f);
            chars.next();
        }
        while let Some(&d) = chars.peek().filter(|d| d.is_ascii_digit() || **d == '*') {
            chars.next();
            if d == '*' {
                width = (argument(4).unwrap_or(0) as i32).unsigned_abs().to_string();
            } else {
                width.push(d);
            }
        }
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(&d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(d);
                chars.next();
            }
            precision = Some(digits.parse::<usize>().unwrap_or(0));
        }
        while let Some(&m) = chars.peek().filter(|m| "hlzjt".contains(**m)) {
            long |= m != 'h';
            chars.next();
        }
        let kind = chars.next().unwrap_or('%');
        let integer = if long { 8 } else { 4 };
        let signed = |argument: &mut dyn FnMut(u64) -> Option<u64>| {
            argument(integer).map(|v| if long { v as i64 } else { v as i32 as i64 })
        };
        let body = match kind {
            '%' => Some("%".to_string()),
            'd' | 'i' => signed(argument).map(|v| {
                let sign = if v >= 0 && flags.contains('+') { "+" } else { "" };
                format!("{sign}{v}")
            }),
            'u' => argument(integer).map(|v| v.to_string()),
            'x' => argument(integer).map(|v| format!("{}{v:x}", if flags.contains('#') { "0x" } else { "" })),
            'X' => argument(integer).map(|v| format!("{}{v:X}", if flags.contains('#') { "0X" } else { "" })),
            'o' => argument(integer).map(|v| format!("{v:o}")),
            'c' => argument(4).map(|v| (v as u8 as char).to_string()),
            'p' => argument(8).map(|v| format!("{v:#x}")),
            's' => argument(8).map(|v| {
                let s = text(v).unwrap_or_else(|| "(null)".to_string());
                precision.map_or(s.clone(), |p| s.chars().take(p).collect())
            }),
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
                argument(8).map(|v| float(f64::from_bits(v), kind, precision, &flags))
            }
            other => Some(format!("%{other}")),
        };
        let body = body.unwrap_or_else(|| "(argument out of range)".to_string());
        let width = width.parse::<usize>().unwrap_or(0);
        let missing = width.saturating_sub(body.chars().count());
        if flags.contains('-') {
            out += &body;
            out.extend(std::iter::repeat_n(' ', missing));
        } else if flags.contains('0') && !matches!(kind, 's' | 'c') {
            let (sign, digits) = match body.strip_prefix(['-', '+']) {
                Some(rest) => (&body[..1], rest),
                None => ("", &body[..]),
            };
            out += sign;
            out.extend(std::iter::repeat_n('0', missing));
            out += digits;
        } else {
            out.extend(std::iter::repeat_n(' ', missing));
            out += &body;
        }
    }
    out
}

fn float(v: f64, kind: char, precision: Option<usize>, flags: &str) -> String {
    let sign = if v >= 0.0 && flags.contains('+') { "+" } else { "" };
    if !v.is_finite() {
        return format!(
            "{sign}{}",
            if v.is_nan() {
                "nan"
            } else if v > 0.0 {
                "inf"
            } else {
                "-inf"
            }
        );
    }
    let scientific = |v: f64, p: usize| {
        let s = format!("{v:.p$e}");
        let (mantissa, exponent) = s.split_once('e').unwrap_or((&s, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    };
    let p = precision.unwrap_or(6);
    let body = match kind {
        'f' | 'F' => format!("{v:.p$}"),
        'e' | 'E' => scientific(v, p),
        _ => {
            let p = p.max(1);
            let rounded = scientific(v, p - 1);
            let exponent: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
            if exponent < -4 || exponent >= p as i32 {
                let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "+00"));
                let mantissa = if mantissa.contains('.') {
                    mantissa.trim_end_matches('0').trim_end_matches('.')
                } else {
                    mantissa
                };
                format!("{mantissa}e{exponent}")
            } else {
                let s = format!("{v:.*}", (p as i32 - 1 - exponent).max(0) as usize);
                if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s }
            }
        }
    };
    let body = if kind.is_ascii_uppercase() { body.to_uppercase() } else { body };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: &str, arguments: &[u64]) -> String {
        let mut left = arguments.iter();
        expand(format, &mut |_| left.next().copied(), &|_| Some("text".to_string()))
    }

    #[test]
    fn expands_as_c_does() {
        assert_eq!(
            print("%d %5d|%-5d|%05d|%+d", &[(-7i32) as u32 as u64, 42, 42, 42, 42]),
            "-7    42|42   |00042|+42"
        );
        assert_eq!(print("%u %x %#X %c %s %%", &[7, 255, 255, 65, 1]), "7 ff 0XFF A text %");
        assert_eq!(print("%lld %llu", &[(-1i64) as u64, u64::MAX]), "-1 18446744073709551615");
        let f = |v: f64| v.to_bits();
        assert_eq!(
            print("%f %.2f %8.3f %e", &[f(1.5), f(2.345), f(-1.0), f(12345.678)]),
            "1.500000 2.35   -1.000 1.234568e+04"
        );
        assert_eq!(
            print("%g %g %g %g", &[f(0.0001), f(1e-5), f(1e6), f(123456.0)]),
            "0.0001 1e-05 1e+06 123456"
        );
    }
}
