//! Fills of the device's memory with one value, in one dimension or two.

use std::ffi::c_uint;

use crate::copy::{bad, in_allocation, in_stream};
use crate::errors::*;
use crate::ops::{Op, run_and_wait};
use crate::state::*;

/// `height` rows of `width` elements.
#[derive(Clone, Copy, PartialEq)]
pub struct Fill {
    pub address: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: usize,
    pub width: usize,
    pub height: usize,
}

impl Fill {
    pub fn check(&self, s: &State) -> Result<(), Code> {
        let aligned = self.address.is_multiple_of(self.element as u64)
            && (self.height <= 1 || self.pitch.is_multiple_of(self.element));
        if !matches!(self.element, 1 | 2 | 4) || !aligned {
            return Err(ERROR_INVALID_VALUE);
        }
        if self.width == 0 || self.height == 0 {
            return Ok(());
        }
        let row = self.element.checked_mul(self.width).ok_or(ERROR_INVALID_VALUE)?;
        if self.height > 1 && self.pitch < row {
            return Err(ERROR_INVALID_VALUE);
        }
        let rows = self.pitch.checked_mul(self.height - 1).and_then(|r| r.checked_add(row));
        in_allocation(s, self.address, rows.ok_or(ERROR_INVALID_VALUE)? as u64)
    }

    pub fn run(&self, s: &State) -> Result<(), Code> {
        self.check(s)?;
        if self.width == 0 {
            return Ok(());
        }
        let row = self.value.to_le_bytes()[..self.element].repeat(self.width);
        for y in 0..self.height {
            s.device.write(self.address + (y * self.pitch) as u64, &row).map_err(bad)?;
        }
        Ok(())
    }
}

fn fill(address: u64, value: u32, element: usize, width: usize) -> Op {
    Op::Fill(Fill { address, pitch: 0, value, element, width, height: 1 })
}

fn fill2(address: u64, pitch: usize, value: u32, element: usize, width: usize, height: usize) -> Op {
    Op::Fill(Fill { address, pitch, value, element, width, height })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> Code {
    code(run_and_wait(fill(address, value as u32, 1, count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> Code {
    code(run_and_wait(fill(address, value as u32, 2, count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(address: u64, value: c_uint, count: usize) -> Code {
    code(run_and_wait(fill(address, value, 4, count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle) -> Code {
    in_stream(stream, fill(address, value as u32, 1, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle) -> Code {
    in_stream(stream, fill(address, value as u32, 2, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(address: u64, value: c_uint, count: usize, stream: Handle) -> Code {
    in_stream(stream, fill(address, value, 4, count))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D8_v2(
    address: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> Code {
    code(run_and_wait(fill2(address, pitch, value as u32, 1, width, height)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D16_v2(
    address: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
) -> Code {
    code(run_and_wait(fill2(address, pitch, value as u32, 2, width, height)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D32_v2(
    address: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
) -> Code {
    code(run_and_wait(fill2(address, pitch, value, 4, width, height)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D8Async(
    address: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: Handle,
) -> Code {
    in_stream(stream, fill2(address, pitch, value as u32, 1, width, height))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D16Async(
    address: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
    stream: Handle,
) -> Code {
    in_stream(stream, fill2(address, pitch, value as u32, 2, width, height))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D32Async(
    address: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
    stream: Handle,
) -> Code {
    in_stream(stream, fill2(address, pitch, value, 4, width, height))
}
