//! Loads, stores, atomics, address conversions and asynchronous copies (PTX ISA 9.7.9 and 9.7.13).

use super::builder::{Builder, Symbol, V};
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ast::*;
use crate::ptx::table::Op;

pub(super) fn space_of(i: &Instruction) -> Space {
    for m in &i.form.mods {
        match *m {
            "global" => return Space::Global,
            "shared" | "shared::cta" => return Space::Shared,
            "shared::cluster" => return Space::Cluster,
            "local" => return Space::Local,
            "const" => return Space::Const,
            "param" | "param::entry" | "param::func" => return Space::Param,
            _ => {}
        }
    }
    Space::Generic
}

/// The type of an element: 128 bits are two registers of 64.
fn memory_type(i: &Instruction) -> Ty {
    match i.form.types()[0] {
        Ty::B128 => Ty::B64,
        ty => ty,
    }
}

/// How a load, store or atomic takes part in synchronisation. An atomic that names no scope has the device's; one that
/// returns a value counts as an acquire, as the ticket of a "last block" reduction is used everywhere.
pub(super) fn strength(i: &Instruction) -> Strength {
    let atomic = matches!(i.form.op, Op::Atom | Op::Red | Op::AtomVector | Op::RedVector);
    if !atomic && i.form.one_of(&["volatile", "mmio", "relaxed", "acquire", "release"]).is_none() {
        Strength::Weak
    } else if i.form.has("cta") || i.form.has("cluster") {
        Strength::Narrow
    } else if i.form.has("acquire") || matches!(i.form.op, Op::Atom | Op::AtomVector) {
        Strength::Acquire
    } else {
        Strength::Relaxed
    }
}

/// Where an access goes: address row, its constant offset, and the space it is in.
pub(super) struct Place {
    pub address: V,
    pub offset: i64,
    pub space: Space,
}

impl<'a> Builder<'_, 'a> {
    pub fn select_memory(&mut self, i: &'a Instruction) -> Result<()> {
        self.check_hints(i)?;
        match i.form.op {
            Op::Ld => self.load(i),
            Op::St => self.store(i),
            Op::Atom | Op::Red => self.atomic(i),
            Op::Cvta => self.cvta(i),
            Op::Isspacep => {
                let [d, a] = self.operands(i)?;
                let (d, a) = (self.dest(d, Ty::Pred)?, self.source(a, Ty::U64)?);
                self.emit(Kind::Isspacep(space_of(i)), vec![d], vec![a], Class::Predicate);
                Ok(())
            }
            Op::Prefetch => {
                self.emit(Kind::Prefetch, vec![], vec![], Class::Control);
                Ok(())
            }
            Op::CpAsync => self.cp_async(i),
            Op::CpAsyncCommit => {
                self.emit(Kind::CpAsyncCommit, vec![], vec![], Class::AsyncCopy);
                Ok(())
            }
            Op::CpAsyncWaitAll => {
                // wait_all: commit, then wait for every group.
                self.emit(Kind::CpAsyncCommit, vec![], vec![], Class::None);
                self.emit(Kind::CpAsyncWait(0), vec![], vec![], Class::AsyncCopy);
                Ok(())
            }
            Op::CpAsyncWait => {
                let [n] = self.operands(i)?;
                match n {
                    Operand::Int(n) if (0..=1 << 20).contains(n) => {
                        self.emit(Kind::CpAsyncWait(*n as u32), vec![], vec![], Class::AsyncCopy);
                        Ok(())
                    }
                    _ => self.error("cp.async.wait_group takes a constant number of groups"),
                }
            }
            _ => self.select_sync(i),
        }
    }

    /// Hints for caches go with global and generic addresses.
    fn check_hints(&self, i: &Instruction) -> Result<()> {
        let hint = i.form.mods.iter().find(|m| m.starts_with("L1::") || m.starts_with("L2::"));
        match (i.form.op, hint, space_of(i)) {
            (_, None, _) | (_, _, Space::Global | Space::Generic) => Ok(()),
            (Op::Ld | Op::St | Op::Atom | Op::Red, Some(hint), space) => {
                self.error(format!("`.{hint}` cannot be applied to the {space} space"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn place(&mut self, operand: &Operand, space: Space) -> Result<Place> {
        // `a[2]` stands for its own address.
        let (base, offset) = match operand {
            Operand::Address { base, offset } => (base.as_ref(), *offset),
            Operand::NameOffset(name, offset) => (Some(name), *offset),
            _ => return self.error("expected an address in brackets"),
        };
        let Some(name) = base else {
            let address = self.constant(offset as u64, Ty::U64);
            return Ok(Place { address, offset: 0, space });
        };
        match self.lookup(name) {
            Some(Symbol::Register(v)) => {
                let ty = self.vregs[v as usize].ty;
                if ty.is_float() || !matches!(ty.bytes(), 4 | 8) {
                    return self.error(format!("register `{name}` of type {ty} cannot hold an address"));
                }
                if ty.bytes() == 4 && matches!(space, Space::Global | Space::Generic | Space::Const) {
                    return self
                        .error(format!("a {space} address needs a 64-bit register, `{name}` has type {ty}"));
                }
                if space == Space::Param && !self.function.is_entry {
                    return self
                        .error("ld.param and st.param through a register are not supported in functions");
                }
                Ok(Place { address: v, offset, space })
            }
            Some(Symbol::KernelParam(at)) if space == Space::Param => {
                let address = self.constant(0, Ty::U32);
                Ok(Place { address, offset: at as i64 + offset, space })
            }
            Some(Symbol::Local(at, own)) if own == space => {
                let address = self.fixed(Fixed::LocalBase, Ty::U32);
                Ok(Place { address, offset: at as i64 + offset, space: Space::Local })
            }
            Some(Symbol::Shared(at)) if matches!(space, Space::Shared | Space::Cluster) => {
                let address = self.constant(0, Ty::U32);
                Ok(Place { address, offset: at as i64 + offset, space })
            }
            Some(Symbol::DynamicShared) if matches!(space, Space::Shared | Space::Cluster) => {
                let address = self.fixed(Fixed::DynamicShared, Ty::U32);
                Ok(Place { address, offset, space })
            }
            Some(Symbol::Global(index, own)) if own == space || space == Space::Generic => {
                let address = self.fixed(Fixed::Global(index, 0), Ty::U64);
                Ok(Place { address, offset, space })
            }
            Some(_) => self.error(format!("`{name}` is not in the {space} space")),
            None => self.error(format!("unknown name `{name}`")),
        }
    }

    fn elements(operand: &Operand) -> Vec<&Operand> {
        match operand {
            Operand::Vector(list) => list.iter().collect(),
            one => vec![one],
        }
    }

    fn memory_op(
        &self,
        i: &Instruction,
        ty: Ty,
        place: &Place,
        count: usize,
        reg_bytes: u32,
    ) -> Result<MemOp> {
        if i.form.has("b128") && i.form.one_of(&["v2", "v4"]).is_some() {
            return self.error(format!("`{}`: 128 bits come one at a time", i.form));
        }
        let expected = if i.form.has("v2") {
            2
        } else if i.form.has("v4") {
            4
        } else if i.form.has("b128") {
            2
        } else {
            1
        };
        if count != expected {
            return self.error(format!("`{}` moves {expected} registers, {count} are given", i.form));
        }
        if expected as u32 * ty.bytes() > 16 {
            return self.error(format!("`{}` moves more than 16 bytes", i.form));
        }
        Ok(MemOp {
            space: place.space,
            bytes: ty.bytes() as u8,
            count: count as u8,
            reg_bytes: reg_bytes as u8,
            signed: ty.is_signed(),
            address: self.vregs[place.address as usize].bank,
            offset: place.offset,
            strength: strength(i),
            read_only: i.form.has("nc"),
            used_bytes: i.used_bytes,
        })
    }

    fn note_communication(&mut self, space: Space, strong: bool) {
        if strong && matches!(space, Space::Global | Space::Generic) {
            self.kernel.code.blocks_communicate = true;
        }
    }

    /// A release is a fence before the access.
    pub(super) fn fence_of_release(&mut self, i: &Instruction, space: Space) {
        let releases = i.form.one_of(&["release", "acq_rel"]).is_some();
        if releases && !i.form.has("cta") && matches!(space, Space::Global | Space::Generic) {
            self.emit(
                Kind::Fence(Fence { wide: true, acquires: false, releases: true }),
                vec![],
                vec![],
                Class::None,
            );
        }
    }

    pub(super) fn memory_class(i: &Instruction, space: Space, load: bool) -> Class {
        match (space, load) {
            _ if i.form.has("param") => Class::ConstParam,
            (Space::Global, true) => Class::LoadGlobal,
            (Space::Global, false) => Class::StoreGlobal,
            (Space::Shared | Space::Cluster, true) => Class::LoadShared,
            (Space::Shared | Space::Cluster, false) => Class::StoreShared,
            (Space::Local, _) => Class::Local,
            (Space::Const | Space::Param, _) => Class::ConstParam,
            (Space::Generic, _) => Class::Generic,
        }
    }

    fn load(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = memory_type(i);
        let [d, address] = self.operands(i)?;
        let place = self.place(address, space_of(i))?;
        let mut defs = Vec::new();
        let mut reg_bytes = 0;
        for d in Self::elements(d) {
            let (v, bytes) = self.wide_dest(d, ty)?;
            if reg_bytes != 0 && bytes != reg_bytes && *d != Operand::Sink {
                return self.error("the registers of a vector load must have one size");
            }
            reg_bytes = if reg_bytes == 0 { bytes } else { reg_bytes };
            defs.push(v);
        }
        if defs.iter().any(|&v| self.vregs[v as usize].bank != self.vregs[defs[0] as usize].bank) {
            return self.error("the registers of a vector load must have one size");
        }
        let op = self.memory_op(i, ty, &place, defs.len(), reg_bytes)?;
        self.note_communication(op.space, op.strength.is_strong());
        self.kernel.code.mems.push(op);
        let index = self.kernel.code.mems.len() as u32 - 1;
        self.emit(Kind::Load(index), defs, vec![place.address], Self::memory_class(i, op.space, true));
        Ok(())
    }

    fn store(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = memory_type(i);
        let [address, s] = self.operands(i)?;
        let place = self.place(address, space_of(i))?;
        if matches!(place.space, Space::Const | Space::Param) {
            return self.error(format!("the {} space cannot be written", place.space));
        }
        let mut uses = vec![place.address];
        for s in Self::elements(s) {
            uses.push(self.wide_source(s, ty)?);
        }
        if uses[1..].iter().any(|&v| self.vregs[v as usize].bank != self.vregs[uses[1] as usize].bank) {
            return self.error("the registers of a vector store must have one size");
        }
        let reg_bytes = if self.vregs[uses[1] as usize].bank == Bank::R64 { 8 } else { 4 };
        let op = self.memory_op(i, ty, &place, uses.len() - 1, reg_bytes)?;
        self.fence_of_release(i, op.space);
        self.note_communication(op.space, op.strength.is_strong());
        self.kernel.code.mems.push(op);
        let index = self.kernel.code.mems.len() as u32 - 1;
        self.emit(Kind::Store(index), vec![], uses, Self::memory_class(i, op.space, false));
        Ok(())
    }

    fn atomic(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let has_result = i.form.op == Op::Atom;
        let op = match i.form.one_of(&["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"])
        {
            Some("add") => AtomicOp::Add,
            Some("min") => AtomicOp::Min,
            Some("max") => AtomicOp::Max,
            Some("inc") => AtomicOp::Inc,
            Some("dec") => AtomicOp::Dec,
            Some("and") => AtomicOp::And,
            Some("or") => AtomicOp::Or,
            Some("xor") => AtomicOp::Xor,
            Some("exch") => AtomicOp::Exch,
            _ => AtomicOp::Cas,
        };
        let expected = 2 + has_result as usize + (op == AtomicOp::Cas) as usize;
        let operands = self.plain_operands(i);
        if operands.len() != expected {
            return self.error(format!(
                "`{}` takes {expected} operands, {} are given",
                i.form,
                i.operands.len()
            ));
        }
        let holder = match ty {
            Ty::F16x2 | Ty::BF16x2 => Ty::B32,
            ty => ty,
        };
        // 128 bits are two registers of 64.
        let (holder, parts) = if ty == Ty::B128 { (Ty::B64, 2) } else { (holder, 1) };
        let defs = if has_result { self.vector(&operands[0], parts, holder, true)? } else { vec![] };
        let at = has_result as usize;
        let place = self.place(&operands[at], space_of(i))?;
        if matches!(place.space, Space::Local) {
            return self.error("atomics work on global and shared memory only");
        }
        let mut uses = vec![place.address];
        for operand in &operands[at + 1..] {
            uses.extend(self.vector(operand, parts, holder, false)?);
        }
        let address = self.vregs[place.address as usize].bank;
        self.fence_of_release(i, place.space);
        self.note_communication(place.space, true);
        let atom = AtomOp {
            op,
            ty,
            space: place.space,
            address,
            offset: place.offset,
            has_result,
            strength: strength(i),
        };
        self.kernel.code.atoms.push(atom);
        let index = self.kernel.code.atoms.len() as u32 - 1;
        self.emit(Kind::Atomic(index), defs, uses, Class::Atomic);
        Ok(())
    }

    /// Between a space and the generic window of it; global and const addresses are the same in both.
    fn cvta(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        if ty != Ty::U64 {
            return self.error("cvta.u32 belongs to 32-bit addressing, which is not supported");
        }
        let [d, a] = self.operands(i)?;
        let (d, a) = (self.dest(d, ty)?, self.source(a, ty)?);
        let window = match space_of(i) {
            Space::Shared | Space::Cluster => SHARED_WINDOW,
            Space::Param => PARAM_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => {
                self.lane(fast::mov64, d, &[a], Class::Integer);
                return Ok(());
            }
        };
        let k = self.constant(window, ty);
        self.lane(if i.form.has("to") { fast::sub64 } else { fast::add64 }, d, &[a, k], Class::Integer);
        Ok(())
    }

    /// The register of an operand that is a predicate.
    fn predicate(&self, operand: &Operand) -> Option<V> {
        let Operand::Name(name, None) = operand else { return None };
        match self.lookup(name) {
            Some(Symbol::Register(v)) if self.vregs[v as usize].ty == Ty::Pred => Some(v),
            _ => None,
        }
    }

    /// cp.async.ca.shared.global [dst], [src], bytes{, source bytes, or a predicate to ignore the source}{, policy}
    fn cp_async(&mut self, i: &'a Instruction) -> Result<()> {
        let operands = self.plain_operands(i);
        if !(3..=4).contains(&operands.len()) {
            return self.error("cp.async takes a destination, a source, a size and perhaps a source size");
        }
        let to = self.place(&operands[0], Space::Shared)?;
        let from = self.place(&operands[1], Space::Global)?;
        let Operand::Int(bytes) = &operands[2] else {
            return self.error("the size of cp.async must be a constant");
        };
        let allowed: &[i64] = if i.form.has("cg") { &[16] } else { &[4, 8, 16] };
        if !allowed.contains(bytes) {
            return self.error(format!("cp.async copies {allowed:?} bytes here, not {bytes}"));
        }
        let mut uses = vec![to.address, from.address];
        let source_size = operands.len() == 4;
        if source_size {
            let size = match self.predicate(&operands[3]) {
                Some(ignore) => {
                    let (none, all) = (self.constant(0, Ty::U32), self.constant(*bytes as u64, Ty::U32));
                    let size = self.temp(Ty::U32);
                    self.lane(fast::selp32, size, &[none, all, ignore], Class::None);
                    size
                }
                None => self.source(&operands[3], Ty::U32)?,
            };
            uses.push(size);
        }
        let shared = self.vregs[to.address as usize].bank;
        self.kernel.code.cps.push(CpAsyncOp {
            bytes: *bytes as u8,
            shared,
            shared_offset: to.offset,
            global_offset: from.offset,
            source_size,
        });
        let index = self.kernel.code.cps.len() as u32 - 1;
        self.emit(Kind::CpAsync(index), vec![], uses, Class::AsyncCopy);
        Ok(())
    }
}
