//! Lowering of one function's statements to operations on virtual registers: scopes, names, and typed operands.
//!
//! The operations themselves are chosen in the sibling modules. Types of operands are checked as ptxas does (PTX ISA
//! 9.4): same size, and not an integer where a float is meant.

use std::collections::HashMap;

use crate::code::*;
use crate::error::{Error, Result};
use crate::exec::lanes::{LaneFn, Level, level};
use crate::exec::scalar::Scalar;
use crate::ptx::ast::*;

/// A virtual register.
pub type V = u32;

/// What a virtual register is.
#[derive(Clone, Debug)]
pub struct VInfo {
    pub bank: Bank,
    pub ty: Ty,
    pub name: String,
    /// Set for rows that hold a fixed value.
    pub fixed: Option<Fixed>,
}

/// An operation before registers have slots.
#[derive(Clone)]
pub struct LInst {
    pub kind: Kind,
    pub guard: Option<(V, bool)>,
    pub defs: Vec<V>,
    pub uses: Vec<V>,
    pub info: Info,
    /// Label numbers of branch targets.
    pub targets: Vec<u32>,
}

/// Shared by the functions of one kernel.
pub struct KernelBuilder<'a> {
    pub ast: &'a Ast,
    pub code: Code,
    /// Names of functions in `code.frames` order.
    pub functions: Vec<String>,
    /// Offsets of static shared variables, by name or by (function, name).
    pub shared: HashMap<String, u32>,
}

#[derive(Clone, Debug)]
pub enum Symbol {
    Register(V),
    /// Prefix of `%r<n>`: first register and count.
    Registers(V, u32),
    /// Offset in the frame's local memory (a `.local` variable, or a `.param` of a call).
    Local(u32, Space),
    /// Offset in the kernel's parameters.
    KernelParam(u32),
    Shared(u32),
    DynamicShared,
    Global(u32, Space),
    Label(u32),
    Targets(Vec<u32>),
}

pub struct Scope {
    names: HashMap<String, Symbol>,
}

pub struct Builder<'k, 'a> {
    pub kernel: &'k mut KernelBuilder<'a>,
    pub function: &'a Function,
    pub vregs: Vec<VInfo>,
    pub insts: Vec<LInst>,
    /// Position in `insts` of each label.
    pub labels: Vec<Option<usize>>,
    pub label_lines: Vec<(String, u32)>,
    scopes: Vec<Scope>,
    fixed: HashMap<(Fixed, Bank), V>,
    pub local_bytes: u32,
    pub calls: Vec<u32>,
    pub line: u32,
    pub loc: Option<Loc>,
    pub guard: Option<(V, bool)>,
    pub level: Level,
    carry: Option<V>,
    /// Offsets of the function's parameters and results in its frame.
    pub param_offsets: Vec<(String, u32, u32)>,
    pub return_offsets: Vec<(String, u32, u32)>,
}

fn align_up(v: u32, align: u32) -> u32 {
    v.div_ceil(align.max(1)) * align.max(1)
}

impl<'k, 'a> Builder<'k, 'a> {
    pub fn new(kernel: &'k mut KernelBuilder<'a>, function: &'a Function) -> Builder<'k, 'a> {
        Builder {
            kernel,
            function,
            vregs: Vec::new(),
            insts: Vec::new(),
            labels: Vec::new(),
            label_lines: Vec::new(),
            scopes: vec![Scope { names: HashMap::new() }],
            fixed: HashMap::new(),
            local_bytes: 0,
            calls: Vec::new(),
            line: function.line,
            loc: None,
            guard: None,
            level: level(),
            carry: None,
            param_offsets: Vec::new(),
            return_offsets: Vec::new(),
        }
    }

    pub fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line, message: message.into() })
    }

    // names --------------------------------------------------------------------------------------------------------

    pub fn declare(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.to_string(), symbol);
        }
    }

    pub fn lookup(&self, name: &str) -> Option<Symbol> {
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some(symbol.clone());
            }
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            for cut in 0..digits {
                let (prefix, number) = name.split_at(name.len() - digits + cut);
                if let Some(Symbol::Registers(first, count)) = scope.names.get(&format!("{prefix}<")) {
                    match number.parse::<u32>() {
                        Ok(n) if n < *count && (number == "0" || !number.starts_with('0')) => {
                            return Some(Symbol::Register(first + n));
                        }
                        _ => {}
                    }
                }
            }
        }
        self.module_symbol(name)
    }

    fn module_symbol(&self, name: &str) -> Option<Symbol> {
        let index = self.kernel.ast.variables.iter().position(|v| v.name == name)?;
        let variable = &self.kernel.ast.variables[index];
        match variable.space {
            Space::Shared if variable.size == 0 => Some(Symbol::DynamicShared),
            Space::Shared => self.kernel.shared.get(name).map(|&offset| Symbol::Shared(offset)),
            space => Some(Symbol::Global(index as u32, space)),
        }
    }

    pub fn new_vreg(&mut self, ty: Ty, name: &str) -> V {
        self.vregs.push(VInfo { bank: Code::bank_of(ty), ty, name: name.to_string(), fixed: None });
        self.vregs.len() as V - 1
    }

    pub fn temp(&mut self, ty: Ty) -> V {
        self.new_vreg(ty, "")
    }

    /// The register that stands for the carry flag.
    pub fn carry(&mut self) -> V {
        if let Some(v) = self.carry {
            return v;
        }
        let v = self.new_vreg(Ty::Pred, "the carry flag");
        self.carry = Some(v);
        v
    }

    /// The row that holds a fixed value.
    pub fn fixed(&mut self, value: Fixed, ty: Ty) -> V {
        let bank = Code::bank_of(ty);
        if let Some(&v) = self.fixed.get(&(value, bank)) {
            return v;
        }
        let v = self.new_vreg(ty, "");
        self.vregs[v as usize].fixed = Some(value);
        self.fixed.insert((value, bank), v);
        v
    }

    pub fn constant(&mut self, bits: u64, ty: Ty) -> V {
        let width = ty.bytes() * 8;
        let bits = if width == 0 {
            (bits != 0) as u64
        } else if width < 64 {
            bits & ((1 << width) - 1)
        } else {
            bits
        };
        self.fixed(Fixed::Constant(bits), ty)
    }

    // statements ---------------------------------------------------------------------------------------------------

    /// Reserves `bytes` of the frame's local memory.
    pub fn reserve_local(&mut self, bytes: u64, align: u32) -> Result<u32> {
        let offset = align_up(self.local_bytes, align);
        match (offset as u64).checked_add(bytes) {
            Some(end) if end <= 512 << 10 => self.local_bytes = end as u32,
            _ => return self.error("local memory of a thread exceeds 512 KiB"),
        }
        Ok(offset)
    }

    /// Lowers the whole body.
    pub fn run(&mut self) -> Result<()> {
        let function = self.function;
        if function.is_entry {
            let mut offset = 0;
            for p in &function.params {
                offset = align_up(offset, p.align);
                self.declare(&p.name, Symbol::KernelParam(offset));
                self.param_offsets.push((p.name.clone(), offset, p.size as u32));
                offset += p.size as u32;
            }
        } else {
            for p in &function.returns {
                let offset = self.reserve_local(p.size, p.align)?;
                self.declare(&p.name, Symbol::Local(offset, Space::Param));
                self.return_offsets.push((p.name.clone(), offset, p.size as u32));
            }
            for p in &function.params {
                let offset = self.reserve_local(p.size, p.align)?;
                self.declare(&p.name, Symbol::Local(offset, Space::Param));
                self.param_offsets.push((p.name.clone(), offset, p.size as u32));
            }
        }
        let Some(body) = &function.body else {
            return self.error(format!("`{}` is declared but has no body in this module", function.name));
        };
        self.kernel.place_named_shared(body);
        self.block(body)?;
        // Falling off the end is a return.
        self.guard = None;
        self.emit(Kind::Ret, vec![], vec![], Class::Control);
        Ok(())
    }

    fn block(&mut self, statements: &'a [Statement]) -> Result<()> {
        self.scopes.push(Scope { names: HashMap::new() });
        for statement in statements {
            if let Statement::Label(name, line) = statement {
                let number = self.labels.len() as u32;
                self.labels.push(None);
                self.label_lines.push((name.clone(), *line));
                self.declare(name, Symbol::Label(number));
            }
        }
        for statement in statements {
            match statement {
                Statement::Block(inner) => self.block(inner)?,
                Statement::Label(name, line) => {
                    self.line = *line;
                    match self.scopes.last().and_then(|s| s.names.get(name)) {
                        Some(&Symbol::Label(number)) if self.labels[number as usize].is_none() => {
                            self.labels[number as usize] = Some(self.insts.len());
                        }
                        _ => return self.error(format!("label `{name}` is defined twice in one scope")),
                    }
                }
                Statement::Registers { ty, names, line } => {
                    self.line = *line;
                    self.registers(*ty, names)?;
                }
                Statement::Variable(variable) => self.variable(variable)?,
                Statement::Loc(loc) => self.loc = Some(*loc),
                Statement::BranchTargets { name, labels, line } => {
                    self.line = *line;
                    let mut targets = Vec::new();
                    for label in labels {
                        targets.push(self.label(label)?);
                    }
                    self.declare(name, Symbol::Targets(targets));
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn registers(&mut self, ty: Ty, names: &[(String, Option<u32>)]) -> Result<()> {
        for (name, count) in names {
            let first = self.vregs.len() as V;
            if first as u64 + count.unwrap_or(1) as u64 > 1 << 20 {
                return self.error("more than a million registers are declared");
            }
            match count {
                Some(n) => {
                    for i in 0..*n {
                        self.new_vreg(ty, &format!("{name}{i}"));
                    }
                    self.declare(&format!("{name}<"), Symbol::Registers(first, *n));
                }
                None => {
                    let v = self.new_vreg(ty, name);
                    self.declare(name, Symbol::Register(v));
                }
            }
        }
        Ok(())
    }

    fn variable(&mut self, variable: &Variable) -> Result<()> {
        self.line = variable.line;
        let symbol = match variable.space {
            Space::Local | Space::Param => {
                let offset = self.reserve_local(variable.size, variable.align)?;
                Symbol::Local(offset, variable.space)
            }
            Space::Shared if variable.size == 0 => Symbol::DynamicShared,
            Space::Shared => Symbol::Shared(self.kernel.place_shared(variable)),
            space => {
                return self
                    .error(format!("variables in the {space} space inside a function are not supported"));
            }
        };
        self.declare(&variable.name, symbol);
        Ok(())
    }

    pub fn label(&self, name: &str) -> Result<u32> {
        match self.lookup(name) {
            Some(Symbol::Label(number)) => Ok(number),
            _ => self.error(format!("`{name}` is not a label that can be reached from here")),
        }
    }

    fn instruction(&mut self, instruction: &'a Instruction) -> Result<()> {
        self.line = instruction.line;
        self.guard = match &instruction.guard {
            Some((name, negated)) => Some((self.register(name, Ty::Pred)?, *negated)),
            None => None,
        };
        self.select(instruction)
    }

    // emission -----------------------------------------------------------------------------------------------------

    pub fn emit(&mut self, kind: Kind, defs: Vec<V>, uses: Vec<V>, class: Class) {
        let info = Info { ptx_line: self.line, loc: self.loc, class, flops: 0 };
        self.insts.push(LInst { kind, guard: self.guard, defs, uses, info, targets: Vec::new() });
    }

    pub fn emit_flops(&mut self, flops: u32) {
        if let Some(last) = self.insts.last_mut() {
            last.info.flops = flops;
        }
    }

    /// Labels that the last operation may go to.
    pub fn set_targets(&mut self, targets: Vec<u32>) {
        if let Some(last) = self.insts.last_mut() {
            last.targets = targets;
        }
    }

    pub fn lane(&mut self, make: fn(Level) -> LaneFn, d: V, uses: &[V], class: Class) {
        let f = make(self.level);
        self.emit(Kind::Lane(f), vec![d], uses.to_vec(), class);
    }

    pub fn scalar(&mut self, op: Scalar, d: V, bits: u32, uses: &[V], class: Class) {
        let mut sources = [None; 4];
        for (s, &u) in sources.iter_mut().zip(uses) {
            *s = Some(self.vregs[u as usize].bank);
        }
        let result = self.vregs[d as usize].bank;
        self.kernel.code.scalars.push(ScalarOp { op, result, result_bits: bits as u8, sources });
        let index = self.kernel.code.scalars.len() as u32 - 1;
        self.emit(Kind::Scalar(index), vec![d], uses.to_vec(), class);
    }

    // operands -----------------------------------------------------------------------------------------------------

    fn check(&self, name: &str, found: Ty, wanted: Ty) -> Result<()> {
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

    fn wide_check(&self, name: &str, v: V, ty: Ty) -> Result<u32> {
        let found = self.vregs[v as usize].ty;
        let kinds = found.is_bits() || ty.is_bits() || found.is_float() == ty.is_float();
        let sizes = if ty.is_float() { found.bytes() == ty.bytes() } else { found.bytes() >= ty.bytes() };
        if found == Ty::Pred || !kinds || !sizes {
            return self.error(format!("register `{name}` has type {found}, which cannot hold {ty} here"));
        }
        Ok(found.bytes())
    }

    fn any_register(&self, name: &str) -> Result<V> {
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

    fn symbol_source(&mut self, name: &str, offset: i64, ty: Ty) -> Result<V> {
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
    fn address_of(&mut self, name: &str, symbol: Symbol, offset: i64, ty: Ty) -> Result<V> {
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
            Symbol::KernelParam(_) => self.error(format!(
                "taking the address of kernel parameter `{name}` is not supported; load it with ld.param"
            )),
            _ => self.error(format!("`{name}` has no address of type {ty}")),
        }
    }

    fn plus(&mut self, base: V, offset: i64, ty: Ty) -> Result<V> {
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

    fn special(&mut self, name: &str, component: Option<&str>, ty: Ty) -> Result<V> {
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
            ("%envreg1" | "%envreg2", None) => {
                return self
                    .error("grid-wide synchronisation (cooperative launch, %envreg1/2) is not supported");
            }
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
        let own = if fixed == Fixed::GridId { Ty::U64 } else { Ty::U32 };
        if ty.is_float() || ty == Ty::Pred || (own.bytes() > ty.bytes() && ty.bytes() != 2) {
            return self.error(format!("`{name}` is a {own}, this instruction needs {ty}"));
        }
        Ok(self.fixed(fixed, ty))
    }

    pub fn operands<const N: usize>(&self, i: &'a Instruction) -> Result<[&'a Operand; N]> {
        let refs: Vec<&Operand> = i.operands.iter().collect();
        match <[&Operand; N]>::try_from(refs) {
            Ok(array) => Ok(array),
            Err(_) => self.error(format!("`{}` takes {N} operands, {} are given", i.form, i.operands.len())),
        }
    }
}

impl KernelBuilder<'_> {
    /// The frame number of a function, given out at its first call.
    pub fn function_index(&mut self, name: &str) -> u32 {
        match self.functions.iter().position(|f| f == name) {
            Some(index) => index as u32,
            None => {
                self.functions.push(name.to_string());
                self.functions.len() as u32 - 1
            }
        }
    }

    pub fn place_shared(&mut self, variable: &Variable) -> u32 {
        let offset = align_up(self.code.shared_bytes, variable.align);
        self.code.shared_bytes = offset + variable.size.min(1 << 30) as u32;
        self.code.shared_align = self.code.shared_align.max(variable.align);
        offset
    }

    /// Places the module's static shared variables that `statements` name and that have no place yet.
    pub fn place_named_shared(&mut self, statements: &[Statement]) {
        for statement in statements {
            match statement {
                Statement::Block(inner) => self.place_named_shared(inner),
                Statement::Instruction(i) => i.operands.iter().for_each(|o| self.place_operand(o)),
                _ => {}
            }
        }
    }

    fn place_operand(&mut self, operand: &Operand) {
        let name = match operand {
            Operand::Name(name, _) | Operand::NameOffset(name, _) => name,
            Operand::Address { base: Some(name), .. } => name,
            Operand::Vector(list) | Operand::List(list) => {
                return list.iter().for_each(|o| self.place_operand(o));
            }
            _ => return,
        };
        let ast = self.ast;
        let variable =
            ast.variables.iter().find(|v| v.space == Space::Shared && v.size > 0 && v.name == *name);
        if let Some(variable) = variable.filter(|_| !self.shared.contains_key(name)) {
            let offset = self.place_shared(variable);
            self.shared.insert(name.clone(), offset);
        }
    }
}
