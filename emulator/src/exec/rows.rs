//! Access to whole rows of registers by instructions that are more than lane by lane.

use super::lanes::Banks;

/// The lanes of a mask.
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = u32> {
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
