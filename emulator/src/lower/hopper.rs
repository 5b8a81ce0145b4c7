//! Instructions of sm_90: mbarriers, clusters, bulk and tensor copies (PTX ISA 9.7.9.25 to 28, 9.7.13).

use super::builder::{Builder, Symbol, V};
use crate::code::*;
use crate::error::Result;
use crate::memory::PARAM_WINDOW;
use crate::ptx::ast::*;
use crate::ptx::table::Op;
use crate::tensormap::Field;

impl<'a> Builder<'_, 'a> {
    /// Lowers an instruction of sm_90; everything else is not supported.
    pub fn select_hopper(&mut self, i: &'a Instruction) -> Result<()> {
        match i.form.op {
            Op::MbarrierInit
            | Op::MbarrierInval
            | Op::MbarrierArrive
            | Op::MbarrierTx
            | Op::MbarrierWait
            | Op::MbarrierPending
            | Op::CpAsyncMbarrier => self.mbarrier(i),
            Op::BarrierCluster => {
                let aligned = i.form.has("aligned");
                let op = if i.form.has("arrive") {
                    HopperOp::ClusterArrive { relaxed: i.form.has("relaxed"), aligned }
                } else {
                    HopperOp::ClusterWait { aligned }
                };
                self.hopper(op, vec![], vec![], Class::Barrier)
            }
            Op::Mapa | Op::GetCtaRank => self.map_address(i),
            Op::Elect => {
                let [d, mask] = self.operands(i)?;
                let (d, p) = match d {
                    Operand::Pair(d, p) => (self.dest(d, Ty::B32)?, self.dest(p, Ty::Pred)?),
                    _ => return self.error("elect.sync has two destinations, d|p"),
                };
                let mask = self.source(mask, Ty::B32)?;
                self.emit(Kind::Elect, vec![d, p], vec![mask], Class::WarpExchange);
                Ok(())
            }
            Op::BulkCopy | Op::BulkReduce | Op::TensorCopy | Op::TensorReduce => self.bulk(i),
            Op::BulkCommit => self.hopper(HopperOp::BulkCommit, vec![], vec![], Class::AsyncCopy),
            Op::BulkWait => {
                let [n] = self.operands(i)?;
                let keep = self.constant_operand(n, "cp.async.bulk.wait_group")?;
                let op = HopperOp::BulkWait { keep, read: i.form.has("read") };
                self.hopper(op, vec![], vec![], Class::AsyncCopy)
            }
            Op::StAsync | Op::RedAsync => self.store_async(i),
            Op::FenceProxy => {
                let only = |space| i.form.mods.iter().any(|m| m.contains(space));
                let op = HopperOp::ProxyFence { shared: !only("global"), global: !only("shared") };
                self.hopper(op, vec![], vec![], Class::Barrier)
            }
            Op::FenceMbarrierInit => self.hopper(HopperOp::MbarrierInitFence, vec![], vec![], Class::Barrier),
            Op::FenceAlias | Op::Griddepcontrol => {
                self.emit(Kind::Fence(Fence { wide: false, ..Fence::FULL }), vec![], vec![], Class::Barrier);
                Ok(())
            }
            Op::TensormapReplace => self.tensormap_replace(i),
            Op::TensormapCopy => {
                let [to, from, _] = self.operands(i)?;
                let mut uses = Vec::new();
                let to = self.at(to, Space::Global, &mut uses)?;
                let from = self.at(from, Space::Shared, &mut uses)?;
                self.hopper(HopperOp::TensormapCopy { to, from }, vec![], uses, Class::StoreGlobal)
            }
            Op::BulkPrefetch | Op::TensorPrefetch => {
                self.emit(Kind::Prefetch, vec![], vec![], Class::Control);
                Ok(())
            }
            Op::CreatePolicy => {
                let Some(d) = i.operands.first() else { return self.error("createpolicy has a destination") };
                let d = self.dest(d, Ty::B64)?;
                self.hopper(HopperOp::CreatePolicy, vec![d], vec![], Class::Move)
            }
            Op::Stmatrix => self.stmatrix(i),
            Op::AtomVector | Op::RedVector => self.atomic_vector(i),
            Op::Wgmma => self.wgmma(i),
            Op::WgmmaFence => self.warpgroup(WarpgroupOp::Fence, vec![], vec![], Class::Barrier),
            Op::WgmmaCommit => self.warpgroup(WarpgroupOp::Commit, vec![], vec![], Class::Barrier),
            Op::WgmmaWait => {
                let [n] = self.operands(i)?;
                let n = self.constant_operand(n, "wgmma.wait_group")?;
                if n > 7 {
                    return self.error(format!("wgmma.wait_group leaves 0 to 7 groups pending, not {n}"));
                }
                self.warpgroup(WarpgroupOp::Wait(n), vec![], vec![], Class::Barrier)
            }
            Op::SetMaxNReg => {
                let [n] = self.operands(i)?;
                let count = self.constant_operand(n, "setmaxnreg")?;
                if !(24..=256).contains(&count) || count % 8 != 0 {
                    return self
                        .error(format!("setmaxnreg takes a multiple of 8 from 24 to 256, not {count}"));
                }
                let increase = i.form.has("inc");
                self.warpgroup(WarpgroupOp::SetMaxNReg { increase, count }, vec![], vec![], Class::Control)
            }
            _ => self.unsupported(i),
        }
    }

    pub(super) fn hopper(&mut self, op: HopperOp, defs: Vec<V>, uses: Vec<V>, class: Class) -> Result<()> {
        self.kernel.code.uses_hopper = true;
        self.kernel.code.hoppers.push(op);
        let index = self.kernel.code.hoppers.len() as u32 - 1;
        self.emit(Kind::Hopper(index), defs, uses, class);
        Ok(())
    }

    pub(super) fn warpgroup(
        &mut self,
        op: WarpgroupOp,
        defs: Vec<V>,
        uses: Vec<V>,
        class: Class,
    ) -> Result<()> {
        self.kernel.code.uses_hopper = true;
        self.kernel.code.warpgroups.push(op);
        let index = self.kernel.code.warpgroups.len() as u32 - 1;
        self.emit(Kind::Warpgroup(index), defs, uses, class);
        Ok(())
    }

    fn constant_operand(&self, operand: &Operand, what: &str) -> Result<u32> {
        match operand {
            Operand::Int(n) if (0..=1 << 20).contains(n) => Ok(*n as u32),
            _ => self.error(format!("{what} takes a constant number")),
        }
    }

    /// An address operand: its description, with its row added to `uses`.
    fn at(&mut self, operand: &Operand, space: Space, uses: &mut Vec<V>) -> Result<At> {
        let place = self.place(operand, space)?;
        uses.push(place.address);
        Ok(At { space: place.space, bank: self.vregs[place.address as usize].bank, offset: place.offset })
    }

    fn mbarrier(&mut self, i: &'a Instruction) -> Result<()> {
        let form = &i.form;
        let space = match form.one_of(&["shared", "shared::cta", "shared::cluster"]) {
            Some("shared::cluster") => Space::Cluster,
            Some(_) => Space::Shared,
            None => Space::Generic,
        };
        let class = Class::Barrier;
        let (mut defs, mut uses) = (Vec::new(), Vec::new());
        let op = match form.op {
            Op::MbarrierInit => {
                let [address, count] = self.operands(i)?;
                let at = self.at(address, space, &mut uses)?;
                uses.push(self.source(count, Ty::B32)?);
                HopperOp::MbarrierInit(at)
            }
            Op::MbarrierInval => {
                let [address] = self.operands(i)?;
                HopperOp::MbarrierInval(self.at(address, space, &mut uses)?)
            }
            Op::MbarrierArrive => {
                let (expect, no_complete) = (form.has("expect_tx"), form.has("noComplete"));
                let count = i.operands.len() == 3;
                if !(2..=3).contains(&i.operands.len()) || (expect || no_complete) && !count {
                    return self.error(format!("`{form}` has the wrong number of operands"));
                }
                if count && !no_complete && self.target() < 90 {
                    return self.error(format!("`{form}` with a count needs sm_90"));
                }
                let has_state = i.operands[0] != Operand::Sink;
                if has_state {
                    if space == Space::Cluster {
                        return self
                            .error("an arrival at an mbarrier in the cluster has no result; write `_`");
                    }
                    defs.push(self.dest(&i.operands[0], Ty::B64)?);
                }
                let at = self.at(&i.operands[1], space, &mut uses)?;
                if count {
                    uses.push(self.source(&i.operands[2], Ty::B32)?);
                }
                let (drop, relaxed) = (form.has("arrive_drop"), form.has("relaxed"));
                HopperOp::MbarrierArrive {
                    at,
                    drop,
                    expect,
                    no_complete,
                    relaxed,
                    has_count: count,
                    has_state,
                }
            }
            Op::MbarrierTx => {
                let [address, count] = self.operands(i)?;
                let at = self.at(address, space, &mut uses)?;
                uses.push(self.source(count, Ty::B32)?);
                HopperOp::MbarrierTx { at, complete: form.has("complete_tx") }
            }
            Op::MbarrierWait => {
                let blocking = form.has("try_wait");
                let hint = blocking && i.operands.len() == 4;
                if i.operands.len() != 3 + hint as usize {
                    return self.error(format!("`{form}` has the wrong number of operands"));
                }
                let parity = form.has("parity");
                defs.push(self.dest(&i.operands[0], Ty::Pred)?);
                let at = self.at(&i.operands[1], space, &mut uses)?;
                uses.push(self.source(&i.operands[2], if parity { Ty::B32 } else { Ty::B64 })?);
                if hint {
                    self.source(&i.operands[3], Ty::B32)?;
                }
                HopperOp::MbarrierWait { at, blocking, parity, relaxed: form.has("relaxed") }
            }
            Op::MbarrierPending => {
                let [d, state] = self.operands(i)?;
                defs.push(self.dest(d, Ty::B32)?);
                uses.push(self.source(state, Ty::B64)?);
                HopperOp::MbarrierPending
            }
            _ => {
                let [address] = self.operands(i)?;
                let at = self.at(address, space, &mut uses)?;
                HopperOp::CpAsyncArrive { at, noinc: form.has("noinc") }
            }
        };
        self.hopper(op, defs, uses, class)
    }

    fn map_address(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let wide = ty == Ty::U64;
        if i.form.op == Op::Mapa {
            let [d, a, rank] = self.operands(i)?;
            let generic = !i.form.has("shared::cluster");
            let d = self.dest(d, ty)?;
            let uses = vec![self.source(a, ty)?, self.source(rank, Ty::U32)?];
            return self.hopper(HopperOp::Mapa { wide, generic }, vec![d], uses, Class::Integer);
        }
        let [d, a] = self.operands(i)?;
        let d = self.dest(d, Ty::U32)?;
        let a = self.source(a, ty)?;
        self.hopper(HopperOp::GetCtaRank { wide }, vec![d], vec![a], Class::Integer)
    }

    /// The row with the generic address of a tensor map.
    fn tensor_map(&mut self, base: &str, offset: i64, uses: &mut Vec<V>) -> Result<At> {
        let bank = Bank::R64;
        let at = At { space: Space::Generic, bank, offset };
        match self.lookup(base) {
            Some(Symbol::Register(v)) if self.vregs[v as usize].ty.bytes() == 8 => uses.push(v),
            Some(Symbol::KernelParam(p)) => uses.push(self.constant(PARAM_WINDOW + p as u64, Ty::U64)),
            Some(Symbol::Global(index, _)) => uses.push(self.fixed(Fixed::Global(index, 0), Ty::U64)),
            _ => return self.error(format!("`{base}` is not the address of a tensor map")),
        }
        Ok(at)
    }

    /// tensormap.replace [map], {dimension,} value
    fn tensormap_replace(&mut self, i: &'a Instruction) -> Result<()> {
        let form = &i.form;
        let ordinal = form.one_of(&["box_dim", "global_dim", "global_stride", "element_stride"]).is_some();
        if i.operands.len() != 2 + ordinal as usize {
            return self.error(format!("`{form}` has the wrong number of operands"));
        }
        let dimension = match &i.operands[1] {
            Operand::Int(d @ 0..=4) if ordinal => *d as u8,
            _ if ordinal => return self.error("the dimension must be a constant from 0 to 4"),
            _ => 0,
        };
        let words = ["global_address", "rank", "box_dim", "global_dim", "global_stride", "element_stride"];
        let others = ["elemtype", "interleave_layout", "swizzle_mode", "fill_mode"];
        let field = match form.one_of(&words).or(form.one_of(&others)) {
            Some("global_address") => Field::Address,
            Some("rank") => Field::Rank,
            Some("box_dim") => Field::BoxDim(dimension),
            Some("global_dim") => Field::Dim(dimension),
            Some("global_stride") => Field::Stride(dimension),
            Some("element_stride") => Field::ElementStride(dimension),
            Some("elemtype") => Field::ElementType,
            Some("interleave_layout") => Field::Interleave,
            Some("swizzle_mode") => Field::Swizzle,
            _ => Field::Fill,
        };
        let space = match form.one_of(&["global", "shared::cta"]) {
            Some("global") => Space::Global,
            Some(_) => Space::Shared,
            None => Space::Generic,
        };
        let ty = form.types()[0];
        let mut uses = Vec::new();
        let at = self.at(&i.operands[0], space, &mut uses)?;
        uses.push(self.source(&i.operands[1 + ordinal as usize], ty)?);
        let op = HopperOp::TensormapReplace { at, field, wide: ty == Ty::B64 };
        self.hopper(op, vec![], uses, Class::StoreShared)
    }

    fn coordinates(&mut self, list: &[Operand], dimensions: u8, uses: &mut Vec<V>) -> Result<()> {
        if list.len() != dimensions as usize {
            return self.error(format!("{dimensions} coordinates are needed, {} are given", list.len()));
        }
        for c in list {
            uses.push(self.source(c, Ty::S32)?);
        }
        Ok(())
    }

    /// cp.async.bulk, cp.reduce.async.bulk and their tensor forms.
    fn bulk(&mut self, i: &'a Instruction) -> Result<()> {
        let form = &i.form;
        if form.one_of(&["im2col", "im2col_no_offs"]).is_some() {
            return self.error(format!("`{form}`: tensor copies in im2col mode are not supported"));
        }
        let words: Vec<&str> = form
            .mods
            .iter()
            .copied()
            .filter(|m| matches!(*m, "global" | "shared::cta" | "shared::cluster"))
            .collect();
        let (to_space, way) = match (words[0], words[1]) {
            ("global", _) => (Space::Global, BulkWay::SharedToGlobal),
            ("shared::cta", "global") => (Space::Shared, BulkWay::GlobalToShared),
            (_, "global") => (Space::Cluster, BulkWay::GlobalToShared),
            _ => (Space::Cluster, BulkWay::SharedToShared),
        };
        let dimensions = match form.one_of(&["1d", "2d", "3d", "4d", "5d"]) {
            Some(d) => d.as_bytes()[0] - b'0',
            None => 0,
        };
        let operands = self.plain_operands(i);
        let stores = way == BulkWay::SharedToGlobal;
        let multicast = form.has("multicast::cluster");
        let expected = 2 + (dimensions == 0) as usize + !stores as usize + multicast as usize;
        if operands.len() != expected {
            return self.error(format!("`{form}` takes {expected} operands, {} are given", operands.len()));
        }
        let mut uses = Vec::new();
        let (to, from) = if dimensions == 0 {
            let to = self.at(&operands[0], to_space, &mut uses)?;
            let from_space = if way == BulkWay::GlobalToShared { Space::Global } else { Space::Shared };
            let from = self.at(&operands[1], from_space, &mut uses)?;
            uses.push(self.source(&operands[2], Ty::U32)?);
            (to, from)
        } else {
            let (map, other) = if stores { (0, 1) } else { (1, 0) };
            let Operand::Tensor { base, offset, coordinates } = &operands[map] else {
                return self.error("a tensor copy names its map and coordinates, [map, {x, ...}]");
            };
            let (to, from) = if stores {
                let to = self.tensor_map(base, *offset, &mut uses)?;
                (to, self.at(&operands[other], Space::Shared, &mut uses)?)
            } else {
                let to = self.at(&operands[other], to_space, &mut uses)?;
                (to, self.tensor_map(base, *offset, &mut uses)?)
            };
            self.coordinates(coordinates, dimensions, &mut uses)?;
            (to, from)
        };
        let next = 2 + (dimensions == 0) as usize;
        let mbarrier = if stores { None } else { Some(self.at(&operands[next], to_space, &mut uses)?) };
        if multicast {
            uses.push(self.source(&operands[next + 1], Ty::B16)?);
        }
        let reduces = matches!(form.op, Op::BulkReduce | Op::TensorReduce);
        let reduce = match reduces {
            true => {
                Some((reduction(form.one_of(&REDUCTIONS)), form.types().first().copied().unwrap_or(Ty::B32)))
            }
            false => None,
        };
        // Reductions into global memory are atomic: blocks that add to one place see each other's work.
        self.kernel.code.blocks_communicate |= reduces && stores;
        let op = BulkOp { way, dimensions, reduce, multicast, to, from, mbarrier };
        self.hopper(HopperOp::Bulk(op), vec![], uses, Class::AsyncCopy)
    }

    fn store_async(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let count = if i.form.has("v4") {
            4
        } else if i.form.has("v2") {
            2
        } else {
            1
        };
        let [address, value, mbarrier] = self.operands(i)?;
        let mut uses = Vec::new();
        let at = self.at(address, Space::Cluster, &mut uses)?;
        let values: Vec<&Operand> = match value {
            Operand::Vector(list) => list.iter().collect(),
            one => vec![one],
        };
        if values.len() != count {
            return self.error(format!("`{}` stores {count} registers, {} are given", i.form, values.len()));
        }
        if count as u32 * ty.bytes() > 16 {
            return self.error(format!("`{}` moves more than 16 bytes", i.form));
        }
        for v in values {
            uses.push(self.source(v, ty)?);
        }
        let mbarrier = self.at(mbarrier, Space::Cluster, &mut uses)?;
        let reduce = (i.form.op == Op::RedAsync).then(|| reduction(i.form.one_of(&REDUCTIONS)));
        let op = HopperOp::StAsync { at, mbarrier, ty, count: count as u8, reduce };
        self.hopper(op, vec![], uses, Class::StoreShared)
    }

    /// Vector atomics of sm_90: an atomic for each element.
    fn atomic_vector(&mut self, i: &'a Instruction) -> Result<()> {
        let ty = i.form.types()[0];
        let has_result = i.form.op == Op::AtomVector;
        let operands = self.plain_operands(i);
        let expected = 2 + has_result as usize;
        if operands.len() != expected {
            return self.error(format!(
                "`{}` takes {expected} operands, {} are given",
                i.form,
                operands.len()
            ));
        }
        let count = match i.form.one_of(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            _ => 8,
        };
        let holder = if matches!(ty, Ty::F16x2 | Ty::BF16x2) { Ty::B32 } else { ty };
        let defs = if has_result { self.vector(&operands[0], count, holder, true)? } else { vec![] };
        let space = if i.form.has("global") { Space::Global } else { Space::Generic };
        let place = self.place(&operands[has_result as usize], space)?;
        let values = self.vector(&operands[expected - 1], count, holder, false)?;
        self.kernel.code.blocks_communicate = true;
        self.fence_of_release(i, place.space);
        let address = self.vregs[place.address as usize].bank;
        for (e, &value) in values.iter().enumerate() {
            let offset = place.offset + (e as u32 * ty.bytes()) as i64;
            let op = reduction(i.form.one_of(&REDUCTIONS));
            self.kernel.code.atoms.push(AtomOp {
                op,
                ty,
                space: place.space,
                address,
                offset,
                has_result,
                strength: super::memory::strength(i),
            });
            let index = self.kernel.code.atoms.len() as u32 - 1;
            let d = defs.get(e).map_or(vec![], |&d| vec![d]);
            self.emit(Kind::Atomic(index), d, vec![place.address, value], Class::Atomic);
        }
        Ok(())
    }
}

const REDUCTIONS: [&str; 8] = ["add", "min", "max", "inc", "dec", "and", "or", "xor"];

fn reduction(word: Option<&str>) -> AtomicOp {
    match word {
        Some("min") => AtomicOp::Min,
        Some("max") => AtomicOp::Max,
        Some("inc") => AtomicOp::Inc,
        Some("dec") => AtomicOp::Dec,
        Some("and") => AtomicOp::And,
        Some("or") => AtomicOp::Or,
        Some("xor") => AtomicOp::Xor,
        _ => AtomicOp::Add,
    }
}
