//! Conversions and moves: cvt and mov (PTX ISA 9.7.9).

use super::builder::Builder;
use super::select::{Make, finish, holder, rounding};
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::exec::scalar::{Finish, Scalar};
use crate::exec::soft::Round;
use crate::ptx::ast::*;

/// True if an integer type holds every value of another.
fn holds(to: Ty, from: Ty) -> bool {
    let wider = match (to.is_signed(), from.is_signed()) {
        (true, false) => to.bytes() > from.bytes(),
        (false, true) => false,
        _ => to.bytes() >= from.bytes(),
    };
    !to.is_float() && !from.is_float() && wider
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn convert(&mut self, i: &'a Instruction) -> Result<()> {
        let types = i.form.types();
        let (to, from) = (types[0], types[1]);
        let how = finish(i);
        let mode = rounding(&i.form.mods);
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
        if how.sat && holds(to, from) {
            return self.error(format!("`{}` has nothing to saturate: {to} holds every {from}", i.form));
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

    /// cvt.pack: two numbers saturated to two parts of a word; parts below 16 bits shift into what c holds.
    pub(super) fn convert_pack(&mut self, i: &'a Instruction) -> Result<()> {
        let part = i.form.one_of(&["u2", "s2", "u4", "s4", "u8", "s8", "u16", "s16"]).unwrap_or("u16");
        let (bits, signed) = (part[1..].parse().unwrap_or(16), part.starts_with('s'));
        let inserts = bits < 16;
        if i.operands.len() != 3 + inserts as usize {
            return self.error(format!("`{}` has the wrong number of operands", i.form));
        }
        let d = self.dest(&i.operands[0], Ty::B32)?;
        let mut sources = vec![self.source(&i.operands[1], Ty::S32)?, self.source(&i.operands[2], Ty::S32)?];
        if inserts {
            sources.push(self.source(&i.operands[3], Ty::B32)?);
        }
        self.scalar(Scalar::CvtPack { bits, signed }, d, 32, &sources, Class::Convert);
        Ok(())
    }

    pub(super) fn mov(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let [d, a] = self.operands(i)?;
        match (d, a) {
            (Operand::Vector(ds), Operand::Vector(parts)) if ty == Ty::B128 => {
                if (ds.len(), parts.len()) != (2, 2) {
                    return self.error("mov.b128 moves two registers of 64 bits");
                }
                // Both are read before either is written.
                let mut held = Vec::new();
                for part in parts {
                    let (t, a) = (self.temp(Ty::B64), self.source(part, Ty::B64)?);
                    self.lane(fast::mov64, t, &[a], Class::None);
                    held.push(t);
                }
                for (d, t) in ds.iter().zip(held) {
                    let d = self.dest(d, Ty::B64)?;
                    self.lane(fast::mov64, d, &[t], Class::Move);
                }
            }
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
