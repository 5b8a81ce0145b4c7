//! Logic, shifts, bit fields and dot products (PTX ISA 9.7.1 and 9.7.8).

use super::builder::Builder;
use super::select::Make;
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::exec::scalar::{Bits, Int, Prmt, Scalar};
use crate::ptx::ast::*;
use crate::ptx::table::Op;

impl<'a> Builder<'_, 'a> {
    pub(super) fn logic(&mut self, i: &'a Instruction) -> Result<()> {
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

    pub(super) fn bits(&mut self, i: &'a Instruction) -> Result<()> {
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
            Op::Fns => (Scalar::Bits(Bits::Fns, 32), Ty::B32, vec![Ty::B32, Ty::B32, Ty::S32]),
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
                return self.lop3(i);
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

    /// lop3, and lop3.and or .or, whose predicate joins "the result is not zero" with another.
    fn lop3(&mut self, i: &'a Instruction) -> Result<()> {
        let boolean: Option<Make> = match i.form.one_of(&["and", "or"]) {
            Some("and") => Some(fast::and_pred),
            Some(_) => Some(fast::or_pred),
            None => None,
        };
        if i.operands.len() != 5 + boolean.is_some() as usize {
            return self.error(format!("`{}` has the wrong number of operands", i.form));
        }
        let Operand::Int(table) = i.operands[4] else {
            return self.error("the table of lop3 must be an immediate");
        };
        let (d, p) = match (&i.operands[0], boolean) {
            (Operand::Pair(d, p), Some(_)) => (self.dest(d, Ty::B32)?, Some(self.dest(p, Ty::Pred)?)),
            (_, Some(_)) => return self.error(format!("`{}` has two destinations, d|p", i.form)),
            (d, None) => (self.dest(d, Ty::B32)?, None),
        };
        let mut sources = [0; 3];
        for (s, operand) in sources.iter_mut().zip(&i.operands[1..4]) {
            *s = self.source(operand, Ty::B32)?;
        }
        self.scalar(Scalar::Bits(Bits::Lop3(table as u8), 32), d, 32, &sources, Class::Integer);
        if let (Some(p), Some(boolean)) = (p, boolean) {
            let q = self.source(&i.operands[5], Ty::Pred)?;
            let (t, zero) = (self.temp(Ty::Pred), self.constant(0, Ty::B32));
            self.lane(fast::ne32, t, &[d, zero], Class::None);
            self.lane(boolean, p, &[t, q], Class::None);
        }
        Ok(())
    }

    pub(super) fn dot(&mut self, i: &'a Instruction) -> Result<()> {
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
}
