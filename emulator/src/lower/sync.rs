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
            Op::Alloca | Op::StackSave | Op::StackRestore => self.stack(i),
            Op::Ret => {
                self.leave()?;
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
                let [time] = self.operands(i)?;
                self.source(time, Ty::U32)?;
                self.emit(Kind::Nanosleep, vec![], vec![], control);
                Ok(())
            }
            Op::Fence => {
                let wide = !i.form.has("cta") && !i.form.has("cluster");
                self.kernel.code.blocks_communicate |= wide;
                let (acquires, releases) = (!i.form.has("release"), !i.form.has("acquire"));
                let fence = Fence { wide, acquires, releases };
                self.emit(Kind::Fence(fence), vec![], vec![], Class::Barrier);
                Ok(())
            }
            Op::Bar => self.barrier(i),
            Op::BarWarp => {
                let [mask] = self.operands(i)?;
                let mask = self.source(mask, Ty::B32)?;
                let all = self.vregs[mask as usize].fixed == Some(Fixed::Constant(u32::MAX as u64));
                self.kernel.partial_warp_barriers |= !all;
                self.emit(Kind::BarWarp, vec![], vec![mask], Class::Barrier);
                Ok(())
            }
            Op::Vote | Op::Match | Op::Activemask | Op::Redux | Op::Shfl => self.exchange(i),
            Op::Mma => self.mma(i),
            Op::WmmaLoad => self.wmma_access(i, true),
            Op::WmmaStore => self.wmma_access(i, false),
            Op::WmmaMma => self.wmma_mma(i),
            Op::Ldmatrix => self.ldmatrix(i),
            Op::Movmatrix => {
                let [d, a] = self.operands(i)?;
                let (d, a) = (self.dest(d, Ty::B32)?, self.source(a, Ty::B32)?);
                self.emit(Kind::Movmatrix, vec![d], vec![a], Class::Tensor);
                Ok(())
            }
            _ => self.select_hopper(i),
        }
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
        if let Operand::Int(id @ 16..) = numbers[0] {
            return self.error(format!("names barrier {id}; there are 0 to 15"));
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

    pub(super) fn vector(&mut self, operand: &Operand, count: usize, ty: Ty, dest: bool) -> Result<Vec<V>> {
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
}
