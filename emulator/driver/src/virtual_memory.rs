//! Virtual memory management: ranges of addresses, physical memory, and the one mapped into the other.
//!
//! Mapped memory cannot be accessed until cuMemSetAccess allows it, as on hardware: until then the emulator's memory
//! does not have it.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};

use handloom_emulator::memory::Physical;

use crate::device::check_device;
use crate::errors::*;
use crate::ffi::{In, Out};
use crate::pools::{Access, Location};
use crate::state::*;

/// Sizes and offsets are multiples of this, as on hardware of today.
const GRANULARITY: u64 = 2 << 20;

/// CUmemAccess_flags: none, read, read and write.
const NO_ACCESS: c_int = 0;
const READ: c_int = 1;
const READ_WRITE: c_int = 3;

/// CUmemAllocationProp.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    windows: usize,
    flags: [u8; 8],
}

/// Physical memory, and who holds it.
struct Held {
    physical: Physical,
    properties: Properties,
    handles: u32,
    mappings: u32,
}

struct Mapping {
    size: u64,
    handle: usize,
    offset: u64,
    access: c_int,
}

#[derive(Default)]
pub struct VirtualMemory {
    /// Ranges of addresses: start and size.
    ranges: BTreeMap<u64, u64>,
    held: BTreeMap<usize, Held>,
    mappings: BTreeMap<u64, Mapping>,
}

impl VirtualMemory {
    /// True when the range lies in one that was reserved.
    fn reserved(&self, address: u64, size: u64) -> bool {
        let range = self.ranges.range(..=address).next_back();
        range.is_some_and(|(base, length)| address + size <= base + length)
    }

    /// The starts of the mappings that make up a range exactly; None when it has holes or cuts one.
    fn within(&self, address: u64, size: u64) -> Option<Vec<u64>> {
        let mut at = address;
        let mut found = Vec::new();
        while at < address.checked_add(size)? {
            found.push(at);
            at += self.mappings.get(&at)?.size;
        }
        (at == address + size && !found.is_empty()).then_some(found)
    }

    /// The physical memory at an address.
    fn handle_at(&self, address: u64) -> Option<usize> {
        let (base, m) = self.mappings.range(..=address).next_back()?;
        (address < base + m.size).then_some(m.handle)
    }
}

impl State {
    /// Memory that neither a handle nor a mapping holds goes back to the device.
    fn drop_unheld(&mut self, handle: usize) {
        if self.virtual_memory.held.get(&handle).is_some_and(|h| h.handles == 0 && h.mappings == 0)
            && let Some(held) = self.virtual_memory.held.remove(&handle)
        {
            self.device.memory_mut().release_physical(held.physical);
        }
    }
}

fn sized(size: u64) -> Result<(), Code> {
    if size > 0 && size.is_multiple_of(GRANULARITY) {
        return Ok(());
    }
    Err(refuse(ERROR_INVALID_VALUE, format!("virtual memory: {size} B is not a multiple of {GRANULARITY} B")))
}

/// Pinned memory (1) of a device (1).
fn check(p: &Properties) -> Result<(), Code> {
    if p.kind != 1 || p.location.kind != 1 {
        return Err(ERROR_INVALID_VALUE);
    }
    check_device(p.location.id)?;
    if p.handle_types != 0 {
        say_once("shareable memory", "virtual memory that other processes share is not supported");
        return Err(ERROR_NOT_SUPPORTED);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAllocationGranularity(
    out: Out<u64>,
    properties: In<Properties>,
    kind: c_uint,
) -> Code {
    code(state().and_then(|_| {
        let p = properties.get()?;
        if kind > 1 || p.kind != 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        out.put(GRANULARITY)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressReserve(out: Out<u64>, size: u64, align: u64, _wish: u64, flags: u64) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        if flags != 0 || align != 0 && !align.is_power_of_two() {
            return Err(ERROR_INVALID_VALUE);
        }
        sized(size)?;
        let base = s.device.memory_mut().reserve_addresses(size, align.max(GRANULARITY));
        let base = base.map_err(|e| refuse(ERROR_OUT_OF_MEMORY, e))?;
        s.virtual_memory.ranges.insert(base, size);
        out.put(base)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressFree(address: u64, size: u64) -> Code {
    code(working().and_then(|mut s| {
        let v = &mut s.virtual_memory;
        if v.ranges.get(&address) != Some(&size) {
            return Err(ERROR_INVALID_VALUE);
        }
        if v.mappings.range(address..address + size).next().is_some() {
            return Err(refuse(
                ERROR_INVALID_VALUE,
                format!("{address:#x} cannot be freed: it is still mapped"),
            ));
        }
        v.ranges.remove(&address);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemCreate(out: Out<usize>, size: u64, properties: In<Properties>, flags: u64) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        let properties = properties.get()?;
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        check(&properties)?;
        sized(size)?;
        let physical = s.device.memory_mut().create_physical(size);
        let physical = physical.map_err(|e| refuse(ERROR_OUT_OF_MEMORY, e))?;
        let handle = s.new_handle();
        s.virtual_memory.held.insert(handle, Held { physical, properties, handles: 1, mappings: 0 });
        out.put(handle)
    }))
}

/// The memory stays as long as it is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemRelease(handle: usize) -> Code {
    code(working().and_then(|mut s| {
        let held = s.virtual_memory.held.get_mut(&handle).ok_or(ERROR_INVALID_VALUE)?;
        held.handles = held.handles.checked_sub(1).ok_or(ERROR_INVALID_VALUE)?;
        s.drop_unheld(handle);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemMap(address: u64, size: u64, offset: u64, handle: usize, flags: u64) -> Code {
    code(working().and_then(|mut s| {
        if flags != 0 || !address.is_multiple_of(GRANULARITY) || !offset.is_multiple_of(GRANULARITY) {
            return Err(ERROR_INVALID_VALUE);
        }
        sized(size)?;
        let v = &mut s.virtual_memory;
        if !v.reserved(address, size) {
            let message =
                format!("cuMemMap: {size} B at {address:#x} lie in no range of cuMemAddressReserve");
            return Err(refuse(ERROR_INVALID_VALUE, message));
        }
        let held = v.held.get_mut(&handle).filter(|h| h.handles > 0).ok_or(ERROR_INVALID_VALUE)?;
        let taken = v.mappings.range(..address + size).next_back().is_some_and(|(b, m)| b + m.size > address);
        if offset.checked_add(size).is_none_or(|end| end > held.physical.size()) || taken {
            return Err(refuse(
                ERROR_INVALID_VALUE,
                format!("cuMemMap: {address:#x} is mapped, or the memory ends"),
            ));
        }
        held.mappings += 1;
        v.mappings.insert(address, Mapping { size, handle, offset, access: NO_ACCESS });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemUnmap(address: u64, size: u64) -> Code {
    code(working().and_then(|mut s| {
        let found = s.virtual_memory.within(address, size).ok_or(ERROR_INVALID_VALUE)?;
        for base in found {
            let Some(m) = s.virtual_memory.mappings.remove(&base) else { continue };
            if m.access != NO_ACCESS {
                s.device.free(base).map_err(|e| refuse(ERROR_INVALID_VALUE, e))?;
            }
            if let Some(held) = s.virtual_memory.held.get_mut(&m.handle) {
                held.mappings -= 1;
            }
            s.drop_unheld(m.handle);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemSetAccess(address: u64, size: u64, list: In<Access>, count: usize) -> Code {
    code(working().and_then(|mut s| {
        let found = s.virtual_memory.within(address, size).ok_or(ERROR_INVALID_VALUE)?;
        for access in list.list(count)? {
            if access.location.kind != 1 || !matches!(access.flags, NO_ACCESS | READ | READ_WRITE) {
                return Err(ERROR_INVALID_VALUE);
            }
            check_device(access.location.id)?;
            for &base in &found {
                set_access(&mut s, base, access.flags)?;
            }
        }
        Ok(())
    }))
}

fn set_access(s: &mut State, base: u64, access: c_int) -> Result<(), Code> {
    let State { device, virtual_memory: v, .. } = s;
    let m = v.mappings.get_mut(&base).ok_or(ERROR_INVALID_VALUE)?;
    if m.access == access {
        return Ok(());
    }
    let failed = |e| refuse(ERROR_INVALID_VALUE, e);
    if m.access != NO_ACCESS {
        device.free(base).map_err(failed)?;
    }
    m.access = NO_ACCESS;
    if access != NO_ACCESS {
        let physical = &v.held.get(&m.handle).ok_or(ERROR_INVALID_VALUE)?.physical;
        let mapped = device.memory_mut().map_physical(base, m.size, physical, m.offset, access == READ);
        mapped.map_err(failed)?;
    }
    m.access = access;
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAccess(out: Out<u64>, location: In<Location>, address: u64) -> Code {
    code(working().and_then(|s| {
        let l = location.get()?;
        let (base, m) = s.virtual_memory.mappings.range(..=address).next_back().ok_or(ERROR_INVALID_VALUE)?;
        if address >= base + m.size || l.kind != 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        check_device(l.id)?;
        out.put(m.access as u64)
    }))
}

/// A handle more for what is mapped at an address.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemRetainAllocationHandle(out: Out<usize>, address: u64) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        let handle = s.virtual_memory.handle_at(address).ok_or(ERROR_INVALID_VALUE)?;
        if let Some(held) = s.virtual_memory.held.get_mut(&handle) {
            held.handles += 1;
        }
        out.put(handle)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAllocationPropertiesFromHandle(out: Out<Properties>, handle: usize) -> Code {
    code(
        working()
            .and_then(|s| out.put(s.virtual_memory.held.get(&handle).ok_or(ERROR_INVALID_VALUE)?.properties)),
    )
}
