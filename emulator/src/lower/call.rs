//! Calls: direct, indirect through an address, and to the functions that the emulator provides (PTX ISA 7.1, 9.7.12.5).
//!
//! Arguments travel through the local memory of the two frames: the caller's `.param` variables are copied to the
//! callee's. Parameters in registers (`.reg`) get a place there too.

use super::builder::{Builder, KernelBuilder, Symbol, V};
use crate::code::*;
use crate::error::Result;
use crate::memory::function_address;
use crate::ptx::ast::*;
use crate::ptx::table::Op;

/// Two numbers for each result or parameter: bytes and alignment, or offset and bytes.
type Pairs = Vec<(u32, u32)>;

/// Bytes and alignments of the results and of the parameters of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    returns: Pairs,
    params: Pairs,
}

impl Signature {
    pub fn new(returns: &[Variable], params: &[Variable]) -> Signature {
        let shape = |list: &[Variable]| list.iter().map(|v| (v.size as u32, v.align.max(1))).collect();
        Signature { returns: shape(returns), params: shape(params) }
    }

    fn of(function: &Function) -> Signature {
        Signature::new(&function.returns, &function.params)
    }

    /// True when both pass the same bytes: alignments may differ.
    fn passes_like(&self, other: &Signature) -> bool {
        let same = |a: &[(u32, u32)], b: &[(u32, u32)]| a.iter().map(|x| x.0).eq(b.iter().map(|x| x.0));
        same(&self.returns, &other.returns) && same(&self.params, &other.params)
    }

    /// Offsets in the callee's frame, results first, as `Builder::run` lays them out.
    fn offsets(&self) -> (Pairs, Pairs) {
        let mut at = 0u32;
        let mut place = |&(size, align): &(u32, u32)| {
            let offset = at.div_ceil(align) * align;
            at = offset + size;
            (offset, size)
        };
        let returns = self.returns.iter().map(&mut place).collect();
        (returns, self.params.iter().map(&mut place).collect())
    }
}

impl<'a> Builder<'_, 'a> {
    /// Declares a parameter or result of the function, which lies at `offset`.
    pub(super) fn formal(&mut self, p: &Variable, offset: u32) -> Result<()> {
        let symbol = if p.in_register {
            Symbol::Register(self.new_vreg(p.ty, &p.name))
        } else {
            Symbol::Local(offset, Space::Param)
        };
        self.declare(&p.name, symbol);
        Ok(())
    }

    /// Takes a parameter in a register from where the caller put it.
    pub(super) fn load_formal(&mut self, p: &Variable, offset: u32) -> Result<()> {
        let d = self.register(&p.name, p.ty)?;
        self.load_param(offset, p.ty, d)
    }

    /// Before a return: gives stack back, and puts the results in registers where the caller finds them.
    pub(super) fn leave(&mut self) -> Result<()> {
        let function = self.function;
        if let Some(v) = self.stack_at_entry {
            self.emit(Kind::StackRestore, vec![], vec![v], Class::None);
        }
        for (i, p) in function.returns.iter().enumerate().filter(|(_, p)| p.in_register) {
            let offset = self.return_offsets[i].1;
            let v = self.register(&p.name, p.ty)?;
            self.store_param(offset, p.ty, v)?;
        }
        Ok(())
    }

    /// The function's `alloca`s end with it.
    pub(super) fn save_stack_at_entry(&mut self) {
        let v = self.temp(Ty::U64);
        self.kernel.code.uses_alloca = true;
        self.emit(Kind::StackSave, vec![v], vec![], Class::None);
        self.stack_at_entry = Some(v);
    }

    /// alloca, stacksave and stackrestore (PTX ISA 9.7.18): addresses are of the local space.
    pub(super) fn stack(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        if ty != Ty::U64 {
            return self.error(format!("`{}` belongs to 32-bit addressing, which is not supported", i.form));
        }
        match (i.form.op, &i.operands[..]) {
            (Op::Alloca, [d, bytes]) => self.alloca(d, bytes, 8),
            (Op::Alloca, [d, bytes, Operand::Int(align)]) => match u32::try_from(*align) {
                Ok(align) if align.is_power_of_two() && align <= 1 << 16 => self.alloca(d, bytes, align),
                _ => self.error(format!("alloca to a multiple of {align} is not possible")),
            },
            (Op::StackSave, [d]) => {
                let d = self.dest(d, ty)?;
                self.emit(Kind::StackSave, vec![d], vec![], Class::Integer);
                Ok(())
            }
            (Op::StackRestore, [a]) => {
                let a = self.source(a, ty)?;
                self.emit(Kind::StackRestore, vec![], vec![a], Class::Integer);
                Ok(())
            }
            _ => self.error(format!("`{}` has the wrong operands", i.form)),
        }
    }

    fn alloca(&mut self, d: &'a Operand, bytes: &'a Operand, align: u32) -> Result<()> {
        let (d, bytes) = (self.dest(d, Ty::U64)?, self.source(bytes, Ty::U64)?);
        self.emit(Kind::Alloca(align), vec![d], vec![bytes], Class::Integer);
        Ok(())
    }

    /// `call (results), function, (arguments)[, prototype];`
    pub(super) fn call(&mut self, i: &'a Instruction) -> Result<()> {
        let mut operands = i.operands.iter().peekable();
        let list = |operand: Option<&&'a Operand>| matches!(operand, Some(Operand::List(_)));
        let results = list_of(if list(operands.peek()) { operands.next() } else { None });
        let Some(Operand::Name(name, None)) = operands.next() else {
            return self.error("call takes the name of a function or of a register with its address");
        };
        let arguments = list_of(if list(operands.peek()) { operands.next() } else { None });
        let prototype = operands.next();
        if operands.next().is_some() {
            return self.error("call has an operand too many");
        }
        if let Some(Symbol::Register(target)) = self.lookup(name) {
            return self.call_register(name, target, results, arguments, prototype);
        }
        if self.provided(name, results, arguments)? {
            return Ok(());
        }
        let Some(Symbol::Function(callee)) = self.lookup(name) else {
            return self.error(format!("function `{name}` has no body in this module"));
        };
        let function = &self.kernel.ast.functions[callee];
        if function.body.is_none() {
            return self.error(format!("function `{name}` has no body in this module"));
        }
        if function.is_entry {
            return self.error(format!("`{name}` is a kernel and cannot be called"));
        }
        let signature = Signature::of(function);
        let (arguments, results, loads) = self.actuals(name, results, arguments, &signature, function)?;
        let call = self.call_op(callee, &signature, &arguments, &results);
        self.emit(Kind::Call(call), vec![], vec![], Class::Control);
        self.load_results(loads)
    }

    fn call_register(
        &mut self,
        name: &str,
        target: V,
        results: &'a [Operand],
        arguments: &'a [Operand],
        prototype: Option<&Operand>,
    ) -> Result<()> {
        if self.vregs[target as usize].ty.bytes() != 8 {
            return self.error(format!("`{name}` does not hold the address of a function (64 bits)"));
        }
        let described = match prototype {
            Some(Operand::Name(name, None)) => self.lookup(name),
            _ => return self.error("an indirect call needs a prototype or a list of targets"),
        };
        let ast = self.kernel.ast;
        let (signature, candidates) = match described {
            Some(Symbol::Signature(signature)) => {
                let mut candidates = self.kernel.taken();
                candidates.retain(|&f| Signature::of(&ast.functions[f]).passes_like(&signature));
                (signature, candidates)
            }
            Some(Symbol::Callees(names)) => {
                let mut candidates = Vec::new();
                for name in &names {
                    match self.lookup(name) {
                        Some(Symbol::Function(f)) if ast.functions[f].body.is_some() => candidates.push(f),
                        _ => return self.error(format!("function `{name}` has no body in this module")),
                    }
                }
                (Signature::of(&ast.functions[candidates[0]]), candidates)
            }
            _ => return self.error("an indirect call needs a prototype or a list of targets"),
        };
        let shape = candidates.first().map(|&f| &ast.functions[f]);
        let function = shape.unwrap_or(self.function);
        let (arguments, results, loads) = self.actuals(name, results, arguments, &signature, function)?;
        let mut targets = Vec::new();
        for callee in candidates {
            let own = Signature::of(&ast.functions[callee]);
            targets.push((function_address(callee), self.call_op(callee, &own, &arguments, &results)));
        }
        self.kernel.code.indirects.push(targets);
        let index = self.kernel.code.indirects.len() as u32 - 1;
        self.emit(Kind::CallIndirect(index), vec![], vec![target], Class::Control);
        self.load_results(loads)
    }

    /// Where the arguments and results of a call lie in this frame, and the registers to load from there afterwards.
    #[allow(clippy::type_complexity)]
    fn actuals(
        &mut self,
        name: &str,
        results: &'a [Operand],
        arguments: &'a [Operand],
        signature: &Signature,
        function: &Function,
    ) -> Result<(Vec<u32>, Vec<u32>, Vec<(u32, Ty, V)>)> {
        let (params, returns) = (signature.params.len(), signature.returns.len());
        if (arguments.len(), results.len()) != (params, returns) {
            return self.error(format!(
                "`{name}` takes {params} arguments and gives {returns} results, the call has {} and {}",
                arguments.len(),
                results.len()
            ));
        }
        let (mut to, mut from, mut loads) = (Vec::new(), Vec::new(), Vec::new());
        for (i, operand) in arguments.iter().enumerate() {
            if let Some(at) = self.param_variable(operand) {
                to.push(at);
                continue;
            }
            let ty = function.params.get(i).map_or(Ty::B32, |p| p.ty);
            let (size, align) = signature.params[i];
            let at = self.reserve_local(size as u64, align)?;
            let v = self.source(operand, ty)?;
            self.store_param(at, ty, v)?;
            to.push(at);
        }
        for (i, operand) in results.iter().enumerate() {
            if let Some(at) = self.param_variable(operand) {
                from.push(at);
                continue;
            }
            let ty = function.returns.get(i).map_or(Ty::B32, |p| p.ty);
            let (size, align) = signature.returns[i];
            let at = self.reserve_local(size as u64, align)?;
            loads.push((at, ty, self.dest(operand, ty)?));
            from.push(at);
        }
        Ok((to, from, loads))
    }

    fn param_variable(&self, operand: &Operand) -> Option<u32> {
        match operand {
            Operand::Name(name, None) => match self.lookup(name) {
                Some(Symbol::Local(at, Space::Param)) => Some(at),
                _ => None,
            },
            _ => None,
        }
    }

    fn load_results(&mut self, loads: Vec<(u32, Ty, V)>) -> Result<()> {
        loads.into_iter().try_for_each(|(at, ty, d)| self.load_param(at, ty, d))
    }

    fn call_op(&mut self, callee: usize, signature: &Signature, arguments: &[u32], results: &[u32]) -> u32 {
        let name = &self.kernel.ast.functions[callee].name;
        let function = self.kernel.function_index(name);
        let (returns, params) = signature.offsets();
        self.kernel.code.calls.push(CallOp {
            function,
            arguments: arguments.iter().zip(&params).map(|(&from, &(to, size))| (from, to, size)).collect(),
            results: results.iter().zip(&returns).map(|(&to, &(from, size))| (from, to, size)).collect(),
        });
        self.calls.push(function);
        self.kernel.code.calls.len() as u32 - 1
    }

    /// vprintf, __assertfail, malloc and free, which the driver would link in; false when `name` is another function.
    fn provided(&mut self, name: &str, results: &[Operand], arguments: &[Operand]) -> Result<bool> {
        let count = match name {
            "malloc" | "free" => 1,
            "vprintf" => 2,
            "__assertfail" => 5,
            _ => return Ok(false),
        };
        if let Some(Symbol::Function(own)) = self.lookup(name)
            && self.kernel.ast.functions[own].body.is_some()
        {
            return Ok(false);
        }
        if arguments.len() != count {
            return self.error(format!("{name} takes {count} arguments, {} are given", arguments.len()));
        }
        let mut values = Vec::new();
        for (k, operand) in arguments.iter().enumerate() {
            // Line and character size of an assertion are 4 and 8 bytes.
            let ty = if count == 5 && k == 2 { Ty::U32 } else { Ty::U64 };
            values.push(match self.param_variable(operand) {
                Some(at) => {
                    let d = self.temp(ty);
                    self.load_param(at, ty, d)?;
                    d
                }
                None => self.source(operand, ty)?,
            });
        }
        if count == 5 {
            let uses = vec![values[0], values[1], values[3]];
            self.emit(Kind::Assert, vec![], uses, Class::Control);
            return Ok(true);
        }
        let (kind, ty) = match name {
            "malloc" => (Kind::Malloc, Ty::U64),
            "free" => {
                self.emit(Kind::Free, vec![], values, Class::Control);
                return Ok(true);
            }
            _ => (Kind::Print, Ty::U32),
        };
        let result = results.first();
        let d = match result {
            Some(operand) if self.param_variable(operand).is_none() => self.dest(operand, ty)?,
            _ => self.temp(ty),
        };
        self.emit(kind, vec![d], values, Class::Control);
        if let Some(at) = result.and_then(|operand| self.param_variable(operand)) {
            self.store_param(at, ty, d)?;
        }
        Ok(true)
    }

    /// An access to this frame's parameters.
    fn param_op(&mut self, offset: u32, ty: Ty) -> u32 {
        let bytes = ty.bytes() as u8;
        self.kernel.code.mems.push(MemOp {
            space: Space::Local,
            bytes,
            count: 1,
            reg_bytes: bytes,
            signed: ty.is_signed(),
            address: Bank::R32,
            offset: offset as i64,
            strength: Strength::Weak,
            read_only: false,
            used_bytes: u16::MAX,
        });
        self.kernel.code.mems.len() as u32 - 1
    }

    fn load_param(&mut self, offset: u32, ty: Ty, d: V) -> Result<()> {
        let (base, op) = (self.fixed(Fixed::LocalBase, Ty::U32), self.param_op(offset, ty));
        self.emit(Kind::Load(op), vec![d], vec![base], Class::None);
        Ok(())
    }

    fn store_param(&mut self, offset: u32, ty: Ty, v: V) -> Result<()> {
        let (base, op) = (self.fixed(Fixed::LocalBase, Ty::U32), self.param_op(offset, ty));
        self.emit(Kind::Store(op), vec![], vec![base, v], Class::None);
        Ok(())
    }
}

fn list_of(operand: Option<&Operand>) -> &[Operand] {
    match operand {
        Some(Operand::List(list)) => list,
        _ => &[],
    }
}

impl KernelBuilder<'_> {
    /// The functions whose address the module takes: in initial values, or as an operand of anything but a call.
    fn taken(&mut self) -> Vec<usize> {
        if let Some(taken) = &self.address_taken {
            return taken.clone();
        }
        let mut names = std::collections::HashSet::new();
        for variable in &self.ast.variables {
            names.extend(variable.init.iter().filter_map(|init| match init {
                Init::Symbol { name, .. } => Some(name.as_str()),
                Init::Bits(_) => None,
            }));
        }
        self.ast.functions.iter().filter_map(|f| f.body.as_ref()).for_each(|b| operand_names(b, &mut names));
        let functions = self.ast.functions.iter().enumerate();
        let taken: Vec<usize> = functions
            .filter(|(_, f)| f.body.is_some() && !f.is_entry && names.contains(f.name.as_str()))
            .map(|(i, _)| i)
            .collect();
        self.address_taken = Some(taken.clone());
        taken
    }
}

/// True when a function takes stack while it runs.
pub(super) fn takes_stack(statements: &[Statement]) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::Block(inner) => takes_stack(inner),
        Statement::Instruction(i) => i.form.op == Op::Alloca,
        _ => false,
    })
}

fn operand_names<'a>(statements: &'a [Statement], names: &mut std::collections::HashSet<&'a str>) {
    for statement in statements {
        match statement {
            Statement::Block(inner) => operand_names(inner, names),
            Statement::Instruction(i) if i.form.op != Op::Call => {
                names.extend(i.operands.iter().filter_map(|o| match o {
                    Operand::Name(name, None) | Operand::NameOffset(name, _) => Some(name.as_str()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
}
