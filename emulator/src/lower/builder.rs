//! Lowering of one function's statements to operations on virtual registers: scopes, names, and typed operands.
//!
//! The operations themselves are chosen in the sibling modules.

mod operands;

use std::collections::HashMap;

use crate::arch::number_of;
use crate::code::*;
use crate::error::{Error, Result};
use crate::exec::lanes::{LaneFn, Level, level};
use crate::exec::scalar::Scalar;
use crate::ptx::ast::*;
use crate::ptx::table::Needs;

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
    /// The module has static shared variables.
    pub has_shared: bool,
    /// Some `bar.warp.sync` has a mask that is not known to be all lanes.
    pub partial_warp_barriers: bool,
    /// Indices of the functions whose address the module takes; known after the first indirect call.
    pub address_taken: Option<Vec<usize>>,
}

#[derive(Clone, Debug)]
pub enum Symbol {
    Register(V),
    /// Offset in the frame's local memory (a `.local` variable, or a `.param` of a call).
    Local(u32, Space),
    /// Offset in the kernel's parameters.
    KernelParam(u32),
    Shared(u32),
    DynamicShared,
    Global(u32, Space),
    Label(u32),
    Targets(Vec<u32>),
    /// The index of a function of the module.
    Function(usize),
    /// The signature of indirect calls, or the functions they go to.
    Signature(super::call::Signature),
    Callees(Vec<String>),
}

#[derive(Default)]
pub struct Scope {
    names: HashMap<String, Symbol>,
    /// `%r<n>` by its prefix: first register and count.
    ranges: HashMap<String, (V, u32)>,
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
    /// Where the stack ended when the function was entered, if it takes some.
    pub stack_at_entry: Option<V>,
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
            scopes: vec![Scope::default()],
            fixed: HashMap::new(),
            local_bytes: 0,
            calls: Vec::new(),
            line: function.line,
            loc: None,
            guard: None,
            level: level(),
            carry: None,
            stack_at_entry: None,
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
                if let Some((first, count)) = scope.ranges.get(prefix) {
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
        let Some(index) = self.kernel.ast.variables.iter().position(|v| v.name == name) else {
            let functions = &self.kernel.ast.functions;
            let defined = functions.iter().position(|f| f.name == name && f.body.is_some());
            return defined.or(functions.iter().position(|f| f.name == name)).map(Symbol::Function);
        };
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
                self.return_offsets.push((p.name.clone(), offset, p.size as u32));
                self.formal(p, offset)?;
            }
            for p in &function.params {
                let offset = self.reserve_local(p.size, p.align)?;
                self.param_offsets.push((p.name.clone(), offset, p.size as u32));
                self.formal(p, offset)?;
                if p.in_register {
                    self.load_formal(p, offset)?;
                }
            }
        }
        let Some(body) = &function.body else {
            return self.error(format!("`{}` is declared but has no body in this module", function.name));
        };
        self.kernel.place_named_shared(body);
        if super::call::takes_stack(body) {
            self.save_stack_at_entry();
        }
        self.block(body)?;
        // Falling off the end is a return.
        self.guard = None;
        self.leave()?;
        self.emit(Kind::Ret, vec![], vec![], Class::Control);
        Ok(())
    }

    fn block(&mut self, statements: &'a [Statement]) -> Result<()> {
        self.scopes.push(Scope::default());
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
                Statement::Prototype { name, returns, params } => {
                    let signature = super::call::Signature::new(returns, params);
                    self.declare(name, Symbol::Signature(signature));
                }
                Statement::CallTargets { name, functions } => {
                    self.declare(name, Symbol::Callees(functions.clone()));
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn registers(&mut self, ty: Ty, names: &[(String, Option<u32>)]) -> Result<()> {
        for (name, count) in names {
            let known = self.scopes.last().is_some_and(|s| match count {
                Some(_) => s.ranges.contains_key(name),
                None => s.names.contains_key(name),
            });
            if known {
                return self.error(format!("register `{name}` is declared twice in one scope"));
            }
            let first = self.vregs.len() as V;
            if first as u64 + count.unwrap_or(1) as u64 > 1 << 20 {
                return self.error("more than a million registers are declared");
            }
            match count {
                Some(n) => {
                    for i in 0..*n {
                        self.new_vreg(ty, &format!("{name}{i}"));
                    }
                    if let Some(scope) = self.scopes.last_mut() {
                        scope.ranges.insert(name.to_string(), (first, *n));
                    }
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
        self.check_target(instruction)?;
        self.guard = match &instruction.guard {
            Some((name, negated)) => Some((self.register(name, Ty::Pred)?, *negated)),
            None => None,
        };
        self.select(instruction)
    }

    /// The number of the module's target: 80 of `sm_80`.
    pub fn target(&self) -> u32 {
        number_of(&self.kernel.ast.target).unwrap_or(0)
    }

    /// Refuses forms that the module's target or its PTX version do not have.
    fn check_target(&self, i: &Instruction) -> Result<()> {
        let needs = i.form.needs;
        if needs == Needs::default() {
            return Ok(());
        }
        let (target, version) = (&self.kernel.ast.target, self.kernel.ast.version);
        if self.target() < needs.target || needs.specific && *target != format!("sm_{}a", needs.target) {
            let suffix = if needs.specific { "a" } else { "" };
            return self.error(format!(
                "`{}` needs sm_{}{suffix}, the module is for {target}",
                i.form, needs.target
            ));
        }
        if version < needs.version {
            let (major, minor) = needs.version;
            return self.error(format!(
                "`{}` needs .version {major}.{minor}, the module has {}.{}",
                i.form, version.0, version.1
            ));
        }
        Ok(())
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
        if !self.has_shared {
            return;
        }
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
