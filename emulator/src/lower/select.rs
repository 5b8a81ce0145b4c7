//! Arithmetic: from PTX forms to lane and scalar operations (PTX ISA 9.7.1 to 9.7.5), and the way to other modules.
//!
//! Forms with a vectorised loop in [`crate::exec::fast`] get it; the rest get a [`Scalar`] operation.

use super::builder::{Builder, V};
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::exec::lanes::{LaneFn, Level};
use crate::exec::scalar::{Approx, Finish, Float, Int, Scalar};
use crate::exec::soft::Round;
use crate::ptx::ast::*;
use crate::ptx::table::Op;

/// Gives the lane operation for a processor's level.
pub(super) type Make = fn(Level) -> LaneFn;

pub(super) fn rounding(mods: &[&str]) -> Round {
    for m in mods {
        match *m {
            "rz" | "rzi" => return Round::Zero,
            "rm" | "rmi" => return Round::Down,
            "rp" | "rpi" => return Round::Up,
            "rna" => return Round::NearestAway,
            _ => {}
        }
    }
    Round::Nearest
}

pub(super) fn finish(i: &Instruction) -> Finish {
    let has = |m| i.form.has(m);
    Finish { ftz: has("ftz"), sat: has("sat"), relu: has("relu"), satfinite: has("satfinite") }
}

fn float_class(ty: Ty) -> Class {
    match ty {
        Ty::F64 => Class::Float64,
        Ty::F32 => Class::Float32,
        _ => Class::Half,
    }
}

/// The register type that holds an operand of instruction type `ty`.
pub(super) fn holder(ty: Ty) -> Ty {
    match ty {
        Ty::BF16 | Ty::F16 => ty,
        Ty::BF16x2 | Ty::F16x2 | Ty::U16x2 | Ty::S16x2 | Ty::TF32 => Ty::B32,
        Ty::E4M3x2 | Ty::E5M2x2 => Ty::B16,
        _ => ty,
    }
}

impl<'a> Builder<'_, 'a> {
    pub fn select(&mut self, i: &'a Instruction) -> Result<()> {
        match i.form.op {
            Op::Add | Op::Sub | Op::Mul | Op::Min | Op::Max | Op::Div | Op::Rem => self.binary(i),
            Op::Mad | Op::Fma | Op::Sad | Op::Mad24 => self.ternary(i),
            Op::Abs
            | Op::Neg
            | Op::Rcp
            | Op::Sqrt
            | Op::Rsqrt
            | Op::Sin
            | Op::Cos
            | Op::Lg2
            | Op::Ex2
            | Op::Tanh => self.unary(i),
            Op::Mul24 | Op::Szext | Op::Copysign => self.binary(i),
            Op::AddC | Op::SubC | Op::MadC => self.carry_chain(i),
            Op::And | Op::Or | Op::Xor | Op::Not | Op::Cnot | Op::Shl | Op::Shr => self.logic(i),
            Op::Popc
            | Op::Clz
            | Op::Brev
            | Op::Bfind
            | Op::Bfe
            | Op::Bfi
            | Op::Bmsk
            | Op::Lop3
            | Op::Shf
            | Op::Fns
            | Op::Prmt => self.bits(i),
            Op::Dp4a | Op::Dp2a => self.dot(i),
            Op::Set | Op::Setp | Op::Testp => self.comparison(i),
            Op::Selp | Op::Slct => self.selection(i),
            Op::Cvt => self.convert(i),
            Op::CvtPack => self.convert_pack(i),
            Op::Video => self.video(i),
            Op::Mov => self.mov(i),
            _ => self.select_memory(i),
        }
    }

    fn binary(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let op = i.form.op;
        if i.form.has("cc") {
            return self.carry_chain(i);
        }
        let wide = i.form.has("wide");
        let dty = match (wide, ty) {
            (true, Ty::U16) => Ty::U32,
            (true, Ty::S16) => Ty::S32,
            (true, Ty::U32) => Ty::U64,
            (true, Ty::S32) => Ty::S64,
            _ => holder(ty),
        };
        let [d, a, b] = self.operands(i)?;
        let (d, a, b) = (
            self.dest(d, dty)?,
            self.source(a, holder(ty))?,
            self.source(b, if op == Op::Szext { Ty::U32 } else { holder(ty) })?,
        );
        if ty.is_float() || op == Op::Copysign {
            return self.float_binary(i, ty, d, a, b);
        }
        let hi = i.form.has("hi");
        let (sat, relu) = (i.form.has("sat"), i.form.has("relu"));
        if matches!(op, Op::Div | Op::Rem) {
            self.emit(Kind::CheckDivisor(Code::bank_of(ty)), vec![], vec![b], Class::None);
        }
        let make: Option<Make> = match (op, ty.bytes(), ty.is_signed()) {
            _ if sat || relu => None,
            (Op::Add, 2, _) => Some(fast::add16),
            (Op::Add, 4, _) => Some(fast::add32),
            (Op::Add, 8, _) => Some(fast::add64),
            (Op::Sub, 2, _) => Some(fast::sub16),
            (Op::Sub, 4, _) => Some(fast::sub32),
            (Op::Sub, 8, _) => Some(fast::sub64),
            (Op::Mul, 2, false) if wide => Some(fast::mul_wide_u16),
            (Op::Mul, 2, true) if wide => Some(fast::mul_wide_s16),
            (Op::Mul, 4, false) if wide => Some(fast::mul_wide_u32),
            (Op::Mul, 4, true) if wide => Some(fast::mul_wide_s32),
            (Op::Mul, 4, false) if hi => Some(fast::mul_hi_u32),
            (Op::Mul, 4, true) if hi => Some(fast::mul_hi_s32),
            (Op::Mul, 2, _) if !hi => Some(fast::mul16),
            (Op::Mul, 4, _) if !hi => Some(fast::mul32),
            (Op::Mul, 8, _) if !hi => Some(fast::mul64),
            (Op::Min, 4, false) => Some(fast::min_u32),
            (Op::Min, 4, true) => Some(fast::min_s32),
            (Op::Min, 8, false) => Some(fast::min_u64),
            (Op::Min, 8, true) => Some(fast::min_s64),
            (Op::Max, 4, false) => Some(fast::max_u32),
            (Op::Max, 4, true) => Some(fast::max_s32),
            (Op::Max, 8, false) => Some(fast::max_u64),
            (Op::Max, 8, true) => Some(fast::max_s64),
            _ => None,
        };
        if matches!(ty, Ty::U16x2 | Ty::S16x2) {
            self.packed(i, ty.is_signed(), d, a, b);
            return Ok(());
        }
        if let Some(make) = make {
            self.lane(make, d, &[a, b], Class::Integer);
            return Ok(());
        }
        let int = match op {
            Op::Add => Int::Add,
            Op::Sub => Int::Sub,
            Op::Mul if hi => Int::MulHi,
            Op::Mul => Int::MulLo,
            Op::Min => Int::Min { relu },
            Op::Max => Int::Max { relu },
            Op::Div => Int::Div,
            Op::Rem => Int::Rem,
            Op::Mul24 => Int::Mul24 { high: hi },
            Op::Szext => Int::Szext { clamp: i.form.has("clamp") },
            _ => return self.unsupported(i),
        };
        self.scalar(Scalar::Int(int, ty, sat), d, ty.bytes() * 8, &[a, b], Class::Integer);
        Ok(())
    }

    /// add, min and max of packed 16-bit integers, half by half.
    fn packed(&mut self, i: &Instruction, signed: bool, d: V, a: V, b: V) {
        let half = if signed { Ty::S16 } else { Ty::U16 };
        let relu = i.form.has("relu");
        let int = match i.form.op {
            Op::Min => Int::Min { relu },
            Op::Max => Int::Max { relu },
            _ => Int::Add,
        };
        let mut parts = Vec::new();
        for take in [fast::low32, fast::high32] {
            let (x, y, r) = (self.temp(half), self.temp(half), self.temp(half));
            self.lane(take, x, &[a], Class::None);
            self.lane(take, y, &[b], Class::None);
            self.scalar(Scalar::Int(int, half, false), r, 16, &[x, y], Class::None);
            parts.push(r);
        }
        self.lane(fast::pack32, d, &parts, Class::Integer);
    }

    pub fn unsupported<T>(&self, i: &Instruction) -> Result<T> {
        self.error(format!("`{}` is not supported", i.form))
    }

    fn float_binary(&mut self, i: &'a Instruction, ty: Ty, d: V, a: V, b: V) -> Result<()> {
        let op = i.form.op;
        let how = finish(i);
        let mode = rounding(&i.form.mods);
        let class = float_class(ty);
        let plain = mode == Round::Nearest && how == Finish::default();
        let plain_ftz = mode == Round::Nearest && how == Finish { ftz: true, ..Finish::default() };
        let nan = i.form.has("NaN");
        let xorsign = i.form.has("xorsign");
        let approximate = i.form.has("approx") || i.form.has("full");
        let make: Option<Make> = match (op, ty) {
            (Op::Add, Ty::F32) if plain => Some(fast::add_f32),
            (Op::Sub, Ty::F32) if plain => Some(fast::sub_f32),
            (Op::Mul, Ty::F32) if plain => Some(fast::mul_f32),
            (Op::Add, Ty::F32) if plain_ftz => Some(fast::add_ftz_f32),
            (Op::Sub, Ty::F32) if plain_ftz => Some(fast::sub_ftz_f32),
            (Op::Mul, Ty::F32) if plain_ftz => Some(fast::mul_ftz_f32),
            (Op::Div, Ty::F32) if plain && !approximate => Some(fast::div_f32),
            (Op::Min, Ty::F32) if plain && !nan && !xorsign => Some(fast::min_f32),
            (Op::Max, Ty::F32) if plain && !nan && !xorsign => Some(fast::max_f32),
            (Op::Add, Ty::F64) if plain => Some(fast::add_f64),
            (Op::Sub, Ty::F64) if plain => Some(fast::sub_f64),
            (Op::Mul, Ty::F64) if plain => Some(fast::mul_f64),
            (Op::Div, Ty::F64) if plain => Some(fast::div_f64),
            _ => None,
        };
        let lanes = if matches!(ty, Ty::F16x2 | Ty::BF16x2) { 2 } else { 1 };
        if let Some(make) = make {
            self.lane(make, d, &[a, b], class);
        } else if approximate {
            self.scalar(Scalar::Approx(Approx::Div, ty, how.ftz), d, 32, &[a, b], Class::Special);
        } else {
            let float = match op {
                Op::Add => Float::Add,
                Op::Sub => Float::Sub,
                Op::Mul => Float::Mul,
                Op::Div => Float::Div,
                Op::Min if xorsign => Float::MinXorsign { nan },
                Op::Max if xorsign => Float::MaxXorsign { nan },
                Op::Min => Float::Min { nan },
                Op::Max => Float::Max { nan },
                Op::Copysign => Float::Copysign,
                _ => return self.unsupported(i),
            };
            self.scalar(Scalar::Float(float, ty, mode, how), d, ty.bytes() * 8, &[a, b], class);
        }
        if matches!(op, Op::Add | Op::Sub | Op::Mul | Op::Div) {
            self.emit_flops(lanes);
        }
        Ok(())
    }

    fn ternary(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let op = i.form.op;
        if i.form.has("cc") {
            return self.carry_chain(i);
        }
        let wide = i.form.has("wide");
        let dty = match (wide, ty) {
            (true, Ty::U16) => Ty::U32,
            (true, Ty::S16) => Ty::S32,
            (true, Ty::U32) => Ty::U64,
            (true, Ty::S32) => Ty::S64,
            _ => holder(ty),
        };
        let [d, a, b, c] = self.operands(i)?;
        let d = self.dest(d, dty)?;
        let (a, b, c) = (self.source(a, holder(ty))?, self.source(b, holder(ty))?, self.source(c, dty)?);
        if ty.is_float() {
            let how = finish(i);
            let mode = rounding(&i.form.mods);
            let nearest = mode == Round::Nearest;
            let make: Option<Make> = match ty {
                Ty::F32 if nearest && how == Finish::default() => Some(fast::fma_f32),
                Ty::F32 if nearest && how == (Finish { ftz: true, ..Finish::default() }) => {
                    Some(fast::fma_ftz_f32)
                }
                Ty::F64 if nearest => Some(fast::fma_f64),
                _ => None,
            };
            match make {
                Some(make) => self.lane(make, d, &[a, b, c], float_class(ty)),
                None => {
                    let float = if i.form.has("oob") { Float::FmaOob } else { Float::Fma };
                    let op = Scalar::Float(float, ty, mode, how);
                    self.scalar(op, d, ty.bytes() * 8, &[a, b, c], float_class(ty));
                }
            }
            self.emit_flops(if matches!(ty, Ty::F16x2 | Ty::BF16x2) { 4 } else { 2 });
            return Ok(());
        }
        let hi = i.form.has("hi");
        let make: Option<Make> = match (op, ty.bytes(), ty.is_signed()) {
            (Op::Mad, 4, false) if wide => Some(fast::mad_wide_u32),
            (Op::Mad, 4, true) if wide => Some(fast::mad_wide_s32),
            (Op::Mad, 4, _) if !hi && !wide => Some(fast::mad32),
            (Op::Mad, 8, _) if !hi => Some(fast::mad64),
            _ => None,
        };
        if let Some(make) = make {
            self.lane(make, d, &[a, b, c], Class::Integer);
            return Ok(());
        }
        let int = match op {
            Op::Mad if wide => Int::MadWide,
            Op::Mad if hi => Int::MadHi,
            Op::Mad => Int::MadLo,
            Op::Mad24 => Int::Mad24 { high: hi },
            Op::Sad => Int::Sad,
            _ => return self.unsupported(i),
        };
        // mad.wide of 16 bits: the addend is 32 bits wide and taken as it is.
        let scalar = if int == Int::MadWide && ty.bytes() == 2 {
            let t = self.temp(dty);
            self.lane(
                if ty.is_signed() { fast::mul_wide_s16 } else { fast::mul_wide_u16 },
                t,
                &[a, b],
                Class::Integer,
            );
            self.lane(fast::add32, d, &[t, c], Class::None);
            return Ok(());
        } else {
            Scalar::Int(int, ty, i.form.has("sat"))
        };
        self.scalar(scalar, d, dty.bytes() * 8, &[a, b, c], Class::Integer);
        Ok(())
    }

    fn unary(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let op = i.form.op;
        let [d, a] = self.operands(i)?;
        let (d, a) = (self.dest(d, holder(ty))?, self.source(a, holder(ty))?);
        let how = finish(i);
        let mode = rounding(&i.form.mods);
        let approximate = i.form.has("approx");
        let plain = mode == Round::Nearest && !how.ftz;
        let make: Option<Make> = match (op, ty) {
            (Op::Neg, Ty::S32) => Some(fast::neg32),
            (Op::Neg, Ty::S64) => Some(fast::neg64),
            (Op::Abs, Ty::S32) => Some(fast::abs32),
            (Op::Neg, Ty::F32) if plain => Some(fast::neg_f32),
            (Op::Abs, Ty::F32) if plain => Some(fast::abs_f32),
            (Op::Neg, Ty::F64) => Some(fast::neg_f64),
            (Op::Abs, Ty::F64) => Some(fast::abs_f64),
            (Op::Sqrt, Ty::F32) if plain && !approximate => Some(fast::sqrt_f32),
            (Op::Rcp, Ty::F32) if plain && !approximate => Some(fast::rcp_f32),
            (Op::Sqrt, Ty::F64) if plain => Some(fast::sqrt_f64),
            _ => None,
        };
        if let Some(make) = make {
            self.lane(make, d, &[a], if ty.is_float() { float_class(ty) } else { Class::Integer });
            return Ok(());
        }
        let bits = ty.bytes() * 8;
        if !ty.is_float() {
            let int = if op == Op::Abs { Int::Abs } else { Int::Neg };
            self.scalar(Scalar::Int(int, ty, false), d, bits, &[a], Class::Integer);
            return Ok(());
        }
        let approx = match op {
            Op::Sqrt if approximate => Approx::Sqrt,
            Op::Rcp if approximate && ty == Ty::F64 => Approx::RcpUpper,
            Op::Rcp if approximate => Approx::Rcp,
            Op::Rsqrt if how.ftz && ty == Ty::F64 => Approx::RsqrtUpper,
            Op::Rsqrt => Approx::Rsqrt,
            Op::Sin => Approx::Sin,
            Op::Cos => Approx::Cos,
            Op::Lg2 => Approx::Lg2,
            Op::Ex2 => Approx::Ex2,
            Op::Tanh => Approx::Tanh,
            _ => {
                let float = match op {
                    Op::Rcp => Float::Rcp,
                    Op::Sqrt => Float::Sqrt,
                    Op::Abs => Float::Abs,
                    Op::Neg => Float::Neg,
                    _ => return self.unsupported(i),
                };
                self.scalar(Scalar::Float(float, ty, mode, how), d, bits, &[a], float_class(ty));
                return Ok(());
            }
        };
        self.scalar(Scalar::Approx(approx, ty, how.ftz), d, bits, &[a], Class::Special);
        Ok(())
    }

    /// add.cc, addc, sub.cc, subc, mad.cc, madc: the carry flag is a predicate register of the function.
    fn carry_chain(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let width = ty.bytes() * 8;
        let cc = self.carry();
        let borrow = matches!(i.form.op, Op::Sub | Op::SubC);
        let carry_in =
            if matches!(i.form.op, Op::AddC | Op::SubC | Op::MadC) { cc } else { self.constant(0, Ty::Pred) };
        let (d, a, b) = if matches!(i.form.op, Op::Mad | Op::MadC) {
            let [d, a, b, c] = self.operands(i)?;
            let d = self.dest(d, ty)?;
            let (a, b, c) = (self.source(a, ty)?, self.source(b, ty)?, self.source(c, ty)?);
            let product = self.temp(ty);
            let int = if i.form.has("hi") { Int::MulHi } else { Int::MulLo };
            self.scalar(Scalar::Int(int, ty, false), product, width, &[a, b], Class::None);
            (d, product, c)
        } else {
            let [d, a, b] = self.operands(i)?;
            (self.dest(d, ty)?, self.source(a, ty)?, self.source(b, ty)?)
        };
        let out = i.form.has("cc").then(|| self.temp(Ty::Pred));
        if let Some(out) = out {
            self.scalar(Scalar::CarryOut(width, borrow), out, 1, &[a, b, carry_in], Class::None);
        }
        self.scalar(Scalar::AddCarry(borrow), d, width, &[a, b, carry_in], Class::Integer);
        if let Some(out) = out {
            self.lane(fast::mov_pred, cc, &[out], Class::None);
        }
        Ok(())
    }
}
