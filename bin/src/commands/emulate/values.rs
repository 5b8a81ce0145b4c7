//! Arguments of a kernel as the command line gives them: scalars, generated buffers, arrays from files.

use std::path::Path;

use half::{bf16, f16};

use super::npy::{self, Array};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
}

impl Type {
    pub const ALL: [Type; 12] = [
        Type::F64,
        Type::F32,
        Type::F16,
        Type::Bf16,
        Type::I64,
        Type::I32,
        Type::I16,
        Type::I8,
        Type::U64,
        Type::U32,
        Type::U16,
        Type::U8,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Type::F64 => "f64",
            Type::F32 => "f32",
            Type::F16 => "f16",
            Type::Bf16 => "bf16",
            Type::I64 => "i64",
            Type::I32 => "i32",
            Type::I16 => "i16",
            Type::I8 => "i8",
            Type::U64 => "u64",
            Type::U32 => "u32",
            Type::U16 => "u16",
            Type::U8 => "u8",
        }
    }

    /// The type called `name`; signed integers may be called as in PTX (`s32`).
    fn named(name: &str) -> Result<Type, String> {
        let found = Type::ALL.into_iter().find(|t| {
            t.name() == name || name.strip_prefix('s').is_some_and(|bits| t.name() == format!("i{bits}"))
        });
        found.ok_or_else(|| {
            let known: Vec<&str> = Type::ALL.iter().map(|t| t.name()).collect();
            format!("unknown type `{name}`; known: {}", known.join(", "))
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Type::F64 | Type::I64 | Type::U64 => 8,
            Type::F32 | Type::I32 | Type::U32 => 4,
            Type::F16 | Type::Bf16 | Type::I16 | Type::U16 => 2,
            Type::I8 | Type::U8 => 1,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Type::F64 | Type::F32 | Type::F16 | Type::Bf16)
    }

    /// A generated value, rounded to the type; integers are cut to their range.
    fn encode(self, v: f64) -> Vec<u8> {
        match self {
            Type::F64 => v.to_le_bytes().to_vec(),
            Type::F32 => (v as f32).to_le_bytes().to_vec(),
            Type::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
            Type::Bf16 => bf16::from_f64(v).to_le_bytes().to_vec(),
            Type::I64 => (v as i64).to_le_bytes().to_vec(),
            Type::I32 => (v as i32).to_le_bytes().to_vec(),
            Type::I16 => (v as i16).to_le_bytes().to_vec(),
            Type::I8 => (v as i8).to_le_bytes().to_vec(),
            Type::U64 => (v as u64).to_le_bytes().to_vec(),
            Type::U32 => (v as u32).to_le_bytes().to_vec(),
            Type::U16 => (v as u16).to_le_bytes().to_vec(),
            Type::U8 => vec![v as u8],
        }
    }

    /// The type of a number without one: the parameter's, in which `.b32` may hold either.
    fn of_parameter(param: &str, number: &str) -> Result<Type, String> {
        let float = number.parse::<f64>().is_ok() && number.parse::<i128>().is_err();
        match param {
            ".b16" if float => Ok(Type::F16),
            ".b32" if float => Ok(Type::F32),
            ".b64" if float => Ok(Type::F64),
            _ => Type::named(&param.trim_start_matches('.').replace('b', "u")),
        }
    }

    /// A literal, exactly: integers as integers, in decimal or `0x`.
    fn literal(self, text: &str) -> Result<Vec<u8>, String> {
        let bad = || format!("`{text}` is no {}", self.name());
        if self.is_float() {
            return text.parse::<f64>().map(|v| self.encode(v)).map_err(|_| bad());
        }
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |d| (-1, d));
        let digits = digits.replace('_', "");
        let magnitude = match digits.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16),
            None => digits.parse::<i128>(),
        };
        let v = sign * magnitude.map_err(|_| bad())?;
        let bits = 8 * self.bytes() as u32;
        let (low, high) = match self {
            Type::I64 | Type::I32 | Type::I16 | Type::I8 => {
                (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
            }
            _ => (0, (1i128 << bits) - 1),
        };
        if !(low..=high).contains(&v) {
            return Err(format!("{text} is out of range: {} holds {low} to {high}", self.name()));
        }
        Ok(v.to_le_bytes()[..self.bytes()].to_vec())
    }

    /// An element as text.
    pub fn show(self, b: &[u8]) -> String {
        let number = b.iter().rev().fold(0u64, |n, &b| n << 8 | b as u64);
        let unused = 64 - 8 * self.bytes() as u32;
        match self {
            Type::F64 => format!("{:?}", f64::from_bits(number)),
            Type::F32 => format!("{:?}", f32::from_bits(number as u32)),
            Type::F16 => format!("{}", f16::from_bits(number as u16)),
            Type::Bf16 => format!("{}", bf16::from_bits(number as u16)),
            Type::I64 | Type::I32 | Type::I16 | Type::I8 => {
                format!("{}", ((number << unused) as i64) >> unused)
            }
            _ => format!("{number}"),
        }
    }
}

/// An argument.
pub enum Value {
    /// Passed by value.
    Scalar(Vec<u8>),
    /// Global memory, whose address is passed; `written` is false for memory that nothing has written.
    Buffer { array: Array, written: bool },
    /// The buffer of an argument before this one, `offset` bytes into it.
    Again { argument: usize, offset: u64 },
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// The elements that a generator such as `randn:1` makes; None for `uninit`.
fn generate(ty: Type, count: usize, how: &str) -> Result<Option<Vec<u8>>, String> {
    let (name, parameter) = how.split_once(':').map_or((how, None), |(n, p)| (n, Some(p)));
    let seed = || match parameter.unwrap_or("0").parse::<u64>() {
        Ok(seed) => Ok(Random(seed)),
        Err(_) => Err(format!("`{how}`: the seed is no number")),
    };
    let fill =
        |f: &mut dyn FnMut(usize) -> f64| (0..count).flat_map(|i| ty.encode(f(i))).collect::<Vec<u8>>();
    Ok(Some(match name {
        "zeros" => vec![0; count * ty.bytes()],
        "ones" => fill(&mut |_| 1.0),
        "arange" => fill(&mut |i| i as f64),
        "fill" => ty.literal(parameter.ok_or("`fill` needs a value: fill:2.5")?)?.repeat(count),
        "randn" => {
            let mut random = seed()?;
            fill(&mut |_| random.normal())
        }
        "uniform" => {
            let mut random = seed()?;
            // Integers: all their values; floats: [0, 1).
            let bits = 8 * ty.bytes() as u32;
            if ty.is_float() {
                fill(&mut |_| random.uniform())
            } else {
                (0..count)
                    .flat_map(|_| (random.next() >> (64 - bits)).to_le_bytes()[..ty.bytes()].to_vec())
                    .collect()
            }
        }
        "uninit" => return Ok(None),
        _ => {
            return Err(format!(
                "unknown generator `{name}`; known: zeros, ones, arange, fill:VALUE, randn:SEED, uniform:SEED, uninit"
            ));
        }
    }))
}

/// `N` or `N+BYTES`, as it follows `@`.
fn again(text: &str) -> Option<Value> {
    let (argument, offset) = text.split_once('+').unwrap_or((text, "0"));
    Some(Value::Again { argument: argument.parse().ok()?, offset: offset.parse().ok()? })
}

/// Reads an argument for a parameter of type `param` (`.u32`): `5`, `u32:5`, `f32[64x32]=randn:1`, `@0`, or a .npy file.
///
/// # Errors
/// A sentence that repeats the argument.
pub fn parse(text: &str, param: &str) -> Result<Value, String> {
    let fail = |what: String| format!("argument `{text}`: {what}");
    if let Some(rest) = text.strip_prefix('@') {
        return again(rest)
            .ok_or_else(|| fail("expected @N or @N+BYTES, N being an argument's number".to_string()));
    }
    if text.ends_with(".npy") {
        let path = text.strip_prefix("npy:").unwrap_or(text);
        let array = npy::read(Path::new(path)).map_err(|e| format!("argument {e}"))?;
        return Ok(Value::Buffer { array, written: true });
    }
    if let Some((head, how)) = text.split_once('=') {
        let (ty, dims) = head
            .strip_suffix(']')
            .and_then(|h| h.split_once('['))
            .ok_or_else(|| fail("expected TYPE[SHAPE]=GENERATOR, such as f32[64x32]=randn:1".to_string()))?;
        let ty = Type::named(ty).map_err(fail)?;
        let shape: Vec<usize> = dims
            .split(['x', ','])
            .map(|d| d.trim().parse().map_err(|_| fail(format!("`{d}` is no dimension"))))
            .collect::<Result<_, _>>()?;
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let count = count.filter(|n| *n <= 1 << 32).ok_or_else(|| fail("too many elements".to_string()))?;
        let made = generate(ty, count, how).map_err(fail)?;
        let written = made.is_some();
        let bytes = made.unwrap_or_else(|| vec![0; count * ty.bytes()]);
        return Ok(Value::Buffer { array: Array { ty, shape, bytes }, written });
    }
    if let Some((ty, literal)) = text.split_once(':') {
        let ty = Type::named(ty).map_err(fail)?;
        return Ok(Value::Scalar(ty.literal(literal).map_err(fail)?));
    }
    if text.parse::<f64>().is_err() && !text.starts_with("0x") {
        return Err(fail(
            "expected a number (5 or u32:5), a buffer (f32[1024]=zeros), @N or a .npy file".to_string(),
        ));
    }
    let ty = Type::of_parameter(param, text)
        .map_err(|_| fail(format!("the parameter is a {param}, no number")))?;
    Ok(Value::Scalar(ty.literal(text).map_err(fail)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(text: &str) -> Array {
        match parse(text, ".u64").unwrap() {
            Value::Buffer { array, .. } => array,
            _ => panic!("{text} is no buffer"),
        }
    }

    #[test]
    fn scalars_are_exact() {
        for (text, bytes) in [
            ("u32:5", 5u32.to_le_bytes().to_vec()),
            ("i64:-3", (-3i64).to_le_bytes().to_vec()),
            ("s16:-1", vec![0xff, 0xff]),
            ("u64:0xffff_ffff_ffff_ffff", u64::MAX.to_le_bytes().to_vec()),
            ("f32:0.5", 0.5f32.to_le_bytes().to_vec()),
            ("bf16:1", vec![0x80, 0x3f]),
            ("i8:-128", vec![0x80]),
        ] {
            assert!(matches!(parse(text, ".b8").unwrap(), Value::Scalar(b) if b == bytes), "{text}");
        }
    }

    #[test]
    fn a_bare_number_has_the_parameters_type() {
        for (text, param, bytes) in [
            ("-5", ".u32", None),
            ("-5", ".s32", Some((-5i32).to_le_bytes().to_vec())),
            ("5", ".f32", Some(5f32.to_le_bytes().to_vec())),
            ("0.5", ".b32", Some(0.5f32.to_le_bytes().to_vec())),
            ("5", ".b32", Some(5u32.to_le_bytes().to_vec())),
            ("1e3", ".f64", Some(1e3f64.to_le_bytes().to_vec())),
            ("0x10", ".u64", Some(16u64.to_le_bytes().to_vec())),
            ("0.5", ".u32", None),
            ("5", ".b8[40]", None),
        ] {
            let got = parse(text, param).ok().map(|v| if let Value::Scalar(b) = v { b } else { Vec::new() });
            assert_eq!(got, bytes, "{text} for {param}");
        }
    }

    #[test]
    fn a_buffer_can_be_passed_again() {
        assert!(matches!(parse("@2", ".u64"), Ok(Value::Again { argument: 2, offset: 0 })));
        assert!(matches!(parse("@0+128", ".u64"), Ok(Value::Again { argument: 0, offset: 128 })));
    }

    #[test]
    fn generators_fill_their_shape() {
        let a = buffer("f16[2x3]=arange");
        assert_eq!((a.shape, a.bytes.len()), (vec![2, 3], 12));
        assert_eq!(Type::F16.show(&a.bytes[10..]), "5");
        let (a, b) = (buffer("f32[1000]=randn:1"), buffer("f32[1000]=randn:1"));
        assert_eq!(a.bytes, b.bytes, "a seed repeats itself");
        let values: Vec<f32> = a.bytes.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        let mean = values.iter().sum::<f32>() / 1000.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 1000.0;
        // Three standard errors: 3 / sqrt(1000), and 3 * sqrt(2 / 1000).
        assert!(mean.abs() < 0.095 && (variance - 1.0).abs() < 0.134, "{mean} {variance}");
        assert!(buffer("u8[256]=uniform:3").bytes.iter().any(|&b| b > 200));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("five", "expected a number"),
            ("@x", "expected @N or @N+BYTES"),
            ("u33:5", "unknown type `u33`; known: f64"),
            ("u8:256", "out of range: u8 holds 0 to 255"),
            ("f32:x", "`x` is no f32"),
            ("f32[3]=random", "unknown generator `random`"),
            ("f32[a]=zeros", "`a` is no dimension"),
            ("f32=zeros", "expected TYPE[SHAPE]=GENERATOR"),
            ("f32[2]=randn:x", "the seed is no number"),
            ("missing.npy", "missing.npy: No such file"),
        ] {
            let error = parse(text, ".u32").map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
