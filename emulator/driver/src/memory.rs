//! Memory of the device: allocating, freeing, what there is.

use std::ffi::c_uint;

use crate::errors::*;
use crate::ffi::Out;
use crate::host_memory::Kind;
use crate::state::*;

/// Rows of pitched memory start at multiples of this.
const PITCH: usize = 512;

impl State {
    /// Memory that neither allocations nor pools hold.
    pub fn free_bytes(&self) -> u64 {
        let m = self.device.memory();
        (m.capacity() - m.used()).saturating_sub(self.kept_bytes())
    }

    /// Takes memory, from what the pools keep if need be.
    pub fn allocate(&mut self, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let name = self.allocation_name();
        let address =
            self.device.allocate(bytes as u64, &name).map_err(|e| refuse(ERROR_OUT_OF_MEMORY, e))?;
        if self.device.memory().capacity() - self.device.memory().used() < self.kept_bytes() {
            self.trim_pools();
        }
        Ok(address)
    }

    /// Gives memory of any kind back, but not the host's own.
    pub fn free(&mut self, address: u64) -> Result<(), Code> {
        if address == 0 {
            return Ok(());
        }
        match self.host_memory.get(&address).map(|m| m.kind) {
            None => {}
            Some(Kind::Managed) => {
                self.host_memory.remove(&address);
            }
            Some(_) => {
                let message = format!("{address:#x} is memory of the host; use cuMemFreeHost");
                return Err(refuse(ERROR_INVALID_VALUE, message));
            }
        }
        let bytes = self.device.memory().find(address).map_or(0, |a| a.size);
        self.device.free(address).map_err(|e| refuse(ERROR_INVALID_VALUE, e))?;
        self.given_back(address, bytes);
        Ok(())
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        s.is_safe()?;
        out.put(s.allocate(bytes)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocPitch_v2(
    out: Out<u64>,
    pitch_out: Out<usize>,
    width: usize,
    height: usize,
    element: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        out.required().and_then(|_| pitch_out.required())?;
        if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
            return Err(ERROR_INVALID_VALUE);
        }
        s.is_safe()?;
        let pitch = width.checked_next_multiple_of(PITCH).ok_or(ERROR_OUT_OF_MEMORY)?;
        out.put(s.allocate(pitch.checked_mul(height).ok_or(ERROR_OUT_OF_MEMORY)?)?)?;
        pitch_out.put(pitch)
    }))
}

/// Waits for all work, as on hardware; there is none.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    code(working().and_then(|mut s| s.is_safe().and_then(|_| s.free(address))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Code {
    code(working().and_then(|s| {
        free.put(s.free_bytes() as usize)?;
        total.put(s.device.memory().capacity() as usize)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) -> Code {
    code(working().and_then(|s| {
        let a = s.device.memory().find(address).ok_or(ERROR_NOT_FOUND)?;
        base.put_if_wanted(a.base);
        size.put_if_wanted(a.size as usize);
        Ok(())
    }))
}
