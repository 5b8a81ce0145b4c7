//! Comparison and selection: set, setp, testp, selp, slct (PTX ISA 9.7.6 and 9.7.7).

use super::builder::{Builder, V};
use super::select::{Make, holder};
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::exec::scalar::{Compare, Scalar, Test};
use crate::ptx::ast::*;
use crate::ptx::table::Op;

impl<'a> Builder<'_, 'a> {
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
        if signed && matches!(name, "lo" | "ls" | "hi" | "hs") {
            return self.error(format!(".{name} compares unsigned numbers, not {ty}"));
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

    pub(super) fn comparison(&mut self, i: &'a Instruction) -> Result<()> {
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
            let (to, d) = (types[0], self.dest(&i.operands[0], holder(types[0]))?);
            let result = |this: &mut Self, ty: Ty, a: V, b: V, to: Ty, d: V| -> Result<()> {
                let t = this.temp(Ty::Pred);
                this.compare(i, ty, t, a, b)?;
                if let Some(c) = c {
                    this.lane(boolean, t, &[t, c], Class::None);
                }
                this.scalar(Scalar::SetResult(to), d, to.bytes() * 8, &[t], Class::None);
                Ok(())
            };
            if !matches!(ty, Ty::F16x2 | Ty::BF16x2) {
                return result(self, ty, a, b, to, d);
            }
            // Each half gives half of the result: ones, or 1.0 of its type.
            let single = if ty == Ty::F16x2 { Ty::F16 } else { Ty::BF16 };
            let part = if to == ty { single } else { Ty::U16 };
            let (low, high) = (self.temp(Ty::B16), self.temp(Ty::B16));
            for (half, out) in [(fast::low32 as Make, low), (fast::high32 as Make, high)] {
                let (ha, hb) = (self.temp(Ty::B16), self.temp(Ty::B16));
                self.lane(half, ha, &[a], Class::None);
                self.lane(half, hb, &[b], Class::None);
                result(self, single, ha, hb, part, out)?;
            }
            self.lane(fast::pack32, d, &[low, high], Class::None);
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
        if q.is_some() && matches!(ty, Ty::F16 | Ty::BF16) {
            return self.error(format!("`{}` has one destination", i.form));
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

    pub(super) fn selection(&mut self, i: &'a Instruction) -> Result<()> {
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
}
