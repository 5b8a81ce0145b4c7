//! wmma (PTX ISA 9.7.14.4), in terms of ordinary loads, stores and `mma.sync`.
//!
//! Which elements a fragment's registers hold is left open by PTX. Here they are those of the `mma.sync` tiles of 16 or
//! 8 rows that make up the matrix, one tile after the other; registers beyond that repeat the first ones.

use super::builder::{Builder, V};
use super::matrix::{mma_type, shape};
use super::memory::Place;
use crate::code::*;
use crate::error::Result;
use crate::exec::fast;
use crate::ptx::ast::*;

/// Which matrix a fragment is of: A, B, or the accumulators.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    A,
    B,
    C,
}

#[derive(Clone, Copy)]
struct Fragment {
    part: Part,
    /// m, n, k.
    shape: [usize; 3],
    ty: Ty,
}

impl Fragment {
    /// Bits of an element.
    fn bits(self) -> u32 {
        match self.ty {
            Ty::B1 => 1,
            Ty::S4 | Ty::U4 => 4,
            ty => 8 * ty.bytes(),
        }
    }

    /// Elements in a register.
    fn packed(self) -> usize {
        (32 / self.bits()).max(1) as usize
    }

    /// The type of a register.
    fn register(self) -> Ty {
        match self.ty {
            Ty::F64 | Ty::F32 | Ty::S32 => self.ty,
            _ => Ty::B32,
        }
    }

    /// Rows and columns.
    fn extents(self) -> (usize, usize) {
        let [m, n, k] = self.shape;
        match self.part {
            Part::A => (m, k),
            Part::B => (k, n),
            Part::C => (m, n),
        }
    }

    /// Registers with different elements.
    fn distinct(self) -> usize {
        let (rows, columns) = self.extents();
        rows * columns / 32 / self.packed()
    }

    /// Registers that the instructions name.
    fn registers(self) -> usize {
        if self.ty == Ty::F16 && self.part != Part::C { 8 } else { self.distinct() }
    }

    /// Row and column of the first element of register `r` in lane 0; lanes add to them.
    fn place(self, r: usize) -> (usize, usize) {
        let r = r % self.distinct();
        let (e, [m, n, k]) = (self.packed(), self.shape);
        // A tile of A has two rows of registers when it is 16 high.
        let along_k = |per_tile: usize, high: bool| match high {
            true => (r / per_tile * 16 + 8 * ((r % per_tile) & 1), 4 * e * ((r % per_tile) >> 1)),
            false => (r / per_tile * 8, 4 * e * (r % per_tile)),
        };
        match self.part {
            Part::A if m == 8 => along_k(8 * k / 32 / e, false),
            Part::A => along_k(16 * k / 32 / e, true),
            Part::B => {
                let (column, row) = along_k(8 * k / 32 / e, false);
                (row, column)
            }
            Part::C => {
                let x = r * e;
                let (per_tile, high) = if m == 8 { (2, 0) } else { (4, x % 4 / 2) };
                let tile = x / per_tile;
                let (tile_row, tile_column) = (tile / (n / 8), tile % (n / 8));
                (16 * tile_row + 8 * high, 8 * tile_column + x % 2)
            }
        }
    }
}

/// Where the elements of a fragment lie in memory, for one instruction.
struct Layout {
    fragment: Fragment,
    place: Place,
    /// Neighbours in a row are neighbours in memory.
    row_major: bool,
    stride: V,
    /// Elements from the matrix's first to that of this lane's row and column.
    lane: V,
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn wmma_access(&mut self, i: &'a Instruction, load: bool) -> Result<()> {
        let part = match i.form.one_of(&["a", "b", "c", "d"]) {
            Some("a") => Part::A,
            Some("b") => Part::B,
            _ => Part::C,
        };
        let fragment = Fragment { part, shape: shape(i).unwrap_or_default(), ty: i.form.types()[0] };
        let operands = &i.operands;
        if !(2..=3).contains(&operands.len()) {
            return self.error(format!("`{}` takes a fragment, an address and perhaps a stride", i.form));
        }
        let (registers, address) =
            if load { (&operands[0], &operands[1]) } else { (&operands[1], &operands[0]) };
        let registers = self.vector(registers, fragment.registers(), fragment.register(), load)?;
        let place = self.place(address, super::memory::space_of(i))?;
        let row_major = i.form.has("row");
        let stride = match operands.get(2) {
            Some(stride) => self.source(stride, Ty::U32)?,
            None => {
                let (rows, columns) = fragment.extents();
                self.constant(if row_major { columns } else { rows } as u64, Ty::U32)
            }
        };
        let lane = self.wmma_lane(fragment, row_major, stride);
        let layout = Layout { fragment, place, row_major, stride, lane };
        for (r, &v) in registers.iter().enumerate() {
            if load { self.wmma_load(i, &layout, r, v)? } else { self.wmma_store(i, &layout, r, v)? }
        }
        Ok(())
    }

    fn helper(&mut self, make: fn(crate::exec::lanes::Level) -> crate::exec::lanes::LaneFn, uses: &[V]) -> V {
        let t = self.temp(Ty::U32);
        self.lane(make, t, uses, Class::None);
        t
    }

    /// What the lane's number adds, in elements.
    fn wmma_lane(&mut self, fragment: Fragment, row_major: bool, stride: V) -> V {
        let lane = self.fixed(Fixed::LaneId, Ty::U32);
        let (two, three) = (self.constant(2, Ty::U32), self.constant(3, Ty::U32));
        let group = self.helper(fast::shr_u32, &[lane, two]);
        let thread = self.helper(fast::and32, &[lane, three]);
        // Lanes of a group hold neighbours along K, or along N in accumulators.
        let (step, zero) = match fragment.part {
            Part::C => (2, 0),
            _ => (fragment.packed() as u64, 0),
        };
        let (step, zero) = (self.constant(step, Ty::U32), self.constant(zero, Ty::U32));
        let thread = self.helper(fast::mad32, &[thread, step, zero]);
        let (row, column) = if fragment.part == Part::B { (thread, group) } else { (group, thread) };
        let (major, minor) = if row_major { (row, column) } else { (column, row) };
        self.helper(fast::mad32, &[major, stride, minor])
    }

    /// The place of the element `row`, `column` beyond the lane's.
    fn wmma_element(&mut self, layout: &Layout, row: usize, column: usize) -> Place {
        let (major, minor) = if layout.row_major { (row, column) } else { (column, row) };
        let k = self.constant(major as u64, Ty::U32);
        let elements = self.helper(fast::mad32, &[k, layout.stride, layout.lane]);
        let bits = layout.fragment.bits();
        let elements = match 8 / bits {
            0 | 1 => elements,
            several => {
                let shift = self.constant(several.ilog2() as u64, Ty::U32);
                self.helper(fast::shr_u32, &[elements, shift])
            }
        };
        let size = self.constant(bits.div_ceil(8) as u64, Ty::U32);
        let wide = self.vregs[layout.place.address as usize].bank == Bank::R64;
        let (make, ty): (fn(_) -> _, Ty) =
            if wide { (fast::mad_wide_u32, Ty::U64) } else { (fast::mad32, Ty::U32) };
        let address = self.temp(ty);
        self.lane(make, address, &[elements, size, layout.place.address], Class::None);
        let offset = layout.place.offset + minor as i64 * bits as i64 / 8;
        Place { address, offset, space: layout.place.space }
    }

    /// True when the elements of a register are neighbours in memory.
    fn together(layout: &Layout) -> bool {
        layout.fragment.packed() == 1 || layout.row_major == (layout.fragment.part != Part::B)
    }

    /// Row and column of element `e` of register `r`.
    fn element(fragment: Fragment, r: usize, e: usize) -> (usize, usize) {
        let (row, column) = fragment.place(r);
        if fragment.part == Part::B { (row + e, column) } else { (row, column + e) }
    }

    fn wmma_op(&mut self, i: &Instruction, place: &Place, bytes: u32, load: bool) -> (u32, Class) {
        self.kernel.code.mems.push(MemOp {
            space: place.space,
            bytes: bytes as u8,
            count: 1,
            reg_bytes: bytes.max(4) as u8,
            signed: false,
            address: self.vregs[place.address as usize].bank,
            offset: place.offset,
            strength: Strength::Weak,
            read_only: false,
            used_bytes: u16::MAX,
        });
        (self.kernel.code.mems.len() as u32 - 1, Self::memory_class(i, place.space, load))
    }

    fn wmma_load(&mut self, i: &Instruction, layout: &Layout, r: usize, d: V) -> Result<()> {
        let fragment = layout.fragment;
        if Self::together(layout) {
            let (row, column) = fragment.place(r);
            let place = self.wmma_element(layout, row, column);
            let (op, class) = self.wmma_op(i, &place, fragment.register().bytes(), true);
            self.emit(Kind::Load(op), vec![d], vec![place.address], class);
            return Ok(());
        }
        let mut sum = self.constant(0, Ty::U32);
        for e in 0..fragment.packed() {
            let (row, column) = Self::element(fragment, r, e);
            let place = self.wmma_element(layout, row, column);
            let (op, class) = self.wmma_op(i, &place, fragment.bits() / 8, true);
            let value = self.temp(Ty::U32);
            self.emit(Kind::Load(op), vec![value], vec![place.address], class);
            let scale = self.constant(1u64 << (fragment.bits() as u64 * e as u64), Ty::U32);
            sum = self.helper(fast::mad32, &[value, scale, sum]);
        }
        self.lane(fast::mov32, d, &[sum], Class::None);
        Ok(())
    }

    fn wmma_store(&mut self, i: &Instruction, layout: &Layout, r: usize, v: V) -> Result<()> {
        let fragment = layout.fragment;
        let whole = Self::together(layout);
        let bytes = if whole { fragment.register().bytes() } else { fragment.bits() / 8 };
        for e in 0..if whole { 1 } else { fragment.packed() } {
            let (row, column) = Self::element(fragment, r, e);
            let place = self.wmma_element(layout, row, column);
            let value = if e == 0 { v } else { self.helper(fast::high32, &[v]) };
            let (op, class) = self.wmma_op(i, &place, bytes, false);
            self.emit(Kind::Store(op), vec![], vec![place.address, value], class);
        }
        Ok(())
    }

    /// One `mma.sync` for each tile of D.
    pub(super) fn wmma_mma(&mut self, i: &'a Instruction) -> Result<()> {
        let shape = shape(i).unwrap_or_default();
        let [m, n, k] = shape;
        let types = i.form.types();
        let (d_ty, c_ty) = (types[0], types[types.len() - 1]);
        let (a_ty, b_ty) = if types.len() == 2 { (Ty::F16, Ty::F16) } else { (types[1], types[2]) };
        let Some(ty) = mma_type(a_ty, b_ty, &i.form.mods) else {
            return self.error(format!("`{}` cannot multiply {a_ty} by {b_ty}", i.form));
        };
        let fragment = |part, ty| Fragment { part, shape, ty };
        let (fa, fb) = (fragment(Part::A, a_ty), fragment(Part::B, b_ty));
        let (fd, fc) = (fragment(Part::C, d_ty), fragment(Part::C, c_ty));
        let [d, a, b, c] = self.operands(i)?;
        let d = self.vector(d, fd.registers(), fd.register(), true)?;
        let a = self.vector(a, fa.registers(), fa.register(), false)?;
        let b = self.vector(b, fb.registers(), fb.register(), false)?;
        let c = self.vector(c, fc.registers(), fc.register(), false)?;
        let rows = m.min(16);
        let half = [d_ty == Ty::F16, c_ty == Ty::F16];
        let satfinite = i.form.has("satfinite");
        let mma = Mma { m: rows as u8, k: k as u16, ty, half, satfinite, sparse: None };
        let [nd, na, nb, nc] = mma.registers();
        for tile in 0..m / rows * (n / 8) {
            let (row, column) = (tile / (n / 8), tile % (n / 8));
            let part = |v: &[V], at: usize, n: usize| v[at * n..][..n].to_vec();
            let uses = [part(&a, row, na), part(&b, column, nb), part(&c, tile, nc)].concat();
            self.emit(Kind::Mma(mma), part(&d, tile, nd), uses, Class::Tensor);
            self.emit_flops((2 * rows * 8 * k / 32) as u32);
        }
        Ok(())
    }
}
