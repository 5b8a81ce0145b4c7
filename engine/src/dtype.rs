//! Runtime dtypes, and the element types behind them.

use half::{bf16, f16};

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16: 5 exponent bits, largest finite value 65504.
    F16,
    /// The upper half of an f32: 8 exponent bits, 8 significant bits.
    BF16,
    /// Token ids, targets and masks.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Whether gradients of this dtype exist.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::I32)
    }

    /// Distance between 1 and the next larger value.
    pub const fn epsilon(self) -> f64 {
        match self {
            DType::F32 => 1.192_092_895_507_812_5e-7, // 2^-23
            DType::F16 => 9.765_625e-4,               // 2^-10
            DType::BF16 => 7.812_5e-3,                // 2^-7
            DType::I32 => 1.0,
        }
    }

    /// The same type as the kernels name it.
    pub const fn elem(self) -> handloom_kernels::elem::Elem {
        use handloom_kernels::elem::Elem;
        match self {
            DType::F32 => Elem::F32,
            DType::F16 => Elem::F16,
            DType::BF16 => Elem::BF16,
            DType::I32 => Elem::I32,
        }
    }

    /// The name used in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A type a buffer can hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    const DTYPE: DType;
}

/// A floating-point storage type; all arithmetic on it happens in f32.
pub trait Float: Element {
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even; overflow gives infinity, NaN stays NaN.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

// The conversions below are free of branches so that loops over them vectorise; the `half` crate's
// scalar ones test the CPU's features per element. Tests compare them with `half` exhaustively.

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
        bf16::from_bits(if is_nan { quiet } else { rounded } as u16)
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let h = self.to_bits() as u32;
        let sign = (h & 0x8000) << 16;
        let magnitude = h & 0x7fff;
        // Exponent and mantissa moved into f32 position are too small by 2^(127-15): one exact multiply
        // corrects normal and subnormal values alike.
        let scaled = (f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000)).to_bits(); // 2^112
        let special = (magnitude << 13) | 0x7f80_0000;
        f32::from_bits(sign | if magnitude >= 0x7c00 { special } else { scaled })
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let sign = (bits >> 16) & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // Normal range: rebias the exponent and round the 13 dropped bits to even.
        let rebased = magnitude.wrapping_sub(112 << 23);
        let normal = rebased.wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
        // Below 2^-14 the f32 adder does the rounding: 0.5 has the f16 subnormal unit as its last bit.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
        let overflow = if magnitude > 0x7f80_0000 { 0x7e00 | ((magnitude >> 13) & 0x3ff) } else { 0x7c00 };
        let half = if magnitude < (113 << 23) {
            subnormal
        } else if magnitude >= 0x4780_0000 {
            overflow // 65536 and above; 65520..65536 rounds up into infinity by carry
        } else {
            normal
        };
        f16::from_bits((sign | half) as u16)
    }
}

/// Runs `$body` with `$E` bound to the element type of a float dtype; any other dtype is an error.
#[macro_export]
macro_rules! dispatch_float {
    ($dtype:expr, $op:expr, $what:expr, |$E:ident| $body:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => {
                type $E = f32;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::dtype::DType::BF16 => {
                type $E = half::bf16;
                $body
            }
            got => {
                Err($crate::error::Error::DType { op: $op, what: $what, expected: "f32, f16 or bf16", got })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_value_widens_like_the_half_crate() {
        for bits in 0..=u16::MAX {
            let h = f16::from_bits(bits);
            assert_eq!(
                Float::to_f32(h).to_bits() << 10 >> 10,
                h.to_f32().to_bits() << 10 >> 10,
                "f16 {bits:#06x}"
            );
            assert_eq!(Float::to_f32(h).is_nan(), h.is_nan());
            let b = bf16::from_bits(bits);
            assert!(Float::to_f32(b).to_bits() == b.to_f32().to_bits() || b.is_nan(), "bf16 {bits:#06x}");
        }
    }

    #[test]
    fn narrowing_rounds_like_the_half_crate() {
        // Every f16 neighbourhood (value, and the midpoints to its neighbours +-1 ulp of f32), and a stride
        // over all f32 bit patterns.
        let around = (0..=0x7c00u16).flat_map(|h| {
            let bits = f16::from_bits(h).to_f32().to_bits();
            [0i64, 1, -1, 0x1000, 0xfff, 0x1001].map(|d| (bits as i64 + d).max(0) as u32)
        });
        let strided = (0..=u32::MAX).step_by(9973);
        for bits in around.chain(strided).chain([0x7f80_0000, 0xff80_0000, 0x477f_efff, 0x477f_f000]) {
            for bits in [bits, bits | 0x8000_0000] {
                let x = f32::from_bits(bits);
                let (h, b) = (<f16 as Float>::from_f32(x), <bf16 as Float>::from_f32(x));
                if x.is_nan() {
                    assert!(h.is_nan() && b.is_nan(), "{bits:#010x}");
                } else {
                    assert_eq!(h.to_bits(), f16::from_f32(x).to_bits(), "f16 of {x:e} ({bits:#010x})");
                    assert_eq!(b.to_bits(), bf16::from_f32(x).to_bits(), "bf16 of {x:e} ({bits:#010x})");
                }
            }
        }
    }
}
