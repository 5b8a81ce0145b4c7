//! Access to whole rows of registers by instructions that are more than lane by lane.

use super::lanes::Banks;

/// The lanes of a mask.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros();
        left &= left - 1;
        Some(lane)
    })
}

pub(super) fn zeros<T: PartialEq + From<u8>>(row: &[T; 32]) -> u32 {
    (0..32).map(|i| ((row[i] == T::from(0)) as u32) << i).sum()
}

/// A copy of a 32-bit row.
pub(super) fn read32(banks: &Banks, slot: u16) -> [u32; 32] {
    // SAFETY: slots of lowered code lie within the frame's banks.
    unsafe { (*banks.r32.add(slot as usize)).0 }
}

pub(super) fn read64(banks: &Banks, slot: u16) -> [u64; 32] {
    // SAFETY: slots of lowered code lie within the frame's banks.
    unsafe { (*banks.r64.add(slot as usize)).0 }
}

pub(super) fn read_pred(banks: &Banks, slot: u16) -> u32 {
    // SAFETY: slots of lowered code lie within the frame's banks.
    unsafe { *banks.preds.add(slot as usize) }
}

pub(super) fn write32(banks: &Banks, slot: u16, mask: u32, f: impl Fn(u32) -> u32) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut (*banks.r32.add(slot as usize)).0 };
    lanes_of(mask).for_each(|i| row[i as usize] = f(i));
}

pub(super) fn write_row32(banks: &Banks, slot: u16, mask: u32, values: &[u32; 32]) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut (*banks.r32.add(slot as usize)).0 };
    for i in 0..32 {
        row[i] = if mask >> i & 1 != 0 { values[i] } else { row[i] };
    }
}

pub(super) fn write64(banks: &Banks, slot: u16, mask: u32, f: impl Fn(u32) -> u64) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut (*banks.r64.add(slot as usize)).0 };
    lanes_of(mask).for_each(|i| row[i as usize] = f(i));
}

pub(super) fn write_pred(banks: &Banks, slot: u16, mask: u32, bits: u32) {
    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
    let row = unsafe { &mut *banks.preds.add(slot as usize) };
    *row = *row & !mask | bits & mask;
}

/// True if each of up to eight bytes is 1.
#[inline]
pub(super) fn any_set(bytes: &[u8]) -> bool {
    bytes.iter().any(|&b| b != 0)
}

pub(super) fn all_set(bytes: &[u8]) -> bool {
    load_bytes(bytes) == 0x0101_0101_0101_0101 >> (64 - 8 * bytes.len())
}

/// Up to eight bytes, little-endian.
pub(super) fn load_bytes(bytes: &[u8]) -> u64 {
    match bytes.len() {
        4 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as u64,
        8 => u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ]),
        _ => bytes.iter().rev().fold(0, |v, &b| v << 8 | b as u64),
    }
}
