//! Control flow, calls, warp exchanges, barriers and matrix instructions (PTX ISA 9.7.12 to 9.7.14).

use super::builder::{Builder, Symbol, V};
use crate::code::*;
use crate::error::Result;
use crate::ptx::ast::*;
use crate::ptx::table::Op;

impl<'a> Builder<'_, 'a> {
    pub fn select_sync(&mut self, i: &'a Instruction) -> Result<()> {
        let control = Class::Control;
        match i.form.op {
            Op::Bra => {
                let [target] = self.operands(i)?;
                let Operand::Name(name, None) = target else { return self.error("bra takes a label") };
                let label = self.label(name)?;
                self.emit(Kind::Branch(0), vec![], vec![], control);
                if let Some(l) = self.insts.last_mut() {
                    l.targets.push(label)
                }
                Ok(())
            }
            Op::BrxIdx => {
                let [index, list] = self.operands(i)?;
                let index = self.source(index, Ty::U32)?;
                let Operand::Name(name, None) = list else {
                    return self.error("brx.idx takes a list of targets");
                };
                let Some(Symbol::Targets(targets)) = self.lookup(name) else {
                    return self.error(format!("`{name}` is not a list of branch targets"));
                };
                self.kernel.code.tables.push(TableOp { targets: Vec::new() });
                let table = self.kernel.code.tables.len() as u32 - 1;
                self.emit(Kind::BranchIndex(table), vec![], vec![index], control);
                self.set_targets(targets);
                Ok(())
            }
            Op::Call => self.call(i),
            Op::Ret => {
                self.emit(Kind::Ret, vec![], vec![], control);
                Ok(())
            }
            Op::Exit => {
                self.emit(Kind::Exit, vec![], vec![], control);
                Ok(())
            }
            Op::Trap | Op::Brkpt => {
                self.emit(Kind::Trap, vec![], vec![], control);
                Ok(())
            }
            Op::Nanosleep => {
                self.emit(Kind::Nanosleep, vec![], vec![], control);
                Ok(())
            }
            Op::Fence => {
                if !i.form.has("cta") {
                    self.kernel.code.blocks_communicate = true;
                }
                self.emit(Kind::Fence, vec![], vec![], Class::Barrier);
                Ok(())
            }
            Op::Bar => self.barrier(i),
            Op::BarWarp => {
                let [mask] = self.operands(i)?;
                let mask = self.source(mask, Ty::B32)?;
                self.emit(Kind::BarWarp, vec![], vec![mask], Class::Barrier);
                Ok(())
            }
            Op::Vote | Op::Match | Op::Activemask | Op::Redux | Op::Shfl => self.exchange(i),
            Op::Mma => self.mma(i),
            Op::Ldmatrix => self.ldmatrix(i),
            Op::Movmatrix => {
                let [d, a] = self.operands(i)?;
                let (d, a) = (self.dest(d, Ty::B32)?, self.source(a, Ty::B32)?);
                self.emit(Kind::Movmatrix, vec![d], vec![a], Class::Tensor);
                Ok(())
            }
            _ => self.unsupported(i),
        }
    }

    /// `call (results), function, (arguments);` with every argument a `.param` variable of the caller.
    fn call(&mut self, i: &'a Instruction) -> Result<()> {
        let mut operands = i.operands.iter().peekable();
        let list = |operand: Option<&&Operand>| matches!(operand, Some(Operand::List(_)));
        let results = if list(operands.peek()) { operands.next() } else { None };
        let Some(Operand::Name(name, None)) = operands.next() else {
            return self.error("call takes a function's name; indirect calls are not supported");
        };
        let arguments = operands.next();
        if let Some(extra) = operands.next() {
            return self.error(format!(
                "call has an operand too many ({extra:?}); indirect calls are not supported"
            ));
        }
        let offsets = |this: &Self, operand: Option<&Operand>| -> Result<Vec<u32>> {
            let Some(Operand::List(list)) = operand else { return Ok(Vec::new()) };
            list.iter()
                .map(|o| match o {
                    Operand::Name(n, None) => match this.lookup(n) {
                        Some(Symbol::Local(at, Space::Param)) => Ok(at),
                        _ => this.error(format!("`{n}` is not a .param variable of this function")),
                    },
                    _ => this.error("arguments of calls must be .param variables"),
                })
                .collect()
        };
        let results = offsets(self, results)?;
        let arguments = offsets(self, arguments)?;
        match name.as_str() {
            "vprintf" => {
                let &[format, buffer] = &arguments[..] else {
                    return self.error("vprintf takes two arguments");
                };
                let (f, b) = (self.load_param(format)?, self.load_param(buffer)?);
                let d = self.temp(Ty::U32);
                self.emit(Kind::Print, vec![d], vec![f, b], Class::Control);
                if let Some(&result) = results.first() {
                    self.store_param(result, d)?;
                }
                return Ok(());
            }
            "__assertfail" => {
                if arguments.len() != 5 {
                    return self.error("__assertfail takes five arguments");
                }
                let mut uses = Vec::new();
                for &k in &[arguments[0], arguments[1], arguments[3]] {
                    uses.push(self.load_param(k)?);
                }
                self.emit(Kind::Assert, vec![], uses, Class::Control);
                return Ok(());
            }
            _ => {}
        }
        let ast = self.kernel.ast;
        let Some(callee) = ast.functions.iter().find(|f| f.name == *name && f.body.is_some()) else {
            return self.error(format!("function `{name}` has no body in this module"));
        };
        if callee.is_entry {
            return self.error(format!("`{name}` is a kernel and cannot be called"));
        }
        if (arguments.len(), results.len()) != (callee.params.len(), callee.returns.len()) {
            return self.error(format!(
                "`{name}` takes {} arguments and gives {} results, the call has {} and {}",
                callee.params.len(),
                callee.returns.len(),
                arguments.len(),
                results.len()
            ));
        }
        let function = self.kernel.function_index(name);
        // Offsets in the callee's frame: results, then parameters, as Builder::run lays them out.
        let mut at = 0;
        let mut place = |v: &Variable| {
            let offset = u32::div_ceil(at, v.align.max(1)) * v.align.max(1);
            at = offset + v.size as u32;
            (offset, v.size as u32)
        };
        let result_places: Vec<_> = callee.returns.iter().map(&mut place).collect();
        let param_places: Vec<_> = callee.params.iter().map(&mut place).collect();
        self.kernel.code.calls.push(CallOp {
            function,
            arguments: arguments
                .iter()
                .zip(&param_places)
                .map(|(&from, &(to, size))| (from, to, size))
                .collect(),
            results: results
                .iter()
                .zip(&result_places)
                .map(|(&to, &(from, size))| (from, to, size))
                .collect(),
        });
        let index = self.kernel.code.calls.len() as u32 - 1;
        self.calls.push(function);
        self.emit(Kind::Call(index), vec![], vec![], Class::Control);
        Ok(())
    }

    fn param_op(&mut self, offset: u32, bytes: u32) -> MemOp {
        MemOp {
            space: Space::Local,
            bytes: bytes as u8,
            count: 1,
            reg_bytes: bytes as u8,
            signed: false,
            address: Bank::R32,
            offset: offset as i64,
            strong: false,
            read_only: false,
        }
    }

    fn load_param(&mut self, offset: u32) -> Result<V> {
        let (d, base) = (self.temp(Ty::U64), self.fixed(Fixed::LocalBase, Ty::U32));
        let op = self.param_op(offset, 8);
        self.kernel.code.mems.push(op);
        self.emit(Kind::Load(self.kernel.code.mems.len() as u32 - 1), vec![d], vec![base], Class::None);
        Ok(d)
    }

    fn store_param(&mut self, offset: u32, v: V) -> Result<()> {
        let base = self.fixed(Fixed::LocalBase, Ty::U32);
        let op = self.param_op(offset, 4);
        self.kernel.code.mems.push(op);
        self.emit(Kind::Store(self.kernel.code.mems.len() as u32 - 1), vec![], vec![base, v], Class::None);
        Ok(())
    }

    fn barrier(&mut self, i: &'a Instruction) -> Result<()> {
        let op = match i.form.one_of(&["sync", "arrive", "popc", "and", "or"]) {
            Some("sync") => BarrierOp::Sync,
            Some("arrive") => BarrierOp::Arrive,
            Some("popc") => BarrierOp::RedPopc,
            Some("and") => BarrierOp::RedAnd,
            _ => BarrierOp::RedOr,
        };
        let reduces = !matches!(op, BarrierOp::Sync | BarrierOp::Arrive);
        let mut operands = i.operands.iter();
        let mut defs = Vec::new();
        if reduces {
            let Some(d) = operands.next() else {
                return self.error("a reducing barrier needs a destination");
            };
            defs.push(self.dest(d, if op == BarrierOp::RedPopc { Ty::U32 } else { Ty::Pred })?);
        }
        let rest: Vec<&Operand> = operands.collect();
        let (numbers, pred) = match (reduces, rest.split_last()) {
            (true, Some((last, front))) => (front.to_vec(), Some(*last)),
            _ => (rest, None),
        };
        if numbers.is_empty() || numbers.len() > 2 || (op == BarrierOp::Arrive && numbers.len() != 2) {
            return self.error(format!("`{}` has the wrong number of operands", i.form));
        }
        let mut uses = Vec::new();
        for n in &numbers {
            uses.push(self.source(n, Ty::U32)?);
        }
        if let Some(p) = pred {
            uses.push(self.source(p, Ty::Pred)?);
        }
        let aligned = i.form.has("aligned") || i.bar_root;
        let barrier = Barrier { op, aligned, has_count: numbers.len() == 2 };
        self.emit(Kind::Barrier(barrier), defs, uses, Class::Barrier);
        Ok(())
    }

    fn exchange(&mut self, i: &'a Instruction) -> Result<()> {
        let class = Class::WarpExchange;
        match i.form.op {
            Op::Activemask => {
                let [d] = self.operands(i)?;
                let d = self.dest(d, Ty::B32)?;
                self.emit(Kind::Activemask, vec![d], vec![], class);
            }
            Op::Vote => {
                let [d, p, mask] = self.operands(i)?;
                let vote = match i.form.one_of(&["all", "any", "uni", "ballot"]) {
                    Some("all") => Vote::All,
                    Some("any") => Vote::Any,
                    Some("uni") => Vote::Uni,
                    _ => Vote::Ballot,
                };
                let d = self.dest(d, if vote == Vote::Ballot { Ty::B32 } else { Ty::Pred })?;
                let uses = vec![self.source(mask, Ty::B32)?, self.source(p, Ty::Pred)?];
                self.emit(Kind::Vote(vote), vec![d], uses, class);
            }
            Op::Match => {
                let [d, a, mask] = self.operands(i)?;
                let ty = i.form.types()[0];
                let all = i.form.has("all");
                let mut defs = match d {
                    Operand::Pair(d, p) if all => vec![self.dest(d, Ty::B32)?, self.dest(p, Ty::Pred)?],
                    d => vec![self.dest(d, Ty::B32)?],
                };
                if all && defs.len() == 1 {
                    defs.push(self.temp(Ty::Pred));
                }
                let uses = vec![self.source(mask, Ty::B32)?, self.source(a, ty)?];
                self.emit(Kind::Match { all, wide: ty.bytes() == 8 }, defs, uses, class);
            }
            Op::Redux => {
                let [d, a, mask] = self.operands(i)?;
                let ty = i.form.types()[0];
                let op = match (i.form.one_of(&["add", "min", "max", "and", "or", "xor"]), ty.is_signed()) {
                    (Some("add"), _) => Redux::Add,
                    (Some("min"), false) => Redux::MinU,
                    (Some("min"), true) => Redux::MinS,
                    (Some("max"), false) => Redux::MaxU,
                    (Some("max"), true) => Redux::MaxS,
                    (Some("and"), _) => Redux::And,
                    (Some("or"), _) => Redux::Or,
                    _ => Redux::Xor,
                };
                let d = self.dest(d, ty)?;
                let uses = vec![self.source(mask, Ty::B32)?, self.source(a, ty)?];
                self.emit(Kind::Redux(op), vec![d], uses, class);
            }
            _ => {
                let [d, a, b, c, mask] = self.operands(i)?;
                let mode = match i.form.one_of(&["up", "down", "bfly", "idx"]) {
                    Some("up") => Shuffle::Up,
                    Some("down") => Shuffle::Down,
                    Some("bfly") => Shuffle::Bfly,
                    _ => Shuffle::Idx,
                };
                let defs = match d {
                    Operand::Pair(d, p) => vec![self.dest(d, Ty::B32)?, self.dest(p, Ty::Pred)?],
                    d => vec![self.dest(d, Ty::B32)?, self.temp(Ty::Pred)],
                };
                let uses = vec![
                    self.source(mask, Ty::B32)?,
                    self.source(a, Ty::B32)?,
                    self.source(b, Ty::B32)?,
                    self.source(c, Ty::B32)?,
                ];
                self.emit(Kind::Shuffle(mode), defs, uses, class);
            }
        }
        Ok(())
    }

    fn vector(&mut self, operand: &Operand, count: usize, ty: Ty, dest: bool) -> Result<Vec<V>> {
        let list: Vec<&Operand> = match operand {
            Operand::Vector(list) => list.iter().collect(),
            one => vec![one],
        };
        if list.len() != count {
            return self.error(format!("this operand needs {count} registers, {} are given", list.len()));
        }
        if ty == Ty::B32 {
            list.iter().try_for_each(|o| self.untyped(o))?;
        }
        list.into_iter().map(|o| if dest { self.dest(o, ty) } else { self.source(o, ty) }).collect()
    }

    fn mma(&mut self, i: &'a Instruction) -> Result<()> {
        let types: Vec<&str> = i.form.mods.iter().copied().filter(|m| Ty::from_word(m).is_some()).collect();
        let ty = match (types[1], types[2]) {
            ("f16", "f16") => MmaType::F16,
            ("bf16", "bf16") => MmaType::Bf16,
            ("tf32", "tf32") => MmaType::Tf32,
            (a @ ("s8" | "u8"), b @ ("s8" | "u8")) => MmaType::Int8(a == "s8", b == "s8"),
            (a, b) => return self.error(format!("mma cannot multiply .{a} by .{b}")),
        };
        let k = match i.form.one_of(&["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"]) {
            Some("m16n8k4") => 4,
            Some("m16n8k8") => 8,
            Some("m16n8k16") => 16,
            _ => 32,
        };
        let half_accumulator = types[0] == "f16";
        let mma = Mma { k, ty, half_accumulator, satfinite: i.form.has("satfinite") };
        let (nd, na, nb) = mma.registers();
        let [d, a, b, c] = self.operands(i)?;
        let acc = match (half_accumulator, ty) {
            (true, _) => Ty::B32,
            (_, MmaType::Int8(..)) => Ty::S32,
            _ => Ty::F32,
        };
        let defs = self.vector(d, nd, acc, true)?;
        let mut uses = self.vector(a, na, Ty::B32, false)?;
        uses.extend(self.vector(b, nb, Ty::B32, false)?);
        uses.extend(self.vector(c, nd, acc, false)?);
        self.emit(Kind::Mma(mma), defs, uses, Class::Tensor);
        self.emit_flops(2 * 16 * 8 * k as u32 / 32);
        Ok(())
    }

    fn ldmatrix(&mut self, i: &'a Instruction) -> Result<()> {
        let [d, address] = self.operands(i)?;
        let count = match i.form.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            _ => 4,
        };
        let defs = self.vector(d, count, Ty::B32, true)?;
        let Operand::Address { base: Some(name), offset } = address else {
            return self.error("ldmatrix takes an address in a register");
        };
        let v = match self.lookup(name) {
            Some(Symbol::Register(v)) if matches!(self.vregs[v as usize].ty.bytes(), 4 | 8) => v,
            _ => return self.error("ldmatrix takes an address in a register"),
        };
        if !i.form.has("shared") && !i.form.has("shared::cta") {
            return self.error("ldmatrix without .shared (a generic address) is not supported");
        }
        // The address as 64 bits with its offset, so that the operation has one form.
        let wide = if self.vregs[v as usize].bank == Bank::R32 {
            let t = self.temp(Ty::U64);
            self.lane(crate::exec::fast::cvt_u64_u32, t, &[v], Class::None);
            t
        } else {
            v
        };
        let (t, k) = (self.temp(Ty::U64), self.constant(*offset as u64, Ty::U64));
        self.lane(crate::exec::fast::add64, t, &[wide, k], Class::None);
        let transpose = i.form.has("trans");
        self.emit(Kind::Ldmatrix { count: count as u8, transpose }, defs, vec![t], Class::Tensor);
        Ok(())
    }
}
