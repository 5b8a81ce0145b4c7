//! Exact floating-point arithmetic by integers: one rounding, in any direction, into any format.
//!
//! Used where the host's own arithmetic does not do: directed rounding (`.rz`, `.rm`, `.rp`), 16-bit and 8-bit
//! formats. Every operation forms the exact result (or one with a sticky last bit far below the rounding point) in
//! 128 bits and rounds it once. NaN results are canonical (PTX ISA 9.7.3 leaves their payload open for f32).

/// A binary interchange format: explicit mantissa bits and exponent bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub mantissa: u32,
    pub exponent: u32,
    /// False for e4m3, whose largest exponent holds numbers and whose only NaN is all ones.
    pub has_infinity: bool,
}

pub const F16: Format = Format { mantissa: 10, exponent: 5, has_infinity: true };
pub const BF16: Format = Format { mantissa: 7, exponent: 8, has_infinity: true };
pub const F32: Format = Format { mantissa: 23, exponent: 8, has_infinity: true };
pub const F64: Format = Format { mantissa: 52, exponent: 11, has_infinity: true };
pub const E5M2: Format = Format { mantissa: 2, exponent: 5, has_infinity: true };
pub const E4M3: Format = Format { mantissa: 3, exponent: 4, has_infinity: false };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn width(self) -> u32 {
        self.mantissa + self.exponent + 1
    }

    fn sign_bit(self) -> u64 {
        1 << (self.width() - 1)
    }

    /// All exponent bits set, mantissa zero.
    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// PTX's canonical NaN: all ones but the sign; for f64 the quiet NaN of the hardware.
    pub fn nan(self) -> u64 {
        if self == F64 { 0x7ff8_0000_0000_0000 } else { self.sign_bit() - 1 }
    }

    pub fn largest(self) -> u64 {
        if self.has_infinity { self.infinity() - 1 } else { self.nan() - 1 }
    }

    pub fn is_nan(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign_bit() - 1);
        if self.has_infinity { magnitude > self.infinity() } else { magnitude == self.nan() }
    }

    /// Replaces a subnormal by a zero of its sign (`.ftz`).
    pub fn flush(self, bits: u64) -> u64 {
        let magnitude = bits & (self.sign_bit() - 1);
        if magnitude < 1 << self.mantissa { bits & self.sign_bit() } else { bits }
    }
}

/// A rounding direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A decoded number; a finite one is `mantissa * 2^exponent`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Num {
    Nan,
    Infinity(bool),
    Zero(bool),
    Finite { negative: bool, exponent: i32, mantissa: u128 },
}

pub fn decode(format: Format, bits: u64) -> Num {
    let negative = bits & format.sign_bit() != 0;
    let mantissa = bits & ((1 << format.mantissa) - 1);
    let biased = (bits >> format.mantissa) & ((1 << format.exponent) - 1);
    if format.is_nan(bits) {
        return Num::Nan;
    }
    if format.has_infinity && biased == (1 << format.exponent) - 1 {
        return Num::Infinity(negative);
    }
    let scale = 1 - format.bias() - format.mantissa as i32;
    if biased == 0 {
        if mantissa == 0 {
            return Num::Zero(negative);
        }
        return Num::Finite { negative, exponent: scale, mantissa: mantissa as u128 };
    }
    let mantissa = (mantissa | 1 << format.mantissa) as u128;
    Num::Finite { negative, exponent: scale + biased as i32 - 1, mantissa }
}

/// Rounds once. A value past the largest becomes an infinity or the largest, as the direction says; a format
/// without infinities gives its NaN there (callers that saturate do so first).
pub fn round(format: Format, mode: Round, value: Num) -> u64 {
    let (negative, exponent, mantissa) = match value {
        Num::Nan => return format.nan(),
        Num::Infinity(negative) => {
            let magnitude = if format.has_infinity { format.infinity() } else { format.nan() };
            return magnitude | if negative { format.sign_bit() } else { 0 };
        }
        Num::Zero(negative) => return if negative { format.sign_bit() } else { 0 },
        Num::Finite { negative, exponent, mantissa } => (negative, exponent, mantissa),
    };
    let leading = exponent + 127 - mantissa.leading_zeros() as i32;
    let smallest = 1 - format.bias();
    let quantum = leading.max(smallest) - format.mantissa as i32;
    let shift = quantum - exponent;
    let (kept, up) = if shift <= 0 {
        (mantissa << -shift, false)
    } else {
        let (kept, rest, half) = if shift > 127 {
            // Wholly below half of the smallest quantum.
            (0, 1u128, 2u128)
        } else {
            (mantissa >> shift, mantissa & ((1 << shift) - 1), 1u128 << (shift - 1))
        };
        let up = match mode {
            Round::Nearest => rest > half || (rest == half && kept & 1 == 1),
            Round::NearestAway => rest >= half,
            Round::Zero => false,
            Round::Down => negative && rest != 0,
            Round::Up => !negative && rest != 0,
        };
        (kept, up)
    };
    let kept = kept as u64 + up as u64;
    let magnitude = if leading < smallest {
        kept
    } else {
        (((leading + format.bias()) as u64) << format.mantissa) + kept - (1 << format.mantissa)
    };
    let magnitude = if magnitude > format.largest() {
        let to_infinity = match mode {
            Round::Nearest | Round::NearestAway => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        match (to_infinity, format.has_infinity) {
            (true, true) => format.infinity(),
            (true, false) => format.nan(),
            (false, _) => format.largest(),
        }
    } else {
        magnitude
    };
    magnitude | if negative { format.sign_bit() } else { 0 }
}

fn sign_of(x: Num) -> bool {
    match x {
        Num::Nan => false,
        Num::Infinity(s) | Num::Zero(s) => s,
        Num::Finite { negative, .. } => negative,
    }
}

pub fn negate(x: Num) -> Num {
    match x {
        Num::Nan => Num::Nan,
        Num::Infinity(s) => Num::Infinity(!s),
        Num::Zero(s) => Num::Zero(!s),
        Num::Finite { negative, exponent, mantissa } => {
            Num::Finite { negative: !negative, exponent, mantissa }
        }
    }
}

/// Shifts right, keeping a one in the last place if anything was lost.
fn shift_sticky(m: u128, by: u32) -> u128 {
    match by {
        0 => m,
        1..=127 => (m >> by) | ((m & ((1 << by) - 1) != 0) as u128),
        _ => (m != 0) as u128,
    }
}

/// The exact sum; an exact zero of opposite operands is negative only when rounding down.
pub fn add(x: Num, y: Num, mode: Round) -> Num {
    match (x, y) {
        (Num::Nan, _) | (_, Num::Nan) => Num::Nan,
        (Num::Infinity(a), Num::Infinity(b)) => {
            if a == b {
                x
            } else {
                Num::Nan
            }
        }
        (Num::Infinity(_), _) => x,
        (_, Num::Infinity(_)) => y,
        (Num::Zero(a), Num::Zero(b)) => Num::Zero(if a == b { a } else { mode == Round::Down }),
        (Num::Zero(_), _) => y,
        (_, Num::Zero(_)) => x,
        (
            Num::Finite { negative: sa, exponent: ea, mantissa: ma },
            Num::Finite { negative: sb, exponent: eb, mantissa: mb },
        ) => {
            // Leading bits at bit 125: one bit of room for the carry.
            let (ka, kb) = (ma.leading_zeros() - 2, mb.leading_zeros() - 2);
            let (mut a, mut b) = ((sa, ea - ka as i32, ma << ka), (sb, eb - kb as i32, mb << kb));
            if (b.1, b.2) > (a.1, a.2) {
                std::mem::swap(&mut a, &mut b);
            }
            let small = shift_sticky(b.2, (a.1 - b.1) as u32);
            let mantissa = if a.0 == b.0 { a.2 + small } else { a.2 - small };
            if mantissa == 0 {
                Num::Zero(mode == Round::Down)
            } else {
                Num::Finite { negative: a.0, exponent: a.1, mantissa }
            }
        }
    }
}

/// The exact product; operands have at most 63 mantissa bits.
pub fn mul(x: Num, y: Num) -> Num {
    let negative = sign_of(x) != sign_of(y);
    match (x, y) {
        (Num::Nan, _) | (_, Num::Nan) => Num::Nan,
        (Num::Infinity(_), Num::Zero(_)) | (Num::Zero(_), Num::Infinity(_)) => Num::Nan,
        (Num::Infinity(_), _) | (_, Num::Infinity(_)) => Num::Infinity(negative),
        (Num::Zero(_), _) | (_, Num::Zero(_)) => Num::Zero(negative),
        (Num::Finite { exponent: ea, mantissa: ma, .. }, Num::Finite { exponent: eb, mantissa: mb, .. }) => {
            Num::Finite { negative, exponent: ea + eb, mantissa: ma * mb }
        }
    }
}

/// The quotient with a sticky last bit, at least 64 bits wide.
pub fn div(x: Num, y: Num) -> Num {
    let negative = sign_of(x) != sign_of(y);
    match (x, y) {
        (Num::Nan, _) | (_, Num::Nan) => Num::Nan,
        (Num::Infinity(_), Num::Infinity(_)) | (Num::Zero(_), Num::Zero(_)) => Num::Nan,
        (Num::Infinity(_), _) | (_, Num::Zero(_)) => Num::Infinity(negative),
        (Num::Zero(_), _) | (_, Num::Infinity(_)) => Num::Zero(negative),
        (Num::Finite { exponent: ea, mantissa: ma, .. }, Num::Finite { exponent: eb, mantissa: mb, .. }) => {
            let shift = ma.leading_zeros();
            let wide = ma << shift;
            let quotient = wide / mb;
            let mantissa = quotient | (wide % mb != 0) as u128;
            Num::Finite { negative, exponent: ea - shift as i32 - eb, mantissa }
        }
    }
}

/// The square root with a sticky last bit.
pub fn sqrt(x: Num) -> Num {
    match x {
        Num::Nan | Num::Zero(_) | Num::Infinity(false) => x,
        Num::Infinity(true) | Num::Finite { negative: true, .. } => Num::Nan,
        Num::Finite { exponent, mantissa, .. } => {
            let mut shift = mantissa.leading_zeros() as i32;
            if (exponent - shift) % 2 != 0 {
                shift -= 1;
            }
            let wide = if shift >= 0 { mantissa << shift } else { mantissa };
            let root = wide.isqrt();
            // Two more bits of room, so that the sticky bit lies below the rounding point of any format.
            let mantissa = (root << 2) | (root * root != wide) as u128;
            Num::Finite { negative: false, exponent: (exponent - shift) / 2 - 2, mantissa }
        }
    }
}

/// a * b + c rounded once into `format`, all three in `format`.
pub fn fma_bits(format: Format, mode: Round, a: u64, b: u64, c: u64) -> u64 {
    round(format, mode, add(mul(decode(format, a), decode(format, b)), decode(format, c), mode))
}

/// Converts between formats with one rounding; NaN becomes the canonical NaN of `to`.
pub fn convert(from: Format, to: Format, mode: Round, bits: u64) -> u64 {
    round(to, mode, decode(from, bits))
}

/// Rounds an integer into `format`.
pub fn from_integer(format: Format, mode: Round, negative: bool, magnitude: u64) -> u64 {
    if magnitude == 0 {
        return 0;
    }
    round(format, mode, Num::Finite { negative, exponent: 0, mantissa: magnitude as u128 })
}

/// Rounds to an integral value, as a sign and magnitude; None for NaN. Infinities and huge values saturate.
pub fn to_integer(x: Num, mode: Round) -> Option<(bool, u128)> {
    match x {
        Num::Nan => None,
        Num::Infinity(negative) => Some((negative, u128::MAX)),
        Num::Zero(negative) => Some((negative, 0)),
        Num::Finite { negative, exponent, mantissa } => {
            if exponent >= 0 {
                let fits = (exponent as u32) < mantissa.leading_zeros();
                return Some((negative, if fits { mantissa << exponent } else { u128::MAX }));
            }
            let shift = exponent.unsigned_abs();
            let (kept, rest, half) = if shift > 127 {
                (0, 1u128, 2u128)
            } else {
                (mantissa >> shift, mantissa & ((1 << shift) - 1), 1u128 << (shift - 1))
            };
            let up = match mode {
                Round::Nearest => rest > half || (rest == half && kept & 1 == 1),
                Round::NearestAway => rest >= half,
                Round::Zero => false,
                Round::Down => negative && rest != 0,
                Round::Up => !negative && rest != 0,
            };
            Some((negative, kept + up as u128))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that meet every branch: zeros, subnormals, limits, infinities, NaN, and a spread of ordinary numbers.
    fn samples32() -> Vec<f32> {
        let mut out = vec![
            0.0,
            -0.0,
            1.0,
            -1.0,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        out.extend([
            f32::from_bits(1),
            f32::from_bits(0x007f_ffff),
            -f32::from_bits(3),
            1.0 + f32::EPSILON,
            0.1,
            3e38,
        ]);
        let mut state = 0x9e37_79b9u32;
        for _ in 0..150 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            out.push(f32::from_bits(state));
            out.push((state as i32) as f32 * 1e-6);
        }
        out
    }

    fn same32(ours: u64, host: f32) -> bool {
        if host.is_nan() { ours == 0x7fff_ffff } else { ours == host.to_bits() as u64 }
    }

    #[test]
    fn nearest_f32_agrees_with_the_host() {
        let xs = samples32();
        for &a in &xs {
            let da = decode(F32, a.to_bits() as u64);
            assert!(same32(round(F32, Round::Nearest, sqrt(da)), a.sqrt()), "sqrt {a:e}");
            for &b in &xs {
                let db = decode(F32, b.to_bits() as u64);
                assert!(
                    same32(round(F32, Round::Nearest, add(da, db, Round::Nearest)), a + b),
                    "{a:e} + {b:e}"
                );
                assert!(same32(round(F32, Round::Nearest, mul(da, db)), a * b), "{a:e} * {b:e}");
                assert!(same32(round(F32, Round::Nearest, div(da, db)), a / b), "{a:e} / {b:e}");
                let c = xs[(a.to_bits() ^ b.to_bits()) as usize % xs.len()];
                let ours =
                    fma_bits(F32, Round::Nearest, a.to_bits() as u64, b.to_bits() as u64, c.to_bits() as u64);
                assert!(same32(ours, a.mul_add(b, c)), "fma {a:e} {b:e} {c:e}");
            }
        }
    }

    #[test]
    fn nearest_f64_agrees_with_the_host() {
        let xs: Vec<f64> = samples32()
            .iter()
            .map(|&x| (x as f64) * 1.000_000_1 * 2f64.powi((x.to_bits() % 1500) as i32 - 750))
            .collect();
        let same =
            |ours: u64, host: f64| if host.is_nan() { F64.is_nan(ours) } else { ours == host.to_bits() };
        for &a in &xs {
            let da = decode(F64, a.to_bits());
            assert!(same(round(F64, Round::Nearest, sqrt(da)), a.sqrt()), "sqrt {a:e}");
            for &b in &xs {
                let db = decode(F64, b.to_bits());
                assert!(
                    same(round(F64, Round::Nearest, add(da, db, Round::Nearest)), a + b),
                    "{a:e} + {b:e}"
                );
                assert!(same(round(F64, Round::Nearest, div(da, db)), a / b), "{a:e} / {b:e}");
                let c = -(a * b) * (1.0 + 1e-16 * (a.to_bits() % 7) as f64);
                let ours = fma_bits(F64, Round::Nearest, a.to_bits(), b.to_bits(), c.to_bits());
                assert!(same(ours, a.mul_add(b, c)), "fma {a:e} {b:e} {c:e}: {:e}", f64::from_bits(ours));
            }
        }
    }

    /// Directed results bracket the exact value: equal when exact, else one step apart around it.
    #[test]
    fn directed_rounding_brackets_the_exact_sum() {
        for &a in &samples32() {
            for &b in &samples32() {
                // The f64 sum is exact for f32 operands of nearby exponents.
                let exact = a as f64 + b as f64;
                if !exact.is_finite()
                    || exact.abs() > f32::MAX as f64
                    || exact - a as f64 != b as f64
                    || exact - b as f64 != a as f64
                {
                    continue;
                }
                let (da, db) = (decode(F32, a.to_bits() as u64), decode(F32, b.to_bits() as u64));
                let at = |mode| f32::from_bits(round(F32, mode, add(da, db, mode)) as u32) as f64;
                let (down, up, zero) = (at(Round::Down), at(Round::Up), at(Round::Zero));
                assert!(down <= exact && exact <= up, "{a:e} + {b:e}: {down:e} {up:e}");
                assert_eq!(zero, if exact < 0.0 { up } else { down }, "{a:e} + {b:e}");
                assert_eq!(down == up, exact as f32 as f64 == exact, "{a:e} + {b:e}");
                if down != up && up.is_finite() && down.is_finite() {
                    assert_eq!((down as f32).next_up() as f64, up, "{a:e} + {b:e}");
                }
            }
        }
    }

    #[test]
    fn sixteen_bit_conversions_agree_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let f16 = f32::from_bits(convert(F16, F32, Round::Nearest, bits as u64) as u32);
            let expected = half::f16::from_bits(bits).to_f32();
            assert!(
                f16.to_bits() == expected.to_bits() || f16.is_nan() && expected.is_nan(),
                "f16 {bits:04x}"
            );
            let bf16 = f32::from_bits(convert(BF16, F32, Round::Nearest, bits as u64) as u32);
            let expected = half::bf16::from_bits(bits).to_f32();
            assert!(
                bf16.to_bits() == expected.to_bits() || bf16.is_nan() && expected.is_nan(),
                "bf16 {bits:04x}"
            );
        }
        // Every f32 midpoint between neighbouring f16 and bf16 values, and one step to each side.
        for high in 0..=u16::MAX {
            for low in [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits((high as u32) << 16 | low);
                if x.is_nan() {
                    continue;
                }
                assert_eq!(
                    convert(F32, F16, Round::Nearest, x.to_bits() as u64),
                    half::f16::from_f32(x).to_bits() as u64,
                    "{x:e}"
                );
                assert_eq!(
                    convert(F32, BF16, Round::Nearest, x.to_bits() as u64),
                    half::bf16::from_f32(x).to_bits() as u64,
                    "{x:e}"
                );
            }
        }
    }

    #[test]
    fn eight_bit_formats_have_their_published_limits() {
        let value = |format, bits| f32::from_bits(convert(format, F32, Round::Nearest, bits) as u32);
        assert_eq!((value(E4M3, 0x7e), value(E4M3, 0x01), value(E4M3, 0x38)), (448.0, 2f32.powi(-9), 1.0));
        assert_eq!((value(E5M2, 0x7b), value(E5M2, 0x01), value(E5M2, 0x3c)), (57344.0, 2f32.powi(-16), 1.0));
        assert!(value(E4M3, 0x7f).is_nan() && value(E5M2, 0x7c).is_infinite());
    }
}
