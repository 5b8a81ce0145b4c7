//! Operands of instructions as typed virtual registers: registers, immediates, special registers, addresses of symbols.
//!
//! Types are checked as ptxas does (PTX ISA 9.4): same size, and not an integer where a float is meant.

use super::{Builder, Symbol, V};
use crate::code::*;
use crate::error::Result;
use crate::memory::{RESERVED_SHARED, function_address};
use crate::ptx::ast::*;

/// Special registers that hold nothing here: what a driver or a profiler would put there.
fn is_zero_special(name: &str) -> bool {
    let numbered = |prefix: &str, count: u32| {
        let number = name.strip_prefix(prefix).map(|n| n.trim_end_matches("_64"));
        number.and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < count)
    };
    numbered("%envreg", 32)
        || numbered("%pm", 8)
        || matches!(name, "%clock_hi" | "%globaltimer_hi" | "%aggr_smem_size" | "%current_graph_exec")
}

impl<'a> Builder<'_, 'a> {
    fn reserved_shared(&mut self, byte: u32) -> Fixed {
        self.kernel.code.reserved_shared = true;
        Fixed::ReservedShared(byte as u16)
    }

    pub(super) fn check(&self, name: &str, found: Ty, wanted: Ty) -> Result<()> {
        let same_kind = found.is_bits() || wanted.is_bits() || found.is_float() == wanted.is_float();
        if found.bytes() == wanted.bytes() && same_kind {
            return Ok(());
        }
        self.error(format!("register `{name}` has type {found}, this instruction needs {wanted}"))
    }

    pub fn register(&self, name: &str, ty: Ty) -> Result<V> {
        match self.lookup(name) {
            Some(Symbol::Register(v)) => {
                self.check(name, self.vregs[v as usize].ty, ty)?;
                Ok(v)
            }
            Some(_) => self.error(format!("`{name}` is not a register")),
            None => self.error(format!("unknown name `{name}`")),
        }
    }

    /// A destination register of type `ty`; `_` gives a register nobody reads.
    pub fn dest(&mut self, operand: &Operand, ty: Ty) -> Result<V> {
        match operand {
            Operand::Name(name, None) => self.register(name, ty),
            Operand::Sink => Ok(self.temp(ty)),
            _ => self.error("the destination must be a register"),
        }
    }

    /// Refuses a float register where packed or reinterpreted bits are meant: ptxas does too.
    pub fn untyped(&self, operand: &Operand) -> Result<()> {
        if let Operand::Name(name, None) = operand
            && let Some(Symbol::Register(v)) = self.lookup(name)
            && matches!(self.vregs[v as usize].ty, Ty::F32 | Ty::F64)
        {
            let found = self.vregs[v as usize].ty;
            return self.error(format!("register `{name}` has type {found}, this instruction needs .b32"));
        }
        Ok(())
    }

    /// A destination of a load or conversion: the register may be wider than `ty`. Returns it with its size in bytes.
    pub fn wide_dest(&mut self, operand: &Operand, ty: Ty) -> Result<(V, u32)> {
        if *operand == Operand::Sink {
            let v = self.temp(if ty.bytes() < 4 { Ty::B32 } else { ty });
            return Ok((v, ty.bytes().max(4)));
        }
        let Operand::Name(name, None) = operand else {
            return self.error("the destination must be a register");
        };
        let v = self.any_register(name)?;
        let bytes = self.wide_check(name, v, ty)?;
        Ok((v, bytes))
    }

    pub(super) fn wide_check(&self, name: &str, v: V, ty: Ty) -> Result<u32> {
        let found = self.vregs[v as usize].ty;
        let kinds = found.is_bits() || ty.is_bits() || found.is_float() == ty.is_float();
        let sizes = if ty.is_float() { found.bytes() == ty.bytes() } else { found.bytes() >= ty.bytes() };
        if found == Ty::Pred || !kinds || !sizes {
            return self.error(format!("register `{name}` has type {found}, which cannot hold {ty} here"));
        }
        Ok(found.bytes())
    }

    pub(super) fn any_register(&self, name: &str) -> Result<V> {
        match self.lookup(name) {
            Some(Symbol::Register(v)) => Ok(v),
            Some(_) => self.error(format!("`{name}` is not a register")),
            None => self.error(format!("unknown name `{name}`")),
        }
    }

    /// A source that a store or conversion narrows: the register may be wider than `ty`.
    pub fn wide_source(&mut self, operand: &Operand, ty: Ty) -> Result<V> {
        if let Operand::Name(name, None) = operand
            && let Some(Symbol::Register(v)) = self.lookup(name)
        {
            self.wide_check(name, v, ty)?;
            return Ok(v);
        }
        let ty = if ty.bytes() == 1 { Ty::B16 } else { ty };
        self.source(operand, ty)
    }

    pub fn immediate(&self, operand: &Operand, ty: Ty) -> Option<u64> {
        Some(match (operand, ty) {
            (Operand::Int(v), _)
                if !ty.is_float() || matches!(ty, Ty::F16 | Ty::BF16 | Ty::F16x2 | Ty::BF16x2) =>
            {
                *v as u64
            }
            (Operand::F32(bits), Ty::F64) => (f32::from_bits(*bits) as f64).to_bits(),
            (Operand::F32(bits), Ty::F32 | Ty::B32) => *bits as u64,
            (Operand::F64(bits), Ty::F32 | Ty::B32) => (f64::from_bits(*bits) as f32).to_bits() as u64,
            (Operand::F64(bits), Ty::F64 | Ty::B64) => *bits,
            (Operand::Name(name, None), _) if name == "WARP_SZ" && !ty.is_float() => 32,
            _ => return None,
        })
    }

    /// A source of type `ty`: register, immediate, special register, or the address of a symbol.
    pub fn source(&mut self, operand: &Operand, ty: Ty) -> Result<V> {
        if let Some(bits) = self.immediate(operand, ty) {
            return Ok(self.constant(bits, ty));
        }
        match operand {
            Operand::Name(name, component) if name.starts_with('%') && self.lookup(name).is_none() => {
                self.special(name, component.as_deref(), ty)
            }
            Operand::Name(name, None) => self.symbol_source(name, 0, ty),
            Operand::NameOffset(name, offset) => self.symbol_source(name, *offset, ty),
            Operand::Not(name) if ty == Ty::Pred => {
                let p = self.register(name, Ty::Pred)?;
                let t = self.temp(Ty::Pred);
                let guard = self.guard.take();
                self.lane(crate::exec::fast::not_pred, t, &[p], Class::None);
                self.guard = guard;
                Ok(t)
            }
            _ => self.error(format!("this operand cannot be a source of type {ty}")),
        }
    }

    pub(super) fn symbol_source(&mut self, name: &str, offset: i64, ty: Ty) -> Result<V> {
        match self.lookup(name) {
            Some(Symbol::Register(v)) if offset == 0 => {
                self.check(name, self.vregs[v as usize].ty, ty)?;
                Ok(v)
            }
            Some(symbol) if !ty.is_float() && ty.bytes() >= 4 => self.address_of(name, symbol, offset, ty),
            Some(_) => self.error(format!("`{name}` cannot be used as a value of type {ty}")),
            None => self.error(format!("unknown name `{name}`")),
        }
    }

    /// The address of a symbol in its own space.
    pub(super) fn address_of(&mut self, name: &str, symbol: Symbol, offset: i64, ty: Ty) -> Result<V> {
        match symbol {
            Symbol::Shared(at) => Ok(self.constant((at as i64 + offset) as u64, ty)),
            Symbol::DynamicShared => {
                let base = self.fixed(Fixed::DynamicShared, ty);
                self.plus(base, offset, ty)
            }
            Symbol::Global(index, _) if ty.bytes() == 8 => Ok(self.fixed(Fixed::Global(index, offset), ty)),
            Symbol::Local(at, _) => {
                let base = self.fixed(Fixed::LocalBase, ty);
                self.plus(base, at as i64 + offset, ty)
            }
            Symbol::KernelParam(at) => Ok(self.constant((at as i64 + offset) as u64, ty)),
            Symbol::Function(index) if ty.bytes() == 8 && offset == 0 => {
                Ok(self.constant(function_address(index), ty))
            }
            _ => self.error(format!("`{name}` has no address of type {ty}")),
        }
    }

    pub(super) fn plus(&mut self, base: V, offset: i64, ty: Ty) -> Result<V> {
        if offset == 0 {
            return Ok(base);
        }
        let (t, k) = (self.temp(ty), self.constant(offset as u64, ty));
        let add = if ty.bytes() == 8 { crate::exec::fast::add64 } else { crate::exec::fast::add32 };
        let guard = self.guard.take();
        self.lane(add, t, &[base, k], Class::None);
        self.guard = guard;
        Ok(t)
    }

    pub(super) fn special(&mut self, name: &str, component: Option<&str>, ty: Ty) -> Result<V> {
        let axis = match component {
            Some("x") => Some(0),
            Some("y") => Some(1),
            Some("z") => Some(2),
            _ => None,
        };
        let fixed = match (name, axis) {
            ("%tid", Some(i)) => Fixed::Tid(i),
            ("%ntid", Some(i)) => Fixed::Ntid(i),
            ("%ctaid", Some(i)) => Fixed::Ctaid(i),
            ("%nctaid", Some(i)) => Fixed::Nctaid(i),
            ("%laneid", None) => Fixed::LaneId,
            ("%warpid", None) => Fixed::WarpId,
            ("%nwarpid", None) => Fixed::NWarpId,
            ("%smid", None) => Fixed::SmId,
            ("%nsmid", None) => Fixed::NSmId,
            ("%gridid", None) => Fixed::GridId,
            ("%lanemask_eq", None) => Fixed::LanemaskEq,
            ("%lanemask_le", None) => Fixed::LanemaskLe,
            ("%lanemask_lt", None) => Fixed::LanemaskLt,
            ("%lanemask_ge", None) => Fixed::LanemaskGe,
            ("%lanemask_gt", None) => Fixed::LanemaskGt,
            ("%dynamic_smem_size", None) => Fixed::DynamicSharedBytes,
            ("%total_smem_size", None) => Fixed::TotalSharedBytes,
            ("%reserved_smem_offset_cap", None) => Fixed::Constant(RESERVED_SHARED as u64),
            ("%reserved_smem_offset_begin" | "%reserved_smem_offset_0", None) => self.reserved_shared(0),
            ("%reserved_smem_offset_1", None) => self.reserved_shared(RESERVED_SHARED / 2),
            ("%reserved_smem_offset_end", None) => self.reserved_shared(RESERVED_SHARED),
            ("%envreg1", None) => Fixed::Workspace(true),
            ("%envreg2", None) => Fixed::Workspace(false),
            _ if is_zero_special(name) && component.is_none() => Fixed::Constant(0),
            ("%cluster_ctaid", Some(i)) => Fixed::ClusterCtaid(i),
            ("%cluster_nctaid", Some(i)) => Fixed::ClusterNctaid(i),
            ("%clusterid", Some(i)) => Fixed::ClusterId(i),
            ("%nclusterid", Some(i)) => Fixed::NClusterId(i),
            ("%cluster_ctarank", None) => Fixed::ClusterRank,
            ("%cluster_nctarank", None) => Fixed::ClusterSize,
            ("%is_explicit_cluster", None) => Fixed::IsExplicitCluster,
            _ => {
                let dynamic = match name {
                    "%clock" => (Dynamic::Clock, Ty::U32),
                    "%clock64" => (Dynamic::Clock64, Ty::U64),
                    "%globaltimer" => (Dynamic::GlobalTimer, Ty::U64),
                    "%globaltimer_lo" => (Dynamic::GlobalTimerLow, Ty::U32),
                    _ => {
                        let dot = component.map(|c| format!(".{c}")).unwrap_or_default();
                        return self.error(format!("unknown register `{name}{dot}`"));
                    }
                };
                self.check(name, dynamic.1, ty)?;
                let t = self.temp(ty);
                self.emit(Kind::ReadSpecial(dynamic.0), vec![t], vec![], Class::None);
                return Ok(t);
            }
        };
        if fixed == Fixed::IsExplicitCluster && ty == Ty::Pred {
            return Ok(self.fixed(fixed, ty));
        }
        let long = fixed == Fixed::GridId || name.ends_with("_64") || name == "%current_graph_exec";
        let own = if long { Ty::U64 } else { Ty::U32 };
        if ty.is_float() || ty == Ty::Pred || (own.bytes() > ty.bytes() && ty.bytes() != 2) {
            return self.error(format!("`{name}` is a {own}, this instruction needs {ty}"));
        }
        Ok(self.fixed(fixed, ty))
    }

    /// The operands without the cache policy, which changes nothing here.
    pub fn plain_operands(&self, i: &'a Instruction) -> &'a [Operand] {
        let hint = i.form.has("L2::cache_hint") as usize;
        &i.operands[..i.operands.len().saturating_sub(hint)]
    }

    pub fn operands<const N: usize>(&self, i: &'a Instruction) -> Result<[&'a Operand; N]> {
        let refs: Vec<&Operand> = self.plain_operands(i).iter().collect();
        match <[&Operand; N]>::try_from(refs) {
            Ok(array) => Ok(array),
            Err(_) => self.error(format!("`{}` takes {N} operands, {} are given", i.form, i.operands.len())),
        }
    }
}
