//! Arithmetic, comparison, conversion and moves: from PTX forms to lane and scalar operations.
//!
//! Forms with a vectorised loop in [`crate::exec::fast`] get it; the rest get a [`Scalar`] operation.

use super::builder::{Builder, V};
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::exec::lanes::{LaneFn, Level};
use crate::exec::scalar::{Approx, Bits, Compare, Finish, Float, Int, Prmt, Scalar, Test};
use crate::exec::soft::Round;
use crate::ptx::ast::*;
use crate::ptx::table::Op;

type Make = fn(Level) -> LaneFn;

pub fn rounding(mods: &[&str]) -> Round {
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

fn finish(i: &Instruction) -> Finish {
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
fn holder(ty: Ty) -> Ty {
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
            | Op::Prmt => self.bits(i),
            Op::Dp4a | Op::Dp2a => self.dot(i),
            Op::Set | Op::Setp | Op::Testp => self.comparison(i),
            Op::Selp | Op::Slct => self.selection(i),
            Op::Cvt => self.convert(i),
            Op::CvtPack => {
                let ty = i.form.types()[0];
                let [d, a, b] = self.operands(i)?;
                let (d, a, b) = (self.dest(d, Ty::B32)?, self.source(a, Ty::S32)?, self.source(b, Ty::S32)?);
                self.scalar(Scalar::CvtPack(ty), d, 32, &[a, b], Class::Convert);
                Ok(())
            }
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
        let sat = i.form.has("sat");
        if matches!(op, Op::Div | Op::Rem) {
            self.emit(Kind::CheckDivisor(Code::bank_of(ty)), vec![], vec![b], Class::None);
        }
        let make: Option<Make> = match (op, ty.bytes(), ty.is_signed()) {
            _ if sat => None,
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
        // Packed 16-bit integers add lane by lane of the pair; they need sm_90.
        if matches!(ty, Ty::U16x2 | Ty::S16x2) {
            return self.error(format!("`{}` needs sm_90, which is not supported yet", i.form));
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
            Op::Min => Int::Min,
            Op::Max => Int::Max,
            Op::Div => Int::Div,
            Op::Rem => Int::Rem,
            Op::Mul24 => Int::Mul24 { high: hi },
            Op::Szext => Int::Szext { clamp: i.form.has("clamp") },
            _ => return self.unsupported(i),
        };
        self.scalar(Scalar::Int(int, ty, sat), d, ty.bytes() * 8, &[a, b], Class::Integer);
        Ok(())
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
        let xorsign = i.form.has("xorsign.abs");
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
                    let op = Scalar::Float(Float::Fma, ty, mode, how);
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
            Op::Rcp if approximate => Approx::Rcp,
            Op::Sqrt if approximate => Approx::Sqrt,
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

    fn logic(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let op = i.form.op;
        let class = if ty == Ty::Pred { Class::Predicate } else { Class::Integer };
        if matches!(op, Op::Not | Op::Cnot) {
            let [d, a] = self.operands(i)?;
            let (d, a) = (self.dest(d, ty)?, self.source(a, ty)?);
            if op == Op::Cnot {
                self.scalar(Scalar::Bits(Bits::Cnot, ty.bytes() * 8), d, ty.bytes() * 8, &[a], class);
            } else {
                let make: Make = match ty.bytes() {
                    0 => fast::not_pred,
                    2 => fast::not16,
                    4 => fast::not32,
                    _ => fast::not64,
                };
                self.lane(make, d, &[a], class);
            }
            return Ok(());
        }
        let [d, a, b] = self.operands(i)?;
        let shift = matches!(op, Op::Shl | Op::Shr);
        let (d, a) = (self.dest(d, ty)?, self.source(a, ty)?);
        let b = self.source(b, if shift { Ty::U32 } else { ty })?;
        let make: Make = match (op, ty.bytes(), ty.is_signed()) {
            (Op::And, 0, _) => fast::and_pred,
            (Op::Or, 0, _) => fast::or_pred,
            (Op::Xor, 0, _) => fast::xor_pred,
            (Op::And, 2, _) => fast::and16,
            (Op::Or, 2, _) => fast::or16,
            (Op::Xor, 2, _) => fast::xor16,
            (Op::And, 4, _) => fast::and32,
            (Op::Or, 4, _) => fast::or32,
            (Op::Xor, 4, _) => fast::xor32,
            (Op::And, _, _) => fast::and64,
            (Op::Or, _, _) => fast::or64,
            (Op::Xor, _, _) => fast::xor64,
            (Op::Shl, 2, _) => fast::shl16,
            (Op::Shl, 4, _) => fast::shl32,
            (Op::Shl, _, _) => fast::shl64,
            (_, 2, false) => fast::shr_u16,
            (_, 2, true) => fast::shr_s16,
            (_, 4, false) => fast::shr_u32,
            (_, 4, true) => fast::shr_s32,
            (_, _, false) => fast::shr_u64,
            (_, _, true) => fast::shr_s64,
        };
        self.lane(make, d, &[a, b], class);
        Ok(())
    }

    fn bits(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let width = ty.bytes() * 8;
        let op = i.form.op;
        let has = |m| i.form.has(m);
        let (scalar, result, types): (Scalar, Ty, Vec<Ty>) = match op {
            Op::Popc => (Scalar::Bits(Bits::Popc, width), Ty::U32, vec![ty]),
            Op::Clz => (Scalar::Bits(Bits::Clz, width), Ty::U32, vec![ty]),
            Op::Brev => (Scalar::Bits(Bits::Brev, width), ty, vec![ty]),
            Op::Bfind => {
                (Scalar::Int(Int::Bfind { shift_amount: has("shiftamt") }, ty, false), Ty::U32, vec![ty])
            }
            Op::Bfe => (Scalar::Int(Int::Bfe, ty, false), ty, vec![ty, Ty::U32, Ty::U32]),
            Op::Bfi => (Scalar::Bits(Bits::Bfi, width), ty, vec![ty, ty, Ty::U32, Ty::U32]),
            Op::Bmsk => (Scalar::Bits(Bits::Bmsk { clamp: has("clamp") }, 32), ty, vec![Ty::U32, Ty::U32]),
            Op::Shf => {
                let bits = Bits::Shf { left: has("l"), clamp: has("clamp") };
                (Scalar::Bits(bits, 32), Ty::B32, vec![Ty::B32, Ty::B32, Ty::U32])
            }
            Op::Prmt => {
                let mode = match i.form.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
                    Some("f4e") => Prmt::F4e,
                    Some("b4e") => Prmt::B4e,
                    Some("rc8") => Prmt::Rc8,
                    Some("ecl") => Prmt::Ecl,
                    Some("ecr") => Prmt::Ecr,
                    Some("rc16") => Prmt::Rc16,
                    _ => Prmt::Generic,
                };
                (Scalar::Bits(Bits::Prmt(mode), 32), Ty::B32, vec![Ty::B32, Ty::B32, Ty::B32])
            }
            _ => {
                let [d, a, b, c, table] = self.operands(i)?;
                let Operand::Int(table) = table else {
                    return self.error("the table of lop3 must be an immediate");
                };
                let d = self.dest(d, ty)?;
                let sources = [self.source(a, ty)?, self.source(b, ty)?, self.source(c, ty)?];
                self.scalar(Scalar::Bits(Bits::Lop3(*table as u8), 32), d, 32, &sources, Class::Integer);
                return Ok(());
            }
        };
        if i.operands.len() != types.len() + 1 {
            return self.error(format!(
                "`{}` takes {} operands, {} are given",
                i.form,
                types.len() + 1,
                i.operands.len()
            ));
        }
        let d = self.dest(&i.operands[0], result)?;
        let mut sources = Vec::new();
        for (operand, ty) in i.operands[1..].iter().zip(types) {
            sources.push(self.source(operand, ty)?);
        }
        self.scalar(scalar, d, result.bytes() * 8, &sources, Class::Integer);
        Ok(())
    }

    fn dot(&mut self, i: &'a Instruction) -> Result<()> {
        let types = i.form.types();
        let (a_signed, b_signed) = (types[0].is_signed(), types[1].is_signed());
        let sum = if a_signed || b_signed { Ty::S32 } else { Ty::U32 };
        let [d, a, b, c] = self.operands(i)?;
        let d = self.dest(d, sum)?;
        let sources = [self.source(a, Ty::B32)?, self.source(b, Ty::B32)?, self.source(c, sum)?];
        let op = match i.form.op {
            Op::Dp4a => Scalar::Dp4a { a_signed, b_signed },
            _ => Scalar::Dp2a { high: i.form.has("hi"), a_signed, b_signed },
        };
        self.scalar(op, d, 32, &sources, Class::Integer);
        Ok(())
    }

    fn compare(&mut self, i: &Instruction, ty: Ty, d: V, a: V, b: V) -> Result<()> {
        let name = i.form.mods[0];
        let signed = ty.is_signed();
        let ftz = i.form.has("ftz");
        let make: Option<Make> = match (name, ty) {
            (_, Ty::F32) if !ftz => match name {
                "eq" => Some(fast::eq_f32),
                "ne" => Some(fast::ne_f32),
                "lt" => Some(fast::lt_f32),
                "le" => Some(fast::le_f32),
                "gt" => Some(fast::gt_f32),
                "ge" => Some(fast::ge_f32),
                "neu" => Some(fast::neu_f32),
                "ltu" => Some(fast::ltu_f32),
                "leu" => Some(fast::leu_f32),
                "gtu" => Some(fast::gtu_f32),
                "geu" => Some(fast::geu_f32),
                _ => None,
            },
            _ if ty.is_float() => None,
            ("eq", _) if ty.bytes() == 2 => Some(fast::eq16),
            ("ne", _) if ty.bytes() == 2 => Some(fast::ne16),
            ("eq", _) if ty.bytes() == 4 => Some(fast::eq32),
            ("ne", _) if ty.bytes() == 4 => Some(fast::ne32),
            ("eq", _) if ty.bytes() == 8 => Some(fast::eq64),
            ("ne", _) if ty.bytes() == 8 => Some(fast::ne64),
            ("lo" | "lt", _) if ty.bytes() == 4 && !signed => Some(fast::lt_u32),
            ("ls" | "le", _) if ty.bytes() == 4 && !signed => Some(fast::le_u32),
            ("hi" | "gt", _) if ty.bytes() == 4 && !signed => Some(fast::gt_u32),
            ("hs" | "ge", _) if ty.bytes() == 4 && !signed => Some(fast::ge_u32),
            ("lt", Ty::S32) => Some(fast::lt_s32),
            ("le", Ty::S32) => Some(fast::le_s32),
            ("gt", Ty::S32) => Some(fast::gt_s32),
            ("ge", Ty::S32) => Some(fast::ge_s32),
            ("lo" | "lt", _) if ty.bytes() == 8 && !signed => Some(fast::lt_u64),
            ("ls" | "le", _) if ty.bytes() == 8 && !signed => Some(fast::le_u64),
            ("hi" | "gt", _) if ty.bytes() == 8 && !signed => Some(fast::gt_u64),
            ("hs" | "ge", _) if ty.bytes() == 8 && !signed => Some(fast::ge_u64),
            ("lt", Ty::S64) => Some(fast::lt_s64),
            ("le", Ty::S64) => Some(fast::le_s64),
            ("gt", Ty::S64) => Some(fast::gt_s64),
            ("ge", Ty::S64) => Some(fast::ge_s64),
            _ => None,
        };
        if ty.is_bits() && !matches!(name, "eq" | "ne") {
            return self.error(format!("bit types compare with .eq and .ne only, not .{name}"));
        }
        if let Some(make) = make {
            self.lane(make, d, &[a, b], Class::Predicate);
            return Ok(());
        }
        let compare = match name {
            "eq" => Compare::Eq,
            "ne" => Compare::Ne,
            "lt" | "lo" => Compare::Lt,
            "le" | "ls" => Compare::Le,
            "gt" | "hi" => Compare::Gt,
            "ge" | "hs" => Compare::Ge,
            "equ" => Compare::Equ,
            "neu" => Compare::Neu,
            "ltu" => Compare::Ltu,
            "leu" => Compare::Leu,
            "gtu" => Compare::Gtu,
            "geu" => Compare::Geu,
            "num" => Compare::Num,
            _ => Compare::Nan,
        };
        self.scalar(Scalar::Compare(compare, ty, ftz), d, 1, &[a, b], Class::Predicate);
        Ok(())
    }

    fn comparison(&mut self, i: &'a Instruction) -> Result<()> {
        let types = i.form.types();
        if i.form.op == Op::Testp {
            let [d, a] = self.operands(i)?;
            let (d, a) = (self.dest(d, Ty::Pred)?, self.source(a, types[0])?);
            let test = match i.form.mods[0] {
                "finite" => Test::Finite,
                "infinite" => Test::Infinite,
                "number" => Test::Number,
                "notanumber" => Test::NotANumber,
                "normal" => Test::Normal,
                _ => Test::Subnormal,
            };
            self.scalar(Scalar::Test(test, types[0]), d, 1, &[a], Class::Predicate);
            return Ok(());
        }
        let combine = i.form.one_of(&["and", "or", "xor"]);
        let expected = if combine.is_some() { 4 } else { 3 };
        if i.operands.len() != expected {
            return self.error(format!(
                "`{}` takes {expected} operands, {} are given",
                i.form,
                i.operands.len()
            ));
        }
        let ty = types[types.len() - 1];
        let (a, b) = (self.source(&i.operands[1], holder(ty))?, self.source(&i.operands[2], holder(ty))?);
        let c = if combine.is_some() { Some(self.source(&i.operands[3], Ty::Pred)?) } else { None };
        let boolean: Make = match combine {
            Some("and") => fast::and_pred,
            Some("or") => fast::or_pred,
            _ => fast::xor_pred,
        };
        if i.form.op == Op::Set {
            let t = self.temp(Ty::Pred);
            self.compare(i, ty, t, a, b)?;
            if let Some(c) = c {
                self.lane(boolean, t, &[t, c], Class::None);
            }
            let d = self.dest(&i.operands[0], types[0])?;
            self.scalar(Scalar::SetResult(types[0]), d, 32, &[t], Class::None);
            return Ok(());
        }
        let packed = matches!(ty, Ty::F16x2 | Ty::BF16x2);
        let (p, q) = match &i.operands[0] {
            Operand::Pair(p, q) => (self.dest(p, Ty::Pred)?, Some(self.dest(q, Ty::Pred)?)),
            p => (self.dest(p, Ty::Pred)?, None),
        };
        if packed {
            let Some(q) = q else { return self.error("a packed setp needs two destinations `p|q`") };
            let single = if ty == Ty::F16x2 { Ty::F16 } else { Ty::BF16 };
            let mut results = Vec::new();
            for half in [fast::low32 as Make, fast::high32 as Make] {
                let (ha, hb, t) = (self.temp(Ty::B16), self.temp(Ty::B16), self.temp(Ty::Pred));
                self.lane(half, ha, &[a], Class::None);
                self.lane(half, hb, &[b], Class::None);
                self.compare(i, single, t, ha, hb)?;
                results.push(t);
            }
            for (d, t) in [p, q].into_iter().zip(results) {
                match c {
                    Some(c) => self.lane(boolean, d, &[t, c], Class::None),
                    None => self.lane(fast::mov_pred, d, &[t], Class::None),
                }
            }
            return Ok(());
        }
        if c.is_none() && q.is_none() {
            return self.compare(i, ty, p, a, b);
        }
        let t = self.temp(Ty::Pred);
        self.compare(i, ty, t, a, b)?;
        let inverse = q.map(|q| (q, self.temp(Ty::Pred)));
        if let Some((_, n)) = inverse {
            self.lane(fast::not_pred, n, &[t], Class::None);
        }
        // Both results use c before either is written: p may be c.
        if let Some(c) = c {
            self.lane(boolean, t, &[t, c], Class::None);
            if let Some((_, n)) = inverse {
                self.lane(boolean, n, &[n, c], Class::None);
            }
        }
        self.lane(fast::mov_pred, p, &[t], Class::None);
        if let Some((q, n)) = inverse {
            self.lane(fast::mov_pred, q, &[n], Class::None);
        }
        Ok(())
    }

    fn selection(&mut self, i: &'a Instruction) -> Result<()> {
        let types = i.form.types();
        let ty = types[0];
        let [d, a, b, c] = self.operands(i)?;
        let (d, a, b) = (self.dest(d, ty)?, self.source(a, ty)?, self.source(b, ty)?);
        if i.form.op == Op::Slct {
            let c = self.source(c, types[1])?;
            self.scalar(
                Scalar::Slct(types[1], i.form.has("ftz")),
                d,
                ty.bytes() * 8,
                &[a, b, c],
                Class::Move,
            );
            return Ok(());
        }
        let c = self.source(c, Ty::Pred)?;
        let make: Make = match ty.bytes() {
            2 => fast::selp16,
            4 => fast::selp32,
            _ => fast::selp64,
        };
        self.lane(make, d, &[a, b, c], Class::Move);
        Ok(())
    }

    fn convert(&mut self, i: &'a Instruction) -> Result<()> {
        let types = i.form.types();
        let (to, from) = (types[0], types[1]);
        let how = finish(i);
        let mode = rounding(&i.form.mods);
        let rounded = i.form.one_of(&["rn", "rz", "rm", "rp", "rna"]).is_some();
        let integral = i.form.one_of(&["rni", "rzi", "rmi", "rpi"]).is_some();
        let nearest = mode == Round::Nearest;
        let class = Class::Convert;
        if from == Ty::F32 && matches!(to, Ty::F16x2 | Ty::BF16x2 | Ty::E4M3x2 | Ty::E5M2x2) {
            let [d, a, b] = self.operands(i)?;
            self.untyped(d)?;
            let (d, a, b) = (self.dest(d, holder(to))?, self.source(a, from)?, self.source(b, from)?);
            match to {
                Ty::BF16x2 if nearest && how == Finish::default() => {
                    self.lane(fast::cvt_bf16x2_f32, d, &[a, b], class)
                }
                Ty::F16x2 if nearest && how == Finish::default() => {
                    self.lane(fast::cvt_f16x2_f32, d, &[a, b], class)
                }
                _ => self.scalar(Scalar::ConvertPair(to, mode, how), d, to.bytes() * 8, &[a, b], class),
            }
            return Ok(());
        }
        if matches!(to, Ty::E4M3x2 | Ty::E5M2x2) || matches!(from, Ty::E4M3x2 | Ty::E5M2x2) {
            let [d, a] = self.operands(i)?;
            let (d, a) = (self.dest(d, holder(to))?, self.source(a, holder(from))?);
            self.scalar(Scalar::ConvertPackedFp8(to, from, how), d, to.bytes() * 8, &[a], class);
            return Ok(());
        }
        let [d, a] = self.operands(i)?;
        if to == Ty::TF32 {
            self.untyped(d)?;
            let (d, a) = (self.dest(d, Ty::B32)?, self.source(a, Ty::F32)?);
            self.scalar(Scalar::Convert(Ty::TF32, Ty::F32, mode, how), d, 32, &[a], class);
            return Ok(());
        }
        if to.is_float() && from.is_float() && to.bytes() < from.bytes() && !rounded {
            return self.error(format!("`{}` loses precision and needs a rounding such as .rn", i.form));
        }
        if to.is_float() != from.is_float() && if to.is_float() { !rounded } else { !integral } {
            return self.error(format!("`{}` needs a rounding modifier", i.form));
        }
        let (d, d_bytes) = self.wide_dest(d, to)?;
        let a = self.wide_source(a, from)?;
        let plain = how == Finish::default();
        let make: Option<Make> = match (to, from) {
            _ if !plain => None,
            (Ty::S64 | Ty::U64, Ty::S32) if d_bytes == 8 => Some(fast::cvt_s64_s32),
            (Ty::S64 | Ty::U64, Ty::U32) if d_bytes == 8 => Some(fast::cvt_u64_u32),
            (Ty::U32 | Ty::S32, Ty::U64 | Ty::S64) if d_bytes == 4 => Some(fast::cvt_u32_u64),
            (Ty::U32 | Ty::S32, Ty::U32 | Ty::S32)
                if d_bytes == 4 && self.vregs[a as usize].bank == Bank::R32 =>
            {
                Some(fast::mov32)
            }
            (Ty::F32, Ty::S32) if nearest => Some(fast::cvt_f32_s32),
            (Ty::F32, Ty::U32) if nearest => Some(fast::cvt_f32_u32),
            (Ty::S32, Ty::F32) if mode == Round::Zero && d_bytes == 4 => Some(fast::cvt_rzi_s32_f32),
            (Ty::U32, Ty::F32) if mode == Round::Zero && d_bytes == 4 => Some(fast::cvt_rzi_u32_f32),
            (Ty::F64, Ty::F32) => Some(fast::cvt_f64_f32),
            (Ty::F32, Ty::F64) if nearest => Some(fast::cvt_f32_f64),
            (Ty::BF16, Ty::F32) if nearest => Some(fast::cvt_bf16_f32),
            (Ty::F16, Ty::F32) if nearest => Some(fast::cvt_f16_f32),
            (Ty::F32, Ty::BF16) => Some(fast::cvt_f32_bf16),
            (Ty::F32, Ty::F16) => Some(fast::cvt_f32_f16),
            _ => None,
        };
        let from_bank = self.vregs[a as usize].bank;
        let make = make.filter(|_| from_bank == Code::bank_of(from));
        if let Some(make) = make {
            self.lane(make, d, &[a], class);
            return Ok(());
        }
        let op = if to == from && to.is_float() && integral {
            Scalar::RoundIntegral(to, mode, how)
        } else {
            Scalar::Convert(to, from, mode, how)
        };
        self.scalar(op, d, d_bytes * 8, &[a], class);
        Ok(())
    }

    fn mov(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let [d, a] = self.operands(i)?;
        match (d, a) {
            (Operand::Vector(ds), a) => {
                let part = self.part_type(ty, ds.len())?;
                let a = self.source(a, ty)?;
                let mut out = Vec::new();
                for d in ds {
                    out.push(self.dest(d, part)?);
                }
                match (ty.bytes(), out.len()) {
                    (8, 2) => {
                        let t = self.temp(ty);
                        self.lane(fast::mov64, t, &[a], Class::None);
                        self.lane(fast::low64, out[0], &[t], Class::Move);
                        self.lane(fast::high64, out[1], &[t], Class::None);
                    }
                    (4, 2) => {
                        let t = self.temp(ty);
                        self.lane(fast::mov32, t, &[a], Class::None);
                        self.lane(fast::low32, out[0], &[t], Class::Move);
                        self.lane(fast::high32, out[1], &[t], Class::None);
                    }
                    _ => {
                        let (low, high) = (self.temp(Ty::B32), self.temp(Ty::B32));
                        self.lane(fast::low64, low, &[a], Class::Move);
                        self.lane(fast::high64, high, &[a], Class::None);
                        for (k, word) in [low, high].into_iter().enumerate() {
                            self.lane(fast::low32, out[2 * k], &[word], Class::None);
                            self.lane(fast::high32, out[2 * k + 1], &[word], Class::None);
                        }
                    }
                }
            }
            (d, Operand::Vector(parts)) => {
                let part = self.part_type(ty, parts.len())?;
                let d = self.dest(d, ty)?;
                let mut sources = Vec::new();
                for p in parts {
                    sources.push(self.source(p, part)?);
                }
                match (ty.bytes(), sources.len()) {
                    (8, 2) => self.lane(fast::pack64, d, &sources, Class::Move),
                    (4, 2) => self.lane(fast::pack32, d, &sources, Class::Move),
                    _ => {
                        let (low, high) = (self.temp(Ty::B32), self.temp(Ty::B32));
                        self.lane(fast::pack32, low, &sources[..2], Class::None);
                        self.lane(fast::pack32, high, &sources[2..], Class::None);
                        self.lane(fast::pack64, d, &[low, high], Class::Move);
                    }
                }
            }
            (d, a) => {
                let d = self.dest(d, ty)?;
                let a = self.source(a, ty)?;
                let make: Make = match ty.bytes() {
                    0 => fast::mov_pred,
                    2 => fast::mov16,
                    4 => fast::mov32,
                    _ => fast::mov64,
                };
                self.lane(make, d, &[a], Class::Move);
            }
        }
        Ok(())
    }

    fn part_type(&self, ty: Ty, parts: usize) -> Result<Ty> {
        match (ty.bytes(), parts) {
            (8, 2) => Ok(Ty::B32),
            (8, 4) | (4, 2) => Ok(Ty::B16),
            _ => self.error(format!("mov{ty} with a vector of {parts} is not supported")),
        }
    }
}
