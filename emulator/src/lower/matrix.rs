//! Matrix instructions of warps and warpgroups: mma.sync, mma.sp.sync, ldmatrix, stmatrix, wgmma.mma_async (PTX ISA
//! 9.7.14.5, 9.7.14.6 and 9.7.15).

use super::builder::{Builder, V};
use super::memory::space_of;
use super::select::rounding;
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::ptx::ast::*;

/// The element types of A and B as one; `xor` is how single bits are combined.
pub(super) fn mma_type(a: Ty, b: Ty, mods: &[&str]) -> Option<MmaType> {
    let signed = |ty: Ty| matches!(ty, Ty::S8 | Ty::S4);
    Some(match (a, b) {
        (Ty::F16, Ty::F16) => MmaType::F16,
        (Ty::BF16, Ty::BF16) => MmaType::Bf16,
        (Ty::TF32, Ty::TF32) => MmaType::Tf32,
        (Ty::F64, Ty::F64) => MmaType::F64(rounding(mods)),
        (Ty::E4M3 | Ty::E5M2, Ty::E4M3 | Ty::E5M2) => MmaType::Fp8(a == Ty::E5M2, b == Ty::E5M2),
        (Ty::S8 | Ty::U8, Ty::S8 | Ty::U8) => MmaType::Int8(signed(a), signed(b)),
        (Ty::S4 | Ty::U4, Ty::S4 | Ty::U4) => MmaType::Int4(signed(a), signed(b)),
        (Ty::B1, Ty::B1) => MmaType::Bit { xor: mods.contains(&"xor") },
        _ => return None,
    })
}

/// The three numbers of a shape such as `m16n8k32`.
pub(super) fn shape(i: &Instruction) -> Option<[usize; 3]> {
    i.form.mods.iter().find_map(|word| {
        let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
    })
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn mma(&mut self, i: &'a Instruction) -> Result<()> {
        let types = i.form.types();
        let ([m, _, k], Some(ty)) =
            (shape(i).unwrap_or_default(), mma_type(types[1], types[2], &i.form.mods))
        else {
            return self.error(format!("mma cannot multiply {} by {}", types[1], types[2]));
        };
        if ty == MmaType::F16 && m == 8 {
            return self.quad_mma(i, &types);
        }
        let sparse = i.form.one_of(&["sp", "sp::ordered_metadata"]).is_some();
        let expected = if sparse { 6 } else { 4 };
        if i.operands.len() != expected {
            return self.error(format!(
                "`{}` takes {expected} operands, {} are given",
                i.form,
                i.operands.len()
            ));
        }
        let selector = match i.operands.get(5) {
            None => None,
            Some(Operand::Int(s @ 0..=3)) => Some(*s as u8),
            Some(_) => return self.error("the sparsity selector must be a constant from 0 to 3"),
        };
        let half = [types[0] == Ty::F16; 2];
        let satfinite = i.form.has("satfinite");
        let mma = Mma { m: m as u8, k: k as u16, ty, half, satfinite, sparse: selector };
        let [nd, na, nb, nc] = mma.registers();
        let acc = if half[0] { Ty::B32 } else { types[0] };
        let part = if types[1] == Ty::F64 { Ty::F64 } else { Ty::B32 };
        let defs = self.vector(&i.operands[0], nd, acc, true)?;
        let mut uses = self.vector(&i.operands[1], na, part, false)?;
        uses.extend(self.vector(&i.operands[2], nb, part, false)?);
        uses.extend(self.vector(&i.operands[3], nc, acc, false)?);
        if sparse {
            uses.push(self.source(&i.operands[4], Ty::B32)?);
        }
        self.emit(Kind::Mma(mma), defs, uses, Class::Tensor);
        self.emit_flops((2 * m * 8 * mma.stored_k() / 32) as u32);
        Ok(())
    }

    fn quad_mma(&mut self, i: &'a Instruction, types: &[Ty]) -> Result<()> {
        let [d, a, b, c] = self.operands(i)?;
        let layouts: Vec<&str> =
            i.form.mods.iter().copied().filter(|m| matches!(*m, "row" | "col")).collect();
        let half = [types[0] == Ty::F16, types[3] == Ty::F16];
        let mma = QuadMma { turned: [layouts[0] == "col", layouts[1] == "row"], half };
        let accumulator = |half: bool| if half { (4, Ty::B32) } else { (8, Ty::F32) };
        let ((nd, d_ty), (nc, c_ty)) = (accumulator(half[0]), accumulator(half[1]));
        let defs = self.vector(d, nd, d_ty, true)?;
        let mut uses = self.vector(a, 2, Ty::B32, false)?;
        uses.extend(self.vector(b, 2, Ty::B32, false)?);
        uses.extend(self.vector(c, nc, c_ty, false)?);
        self.emit(Kind::QuadMma(mma), defs, uses, Class::Tensor);
        self.emit_flops(2 * 4 * 8 * 8 * 4 / 32);
        Ok(())
    }

    pub(super) fn ldmatrix(&mut self, i: &'a Instruction) -> Result<()> {
        let [d, address] = self.operands(i)?;
        let count = match i.form.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            _ => 4,
        };
        let defs = self.vector(d, count, Ty::B32, true)?;
        let address = self.wide_address(i, address)?;
        let transpose = i.form.has("trans");
        self.emit(Kind::Ldmatrix { count: count as u8, transpose }, defs, vec![address], Class::Tensor);
        Ok(())
    }

    pub(super) fn stmatrix(&mut self, i: &'a Instruction) -> Result<()> {
        let [address, source] = self.operands(i)?;
        let count = match i.form.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            _ => 4,
        };
        let mut uses = vec![self.wide_address(i, address)?];
        uses.extend(self.vector(source, count, Ty::B32, false)?);
        let op = HopperOp::Stmatrix { count: count as u8, transpose: i.form.has("trans") };
        self.hopper(op, vec![], uses, Class::Tensor)
    }

    /// The address of matrix rows in shared memory, with its offset, as one 64-bit row.
    fn wide_address(&mut self, i: &Instruction, operand: &Operand) -> Result<V> {
        let place = self.place(operand, space_of(i))?;
        let wide = if self.vregs[place.address as usize].bank == Bank::R32 {
            let t = self.temp(Ty::U64);
            self.lane(fast::cvt_u64_u32, t, &[place.address], Class::None);
            t
        } else {
            place.address
        };
        let (t, k) = (self.temp(Ty::U64), self.constant(place.offset as u64, Ty::U64));
        self.lane(fast::add64, t, &[wide, k], Class::None);
        Ok(t)
    }

    pub(super) fn wgmma(&mut self, i: &'a Instruction) -> Result<()> {
        let types: Vec<&str> = i.form.mods.iter().copied().filter(|m| Ty::from_word(m).is_some()).collect();
        let ty = match (types[1], types[2]) {
            ("f16", _) => WgmmaType::F16,
            ("bf16", _) => WgmmaType::Bf16,
            ("tf32", _) => WgmmaType::Tf32,
            (a @ ("e4m3" | "e5m2"), b) => WgmmaType::Fp8(a == "e5m2", b == "e5m2"),
            ("b1", _) => WgmmaType::Bit,
            (a, b) => WgmmaType::Int8(a == "s8", b == "s8"),
        };
        let shape = i.form.mods.iter().find_map(|m| m.strip_prefix("m64n")).unwrap_or("8k");
        let n = shape.split('k').next().and_then(|n| n.parse::<u16>().ok()).unwrap_or(8);
        let half_accumulator = types[0] == "f16";
        let operands = &i.operands;
        let Some(a) = operands.get(1) else { return self.error("wgmma.mma_async takes d, a and b") };
        let a_registers = matches!(a, Operand::Vector(_));
        let sixteen = matches!(ty, WgmmaType::F16 | WgmmaType::Bf16);
        let signs = if ty.is_integer() { 0 } else { 2 };
        let majors = if sixteen { 2 - a_registers as usize } else { 0 };
        let scale = if i.form.has("sp") { 5 } else { 3 };
        let expected = scale + 1 + signs + majors;
        if operands.len() != expected {
            let given = operands.len();
            return self.error(format!("`{}` takes {expected} operands here, {given} are given", i.form));
        }
        let sparse = match (scale, &operands[4.min(scale)]) {
            (3, _) => None,
            (_, Operand::Int(selector @ 0..=3)) => Some(*selector as u8),
            _ => return self.error("the sparsity selector must be a constant from 0 to 3"),
        };
        let mut op = WgmmaOp {
            n,
            ty,
            half_accumulator,
            satfinite: i.form.has("satfinite"),
            a_registers,
            sparse,
            negate: [false; 2],
            transpose: [false; 2],
            d: vec![],
            a: vec![],
            unfenced: None,
        };
        let acc = match (half_accumulator, ty) {
            (true, _) => Ty::B32,
            _ if ty.is_integer() => Ty::S32,
            _ => Ty::F32,
        };
        let defs = self.vector(&operands[0], op.registers(), acc, true)?;
        let mut uses = defs.clone();
        op.d.clone_from(&defs);
        if a_registers {
            op.a = self.vector(a, 4, Ty::B32, false)?;
            uses.extend(&op.a);
        } else {
            uses.push(self.source(a, Ty::B64)?);
        }
        uses.push(self.source(&operands[2], Ty::B64)?);
        if sparse.is_some() {
            uses.push(self.source(&operands[3], Ty::B32)?);
        }
        uses.push(match &operands[scale] {
            Operand::Int(v @ (0 | 1)) => self.constant(*v as u64, Ty::Pred),
            p => self.source(p, Ty::Pred)?,
        });
        for k in 0..signs {
            op.negate[k] = match operands[scale + 1 + k] {
                Operand::Int(1) => false,
                Operand::Int(-1) => true,
                _ => return self.error("imm-scale-a and imm-scale-b are 1 or -1"),
            };
        }
        for k in 0..majors {
            let which = k + a_registers as usize;
            op.transpose[which] = match operands[scale + 1 + signs + k] {
                Operand::Int(v @ (0 | 1)) => v == 1,
                _ => return self.error("imm-trans-a and imm-trans-b are 0 or 1"),
            };
        }
        let flops = 2 * 64 * op.n as u32 * op.stored_k() as u32 / 128;
        self.warpgroup(WarpgroupOp::Mma(Box::new(op)), defs, uses, Class::Tensor)?;
        self.emit_flops(flops);
        Ok(())
    }
}
