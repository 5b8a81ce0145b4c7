//! Video instructions (PTX ISA 9.7.18): arithmetic on bytes, half-words and words selected from 32-bit registers.

/// The operation on selected parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoOp {
    Add,
    Sub,
    AbsDiff,
    Average,
    Min,
    Max,
    Shl,
    Shr,
    /// 1 where the comparison holds.
    Set(Relation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What becomes of the result and the third operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secondary {
    None,
    Add,
    Min,
    Max,
}

/// A part of a register: first bit and bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub at: u8,
    pub bits: u8,
}

pub const WORD: Part = Part { at: 0, bits: 32 };

impl Part {
    fn take(self, word: u64, signed: bool) -> i64 {
        let v = word as u32 >> self.at;
        let unused = 32 - self.bits as u32;
        if signed { ((v << unused) as i32 >> unused) as i64 } else { (v << unused >> unused) as i64 }
    }

    /// `word` with this part replaced.
    fn put(self, word: u32, value: i64) -> u32 {
        let mask = (u32::MAX >> (32 - self.bits)) << self.at;
        word & !mask | (value as u32) << self.at & mask
    }

    fn clamp(self, value: i64, signed: bool) -> i64 {
        let high = 1i64 << (self.bits - signed as u8);
        value.clamp(if signed { -high } else { 0 }, high - 1)
    }
}

/// A scalar video instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar {
    pub op: VideoOp,
    /// Of the result with the third operand, of a, and of b.
    pub signed: [bool; 3],
    pub saturate: bool,
    /// Shift counts are cut to five bits instead of clamped to 32.
    pub wrap: bool,
    pub secondary: Secondary,
    /// The part of the third operand that the result replaces.
    pub merge: Option<Part>,
    pub a: Part,
    pub b: Part,
}

fn operate(op: VideoOp, a: i64, b: i64) -> i64 {
    match op {
        VideoOp::Add => a + b,
        VideoOp::Sub => a - b,
        VideoOp::AbsDiff => (a - b).abs(),
        // Halves of sums below zero are rounded down, others up.
        VideoOp::Average => (a + b + (a + b >= 0) as i64) >> 1,
        VideoOp::Min => a.min(b),
        VideoOp::Max => a.max(b),
        VideoOp::Shl => a << b,
        VideoOp::Shr => a >> b,
        VideoOp::Set(relation) => match relation {
            Relation::Eq => (a == b) as i64,
            Relation::Ne => (a != b) as i64,
            Relation::Lt => (a < b) as i64,
            Relation::Le => (a <= b) as i64,
            Relation::Gt => (a > b) as i64,
            Relation::Ge => (a >= b) as i64,
        },
    }
}

pub fn scalar(v: &Scalar, a: u64, b: u64, c: u64) -> u32 {
    let [signed, a_signed, b_signed] = v.signed;
    let (a, mut b) = (v.a.take(a, a_signed), v.b.take(b, b_signed));
    if matches!(v.op, VideoOp::Shl | VideoOp::Shr) {
        b = if v.wrap { b & 31 } else { b.min(32) };
    }
    let mut result = operate(v.op, a, b);
    if v.saturate {
        result = v.merge.unwrap_or(WORD).clamp(result, signed);
    }
    let third = WORD.take(c, signed);
    result = match v.secondary {
        Secondary::None => result,
        Secondary::Add => result + third,
        Secondary::Min => result.min(third),
        Secondary::Max => result.max(third),
    };
    v.merge.map_or(result as u32, |part| part.put(c as u32, result))
}

/// vmad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyAdd {
    pub a_signed: bool,
    pub b_signed: bool,
    pub a: Part,
    pub b: Part,
    pub negate_product: bool,
    pub negate_c: bool,
    pub plus_one: bool,
    pub saturate: bool,
    pub shift: u8,
}

pub fn multiply_add(v: &MultiplyAdd, a: u64, b: u64, c: u64) -> u32 {
    let signed = v.a_signed || v.b_signed || v.negate_product || v.negate_c;
    let product = v.a.take(a, v.a_signed) as i128 * v.b.take(b, v.b_signed) as i128;
    let product = if v.negate_product { -product } else { product };
    let c = if v.negate_c { !(c as u32) } else { c as u32 };
    let c = if signed { c as i32 as i128 } else { c as i128 };
    let result = (product + c + (v.plus_one || v.negate_c) as i128) >> v.shift;
    match (v.saturate, signed) {
        (false, _) => result as u32,
        (true, true) => result.clamp(i32::MIN as i128, i32::MAX as i128) as u32,
        (true, false) => result.clamp(0, u32::MAX as i128) as u32,
    }
}

/// An instruction on two half-words or four bytes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd {
    pub op: VideoOp,
    /// 2 or 4.
    pub lanes: u8,
    /// Of the result, of a, and of b.
    pub signed: [bool; 3],
    pub saturate: bool,
    /// Results are added to the third operand instead of put into it.
    pub accumulate: bool,
    /// Lanes whose results count.
    pub mask: u8,
    /// For each lane, which part of a (the first ones) or b it takes.
    pub a: [u8; 4],
    pub b: [u8; 4],
}

pub fn simd(v: &Simd, a: u64, b: u64, c: u64) -> u32 {
    let bits = 32 / v.lanes;
    let both = b << 32 | a & 0xffff_ffff;
    let part = |index: u8, signed| Part { at: 0, bits }.take(both >> (bits * index), signed);
    let mut out = c as u32;
    for lane in (0..v.lanes).filter(|lane| v.mask >> lane & 1 != 0) {
        let place = Part { at: bits * lane, bits };
        let (x, y) = (part(v.a[lane as usize], v.signed[1]), part(v.b[lane as usize], v.signed[2]));
        let mut result = operate(v.op, x, y);
        if v.saturate {
            result = place.clamp(result, v.signed[0]);
        }
        out = if v.accumulate { out.wrapping_add(result as u32) } else { place.put(out, result) };
    }
    out
}
