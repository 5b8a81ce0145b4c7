//! Tensor copies in tile mode (PTX ISA 5.5 and 9.7.9.27): boxes of a tensor of one to five dimensions in global memory.
//!
//! A box lies in shared memory with its first dimension contiguous and nothing between rows; the map's swizzle then
//! exchanges 16-byte chunks by the bits of their shared-memory address. Elements outside the tensor read as zeros or as
//! NaN and count as transferred; they are not written.

use super::engine::Engine;
use super::lanes::Banks;
use super::rows::{lanes_of, read32, read64};
use super::state::Warp;
use super::transfer::reduce;
use crate::check::Kind as Check;
use crate::code::{At, AtomicOp};
use crate::memory::{GlobalMemory, PARAM_WINDOW};
use crate::ptx::ast::{Space, Ty};
use crate::tensormap::{self, Element, Field, TensorMap};

/// The NaN that fills elements outside the tensor.
fn nan(element: Element) -> u64 {
    match element {
        Element::F16 => 0x7fff,
        Element::Bf16 => 0x7fff,
        Element::F64 => 0x7fff_ffff_ffff_ffff,
        _ => 0x7fff_ffff,
    }
}

/// The type that a reduction computes in.
fn computed_as(element: Element) -> Ty {
    match element {
        Element::U8 => Ty::U8,
        Element::U16 => Ty::U16,
        Element::U32 => Ty::U32,
        Element::S32 => Ty::S32,
        Element::U64 => Ty::U64,
        Element::S64 => Ty::S64,
        Element::F16 => Ty::F16,
        Element::Bf16 => Ty::BF16,
        Element::F64 => Ty::F64,
        _ => Ty::F32,
    }
}

/// The part of a row of a box that is inside its tensor.
#[derive(Clone, Copy)]
struct Run {
    /// Elements of the row before it, and in it.
    first: usize,
    count: usize,
    /// Global address of its first element.
    address: u64,
}

/// Calls `f` for each row of a box with its offset in the box, and what of it is inside the tensor.
fn rows(map: &TensorMap, at: &[i64; 5], mut f: impl FnMut(usize, Option<Run>)) {
    let counts = map.box_elements();
    let (bytes, width) = (map.element.bytes() as usize, counts[0] as i64);
    let first = (-at[0]).clamp(0, width);
    let last = (map.dims[0] as i64 - at[0]).clamp(first, width);
    let total: usize = counts[1..].iter().map(|&c| c as usize).product();
    let mut index = [0u32; 5];
    let mut coordinates = *at;
    coordinates[0] += first;
    for row in 0..total {
        let inside = (1..map.rank).all(|d| coordinates[d] >= 0 && (coordinates[d] as u64) < map.dims[d]);
        let run = (inside && first < last).then(|| Run {
            first: first as usize,
            count: (last - first) as usize,
            address: (0..map.rank).fold(map.address, |a, d| {
                a.wrapping_add((coordinates[d] as u64).wrapping_mul(map.strides[d]))
            }),
        });
        f(row * width as usize * bytes, run);
        for d in 1..map.rank {
            index[d] += 1;
            coordinates[d] += map.element_strides[d] as i64;
            if index[d] < counts[d] {
                break;
            }
            index[d] = 0;
            coordinates[d] = at[d];
        }
    }
}

/// Calls `f` for pieces of `length` bytes at `start` of an allocation: words of 8 bytes where they are aligned, else
/// elements. Gets the offset from `start`, the offset in the allocation, and the bytes.
fn pieces(start: u64, length: usize, element: u32, mut f: impl FnMut(usize, u64, u32)) {
    let mut k = 0;
    while k < length {
        let offset = start + k as u64;
        let bytes = if offset.is_multiple_of(8) && length - k >= 8 { 8 } else { element };
        f(k, offset, bytes);
        k += bytes as usize;
    }
}

/// First byte and length of the part of a box that is inside its tensor; a part beyond any address has no end.
pub(super) fn extent(map: &TensorMap, at: &[i64; 5]) -> Option<(u64, u64)> {
    let (mut low, mut high) = (map.address as u128, map.address as u128);
    let counts = map.box_elements();
    for d in 0..map.rank {
        let step = map.element_strides[d] as i64;
        // The first and the last index whose coordinate is inside.
        let first = if at[d] < 0 { (-at[d] + step - 1) / step } else { 0 };
        let last = ((map.dims[d] as i64 - 1 - at[d]).div_euclid(step)).min(counts[d] as i64 - 1);
        if first > last {
            return None;
        }
        low += (at[d] + first * step) as u128 * map.strides[d] as u128;
        high += (at[d] + last * step) as u128 * map.strides[d] as u128;
    }
    let end = high + map.element.bytes() as u128;
    let length = if end > u64::MAX as u128 { u64::MAX } else { (end - low) as u64 };
    Some((low as u64, length))
}

/// Calls `f` with the offset in the box and the length of each run of its bytes that is inside its tensor.
pub(super) fn inside(map: &TensorMap, at: &[i64; 5], mut f: impl FnMut(usize, usize)) {
    let bytes = map.element.bytes() as usize;
    rows(map, at, |offset, run| {
        if let Some(run) = run {
            f(offset + run.first * bytes, run.count * bytes);
        }
    });
}

/// Calls `f` with the address and length of each run of a box's bytes that is inside its tensor.
pub(super) fn runs(map: &TensorMap, at: &[i64; 5], mut f: impl FnMut(u64, u64)) {
    let bytes = map.element.bytes() as u64;
    rows(map, at, |_, run| {
        if let Some(run) = run {
            f(run.address, run.count as u64 * bytes);
        }
    });
}

/// The bytes of a box, and the address of an element that nothing has written.
pub(super) fn read(memory: &GlobalMemory, map: &TensorMap, at: &[i64; 5]) -> (Vec<u8>, Option<u64>) {
    let bytes = map.element.bytes();
    let mut out = vec![0u8; map.box_bytes() as usize];
    let mut missing = None;
    if map.fill_nan {
        let fill = nan(map.element).to_le_bytes();
        out.chunks_exact_mut(bytes as usize).for_each(|e| e.copy_from_slice(&fill[..bytes as usize]));
    }
    let Some(a) = extent(map, at).and_then(|(low, _)| memory.find(low)) else { return (out, None) };
    rows(map, at, |offset, run| {
        let Some(run) = run else { return };
        let from = offset + run.first * bytes as usize;
        let row = &mut out[from..from + run.count * bytes as usize];
        pieces(run.address - a.base, row.len(), bytes, |k, at, n| {
            // SAFETY: the copy's extent lies within the allocation, as was checked when it was issued; an element is
            // aligned because the tensor's address and strides are multiples of 16, a word by `pieces`.
            let (value, written) = unsafe { (a.load(at, n), a.is_written(at, n)) };
            if !written {
                missing.get_or_insert(a.base + at);
            }
            row[k..k + n as usize].copy_from_slice(&value.to_le_bytes()[..n as usize]);
        });
    });
    if matches!(map.element, Element::F32Ftz | Element::Tf32Ftz) {
        out.chunks_exact_mut(4).for_each(flush);
    }
    (out, missing)
}

/// Makes a subnormal f32 a zero of its sign.
fn flush(bytes: &mut [u8]) {
    let exponent = (bytes[3] & 0x7f, bytes[2] & 0x80);
    if exponent == (0, 0) {
        bytes.copy_from_slice(&[0, 0, 0, bytes[3] & 0x80]);
    }
}

/// Writes, or reduces, a box into its tensor.
pub(super) fn write(
    memory: &GlobalMemory,
    map: &TensorMap,
    at: &[i64; 5],
    data: &[u8],
    op: Option<(AtomicOp, Ty)>,
) {
    let bytes = map.element.bytes();
    let Some(a) = extent(map, at).and_then(|(low, _)| memory.find(low)) else { return };
    rows(map, at, |offset, run| {
        let Some(run) = run else { return };
        let from = offset + run.first * bytes as usize;
        let Some(row) = data.get(from..from + run.count * bytes as usize) else { return };
        pieces(run.address - a.base, row.len(), bytes, |k, at, n| {
            let source = &row[k..k + n as usize];
            // SAFETY: as in `read`. Kernels with reductions in global memory run on one thread.
            unsafe {
                let mut cell = a.load(at, n).to_le_bytes();
                match op {
                    Some((op, _)) => reduce(op, computed_as(map.element), &mut cell[..n as usize], source),
                    None => cell[..n as usize].copy_from_slice(source),
                }
                a.store(at, n, u64::from_le_bytes(cell));
            }
        });
    });
}

impl Engine<'_> {
    pub(super) fn tensormap_replace(
        &mut self,
        warp: &Warp,
        banks: &Banks,
        (at, field, wide): (At, Field, bool),
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) {
        let addresses = Self::addresses(banks, at.bank, pool[0], at.offset);
        let values = if wide { read64(banks, pool[1]) } else { read32(banks, pool[1]).map(|v| v as u64) };
        for i in lanes_of(mask) {
            let address = addresses[i as usize];
            let Some(mut map) = self.map_bytes(warp.index, i, pc, at.space, address, None) else { continue };
            tensormap::replace(&mut map, field, values[i as usize]);
            self.map_bytes(warp.index, i, pc, at.space, address, Some(&map));
        }
    }

    /// tensormap.cp_fenceproxy: the warp copies a map from shared to global memory.
    pub(super) fn tensormap_copy(
        &mut self,
        warp: &Warp,
        banks: &Banks,
        (to, from): (At, At),
        pool: &[u16],
        pc: u32,
        mask: u32,
    ) {
        let (lane, i) = (mask.trailing_zeros(), mask.trailing_zeros() as usize);
        let target = Self::addresses(banks, to.bank, pool[0], to.offset)[i];
        let source = Self::addresses(banks, from.bank, pool[1], from.offset)[i];
        if let Some(map) = self.map_bytes(warp.index, lane, pc, Space::Shared, source, None) {
            self.map_bytes(warp.index, lane, pc, Space::Global, target, Some(&map));
        }
    }

    /// Reads the 128 bytes at an address, or writes them.
    fn map_bytes(
        &mut self,
        warp: u32,
        lane: u32,
        pc: u32,
        space: Space,
        address: u64,
        new: Option<&[u8; tensormap::BYTES]>,
    ) -> Option<[u8; tensormap::BYTES]> {
        let mut map = [0u8; tensormap::BYTES];
        let bytes = map.len() as u32;
        if space == Space::Shared || space == Space::Generic && self.is_in_space(address, Space::Shared) {
            let place = self.shared_place(warp, lane, pc, space, address, bytes, "a tensor map")?;
            self.record_shared(warp, lane, pc, place, bytes, new.is_some());
            let range = place.offset as usize..(place.offset + bytes) as usize;
            let memory = &mut self.block_mut(place.rank).shared;
            match new {
                Some(new) => {
                    memory.mark(range.start, new.len());
                    memory.data[range].copy_from_slice(new);
                }
                None => map.copy_from_slice(&memory.data[range]),
            }
            return Some(map);
        }
        let done = match new {
            Some(new) => self.l.memory.write(address, new),
            None => self.l.memory.read(address, &mut map),
        };
        if let Err(error) = done {
            self.report(Check::OutOfBounds, pc, warp, lane, || format!("names a tensor map: {error}"));
            return None;
        }
        Some(map)
    }

    /// The tensor map at a generic address, in parameters or in memory.
    pub(super) fn tensor_map_at(&mut self, warp: u32, lane: u32, pc: u32, address: u64) -> Option<TensorMap> {
        let mut bytes = [0u8; tensormap::BYTES];
        let found = if address >> 32 == PARAM_WINDOW >> 32 {
            let at = (address - PARAM_WINDOW) as usize;
            self.l.params.get(at..at + tensormap::BYTES).map(|p| bytes.copy_from_slice(p)).is_some()
        } else {
            self.l.memory.read(address, &mut bytes).is_ok()
        };
        if !address.is_multiple_of(64) {
            self.report(Check::Misaligned, pc, warp, lane, || {
                format!("names a tensor map at {address:#x}, which is not a multiple of 64")
            });
        }
        let map = if found { tensormap::decode(&bytes) } else { None };
        if map.is_none() {
            self.report(Check::CopyMisuse, pc, warp, lane, || {
                format!(
                    "names a tensor map at {address:#x}, where there is none ({})",
                    self.l.memory.describe(address)
                )
            });
        }
        map
    }
}
