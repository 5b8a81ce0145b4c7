//! What printf makes of a format and its arguments, as C does (C17 7.21.6.1), for the conversions that CUDA has.

/// What one call prints, and how many arguments it took.
pub struct Expanded {
    pub text: String,
    pub arguments: u32,
}

/// A conversion: `%[flags][width][.precision][length]kind`.
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of an integer argument's value.
    bytes: u32,
    kind: char,
}

/// Expands a format. `argument(bytes)` gives the next argument, None when it cannot be read; `text` a string.
pub fn expand(
    format: &str,
    argument: &mut dyn FnMut(u64) -> Option<u64>,
    text: &dyn Fn(u64) -> Option<String>,
) -> Expanded {
    let mut out = Expanded { text: String::new(), arguments: 0 };
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.text += &rest[..at];
        let mut counted = |bytes| {
            out.arguments += 1;
            argument(bytes)
        };
        let (conversion, after) = parse(&rest[at + 1..], &mut counted);
        let body = conversion.body(&mut counted, text);
        match body {
            Some(body) => out.text += &conversion.pad(body),
            None => out.text += "(argument out of range)",
        }
        rest = after;
    }
    out.text += rest;
    out
}

fn parse<'a>(text: &'a str, argument: &mut dyn FnMut(u64) -> Option<u64>) -> (Conversion, &'a str) {
    let mut rest = text;
    let mut c = Conversion {
        left: false,
        plus: false,
        space: false,
        alternate: false,
        zero: false,
        width: 0,
        precision: None,
        bytes: 4,
        kind: '%',
    };
    while let Some(flag) = rest.chars().next().filter(|f| "-+ #0".contains(*f)) {
        match flag {
            '-' => c.left = true,
            '+' => c.plus = true,
            ' ' => c.space = true,
            '#' => c.alternate = true,
            _ => c.zero = true,
        }
        rest = &rest[1..];
    }
    let mut number = |rest: &mut &'a str| {
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            return argument(4).unwrap_or(0) as u32 as i32 as i64;
        }
        let end = rest.find(|d: char| !d.is_ascii_digit()).unwrap_or(rest.len());
        let value = rest[..end].parse().unwrap_or(0);
        *rest = &rest[end..];
        value
    };
    let width = number(&mut rest);
    c.left |= width < 0;
    c.width = width.unsigned_abs().min(1 << 16) as usize;
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        // A negative precision counts as none.
        c.precision = usize::try_from(number(&mut rest)).ok().map(|p| p.min(1 << 16));
    }
    for (length, bytes) in [("hh", 1), ("h", 2), ("ll", 8), ("l", 8), ("j", 8), ("z", 8), ("t", 8), ("L", 8)]
    {
        if let Some(after) = rest.strip_prefix(length) {
            (rest, c.bytes) = (after, bytes);
            break;
        }
    }
    match rest.chars().next() {
        Some(kind) => (c.kind, rest) = (kind, &rest[kind.len_utf8()..]),
        None => c.kind = '%',
    }
    (c, rest)
}

impl Conversion {
    /// The sign that a value gets in front of its digits.
    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    /// The argument with sign, prefix and digits apart, so that zeros can go between.
    fn body(
        &self,
        argument: &mut dyn FnMut(u64) -> Option<u64>,
        text: &dyn Fn(u64) -> Option<String>,
    ) -> Option<(String, String)> {
        let plain = |digits: String| Some((String::new(), digits));
        let size = if self.bytes == 8 { 8 } else { 4 };
        let shift = 64 - 8 * self.bytes;
        match self.kind {
            'd' | 'i' => {
                let v = (argument(size)? << shift) as i64 >> shift;
                Some((self.sign(v < 0).to_string(), self.digits(v.unsigned_abs().to_string(), v == 0)))
            }
            'u' | 'x' | 'X' | 'o' => {
                let v = argument(size)? << shift >> shift;
                let digits = match self.kind {
                    'u' => v.to_string(),
                    'x' => format!("{v:x}"),
                    'X' => format!("{v:X}"),
                    _ => format!("{v:o}"),
                };
                let mut digits = self.digits(digits, v == 0);
                if self.kind == 'o' && self.alternate && !digits.starts_with('0') {
                    digits.insert(0, '0');
                }
                let prefix = match self.kind {
                    'x' | 'X' if self.alternate && v != 0 => format!("0{}", self.kind),
                    _ => String::new(),
                };
                Some((prefix, digits))
            }
            'c' => plain((argument(4)? as u8 as char).to_string()),
            'p' => plain(format!("{:#x}", argument(8)?)),
            's' => {
                let s = text(argument(8)?).unwrap_or_else(|| "(null)".to_string());
                plain(self.precision.map_or(s.clone(), |p| s.chars().take(p).collect()))
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A' => {
                let v = f64::from_bits(argument(8)?);
                let digits = self.float(v.abs());
                let digits = if self.kind.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
                let mut sign = self.sign(v.is_sign_negative()).to_string();
                match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
                    Some(after) => {
                        sign += &digits[..2];
                        Some((sign, after.to_string()))
                    }
                    None => Some((sign, digits)),
                }
            }
            '%' => plain("%".to_string()),
            other => plain(format!("%{other}")),
        }
    }

    /// At least as many digits as the precision asks for; none for a zero with precision 0.
    fn digits(&self, digits: String, zero: bool) -> String {
        match self.precision {
            Some(0) if zero => String::new(),
            Some(p) => format!("{}{digits}", "0".repeat(p.saturating_sub(digits.len()))),
            None => digits,
        }
    }

    fn float(&self, v: f64) -> String {
        if !v.is_finite() {
            return if v.is_nan() { "nan" } else { "inf" }.to_string();
        }
        let p = self.precision.unwrap_or(6);
        let point = if self.alternate && p == 0 { "." } else { "" };
        match self.kind.to_ascii_lowercase() {
            'f' => format!("{v:.p$}{point}"),
            'e' => {
                let (mantissa, exponent) = scientific(v, p);
                format!("{mantissa}{point}{exponent}")
            }
            'a' => hexadecimal(v, self.precision, self.alternate),
            _ => self.shortest(v, p.max(1)),
        }
    }

    /// `%g`: as `%e` or `%f`, by the exponent, without zeros at the end.
    fn shortest(&self, v: f64, p: usize) -> String {
        let (mantissa, exponent) = scientific(v, p - 1);
        let x: i32 = exponent[1..].parse().unwrap_or(0);
        let as_fraction = (-4..p as i32).contains(&x);
        let digits = if as_fraction { format!("{v:.*}", (p as i32 - 1 - x) as usize) } else { mantissa };
        let digits = match (self.alternate, digits.contains('.')) {
            (true, true) => digits,
            (true, false) => digits + ".",
            (false, true) => digits.trim_end_matches('0').trim_end_matches('.').to_string(),
            (false, false) => digits,
        };
        if as_fraction { digits } else { digits + &exponent }
    }

    fn pad(&self, (front, digits): (String, String)) -> String {
        let missing = self.width.saturating_sub(front.chars().count() + digits.chars().count());
        // Zeros go between sign and digits of a number; a precision says how many digits an integer has instead.
        let zeros = self.zero
            && match self.kind {
                'd' | 'i' | 'u' | 'x' | 'X' | 'o' => self.precision.is_none(),
                's' | 'c' | 'p' | '%' => false,
                _ => !matches!(&digits[..], "nan" | "NAN" | "inf" | "INF"),
            };
        match (self.left, zeros) {
            (true, _) => format!("{front}{digits}{}", " ".repeat(missing)),
            (_, true) => format!("{front}{}{digits}", "0".repeat(missing)),
            _ => format!("{}{front}{digits}", " ".repeat(missing)),
        }
    }
}

/// Mantissa with `p` digits after the point, and exponent as in `e+05`.
fn scientific(v: f64, p: usize) -> (String, String) {
    let s = format!("{v:.p$e}");
    let (mantissa, exponent) = s.split_once('e').unwrap_or((&s, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    (mantissa.to_string(), format!("e{sign}{:02}", exponent.abs()))
}

/// `%a`: `0x1.8p+1`.
fn hexadecimal(v: f64, precision: Option<usize>, alternate: bool) -> String {
    const BITS: u32 = 52;
    let bits = v.to_bits();
    let (field, mut fraction) = (bits >> BITS, bits & ((1 << BITS) - 1));
    let (mut whole, exponent) = match field {
        0 if fraction == 0 => (0, 0),
        0 => (0, -1022),
        _ => (1, field as i64 - 1023),
    };
    let mut digits = 13;
    if let Some(p) = precision.filter(|p| *p < 13) {
        // To nearest, ties to even, over the whole number.
        let cut = 4 * (13 - p) as u32;
        let all = whole << BITS | fraction;
        let (kept, left, half) = (all >> cut, all & ((1 << cut) - 1), 1 << (cut - 1));
        let kept = kept + (left > half || left == half && kept & 1 == 1) as u64;
        (whole, fraction, digits) = (kept >> (4 * p), kept & ((1 << (4 * p)) - 1), p);
    }
    let mut hex = if digits == 0 { String::new() } else { format!("{fraction:0digits$x}") };
    match precision {
        Some(p) => hex += &"0".repeat(p.saturating_sub(13)),
        None => hex.truncate(hex.trim_end_matches('0').len()),
    }
    let point = if hex.is_empty() && !alternate { "" } else { "." };
    format!("0x{whole}{point}{hex}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use std::ffi::{CString, c_char, c_int};

    use super::*;

    unsafe extern "C" {
        fn snprintf(out: *mut c_char, size: usize, format: *const c_char, ...) -> c_int;
    }

    fn ours(format: &str, arguments: &[u64]) -> String {
        let mut left = arguments.iter();
        expand(format, &mut |_| left.next().copied(), &|_| Some("text".to_string())).text
    }

    fn of_c(write: impl Fn(*mut c_char, usize) -> c_int) -> String {
        let mut buffer = vec![0u8; 4096];
        let n = write(buffer.as_mut_ptr().cast(), buffer.len());
        String::from_utf8(buffer[..n as usize].to_vec()).unwrap()
    }

    const FLAGS: [&str; 14] = ["", "-", "+", " ", "0", "#", "-+", "+0", " 0", "#0", "-#", "+#0", "-0", "+ "];
    const SIZES: [&str; 10] = ["", "1", "8", "20", ".0", ".3", "12.0", "12.5", "3.11", "24.17"];

    #[test]
    fn integers_are_those_of_c() {
        let values = [0i64, 1, -1, 42, -300, 65_535, i32::MIN as i64, i32::MAX as i64, i64::MIN, i64::MAX];
        for (flags, size) in FLAGS.iter().flat_map(|f| SIZES.map(|s| (f, s))) {
            for (length, kind) in ["", "hh", "h", "l", "ll", "z"]
                .into_iter()
                .flat_map(|l| ["d", "u", "x", "X", "o"].map(|k| (l, k)))
            {
                let format = format!("[%{flags}{size}{length}{kind}]");
                let c = CString::new(format.clone()).unwrap();
                for v in values {
                    // SAFETY: the format takes one integer, which is passed as 64 bits: the callee reads what it needs.
                    let theirs = of_c(|p, n| unsafe { snprintf(p, n, c.as_ptr(), v) });
                    assert_eq!(ours(&format, &[v as u64]), theirs, "{format} of {v}");
                }
            }
        }
    }

    #[test]
    fn floating_point_numbers_are_those_of_c() {
        let values = [
            0.0,
            -0.0,
            1.0,
            -1.5,
            0.1,
            2.5,
            9.995,
            99999.2,
            1e-5,
            1e-4,
            123456.0,
            1234567.0,
            1e10,
            1e300,
            -1e-300,
            5e-324,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            0.5,
            1.5,
            255.996_093_75,
        ];
        for (flags, size) in FLAGS.iter().flat_map(|f| SIZES.map(|s| (f, s))) {
            for kind in ["f", "F", "e", "E", "g", "G", "a", "A"] {
                let format = format!("[%{flags}{size}{kind}]");
                let c = CString::new(format.clone()).unwrap();
                for v in values {
                    // SAFETY: the format takes one double, which is given.
                    let theirs = of_c(|p, n| unsafe { snprintf(p, n, c.as_ptr(), v) });
                    assert_eq!(ours(&format, &[v.to_bits()]), theirs, "{format} of {v:e}");
                }
            }
        }
    }

    #[test]
    fn stars_strings_and_counts() {
        assert_eq!(
            ours("%*d|%-*d|%.*f|%*d", &[5, 42, 5, 42, 2, 1.25f64.to_bits(), -4i32 as u32 as u64, 7]),
            "   42|42   |1.25|7   "
        );
        assert_eq!(
            ours("%s %.2s %6s|%-6s| %c %% %5%", &[1, 1, 1, 1, 65]),
            "text te   text|text  | A %     %"
        );
        let mut left = [1u64, 2, 3].iter();
        let all = expand("a %d %*d", &mut |_| left.next().copied(), &|_| None);
        assert_eq!((all.text.as_str(), all.arguments), ("a 1  3", 3));
        assert_eq!(ours("%d", &[]), "(argument out of range)");
        assert_eq!(ours("100%", &[]), "100%");
    }
}
