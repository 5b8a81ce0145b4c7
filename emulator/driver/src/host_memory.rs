//! Memory that the host and kernels share: pinned, registered and managed. One address serves both sides.

use std::ffi::c_uint;

use crate::errors::*;
use crate::ffi::Out;
use crate::pools::Location;
use crate::state::*;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Pinned,
    Registered,
    Managed,
}

/// What a program has said of managed memory.
#[derive(Default)]
pub struct Advice {
    pub read_mostly: bool,
    pub preferred: Option<Location>,
    pub accessed_by: Option<Location>,
    pub prefetched: Option<Location>,
}

pub struct HostMemory {
    pub kind: Kind,
    /// As the caller gave it; the table's key may lie a few bytes before.
    pub address: u64,
    pub bytes: u64,
    pub flags: u32,
    pub advice: Advice,
}

impl HostMemory {
    fn new(kind: Kind, address: u64, bytes: usize, flags: u32) -> HostMemory {
        HostMemory { kind, address, bytes: bytes as u64, flags, advice: Advice::default() }
    }

    pub fn contains(&self, address: u64) -> bool {
        (self.address..self.address + self.bytes).contains(&address)
    }
}

impl State {
    fn add_host_memory(&mut self, kind: Kind, bytes: usize, flags: u32) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let name = match kind {
            Kind::Managed => format!("managed {}", self.allocation_name()),
            _ => format!("pinned {}", self.allocation_name()),
        };
        let address = self.device.memory_mut().allocate_host(bytes as u64, &name);
        let address = address.map_err(|e| refuse(ERROR_OUT_OF_MEMORY, e))?;
        self.host_memory.insert(address, HostMemory::new(kind, address, bytes, flags));
        Ok(address)
    }

    /// A module's variable that the host may use too.
    pub fn add_managed_variable(&mut self, address: u64, bytes: u64) {
        self.host_memory.insert(address, HostMemory::new(Kind::Managed, address, bytes as usize, 1));
    }

    /// Removes memory of one kind.
    fn remove_host_memory(&mut self, address: u64, kind: Kind, otherwise: Code) -> Result<(), Code> {
        let found = self.host_memory.iter().find(|(_, m)| m.address == address && m.kind == kind);
        let base = found.map(|(&base, _)| base).ok_or(otherwise)?;
        self.host_memory.remove(&base);
        self.device.free(base).map_err(|e| refuse(otherwise, e))
    }

    pub fn host_memory_at_mut(&mut self, address: u64) -> Option<&mut HostMemory> {
        self.host_memory.values_mut().find(|m| m.contains(address))
    }

    pub fn host_memory_at(&self, address: u64) -> Option<&HostMemory> {
        self.host_memory.values().find(|m| m.contains(address))
    }
}

/// Flags are portable (1), mapped (2), write-combined (4): all memory is the former two, and none the last.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(out: Out<u64>, bytes: usize, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        if flags > 7 {
            return Err(ERROR_INVALID_VALUE);
        }
        s.is_safe()?;
        out.put(s.add_host_memory(Kind::Pinned, bytes, flags)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(out: Out<u64>, bytes: usize) -> Code {
    cuMemHostAlloc(out, bytes, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: u64) -> Code {
    code(state().and_then(|mut s| {
        s.is_safe()?;
        if address == 0 { Ok(()) } else { s.remove_host_memory(address, Kind::Pinned, ERROR_INVALID_VALUE) }
    }))
}

/// Managed memory is plain memory of both sides: nothing moves.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocManaged(out: Out<u64>, bytes: usize, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        // CU_MEM_ATTACH_GLOBAL or _HOST.
        if flags != 1 && flags != 2 {
            return Err(ERROR_INVALID_VALUE);
        }
        s.is_safe()?;
        out.put(s.add_host_memory(Kind::Managed, bytes, flags)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        if address == 0 || bytes == 0 || flags & !0xf != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        s.is_safe()?;
        // SAFETY: the caller promises that the range stays valid until it is unregistered, by the API's contract.
        let base = unsafe { s.device.memory_mut().map_host(address, bytes as u64, "registered memory") };
        let base = base.map_err(|e| refuse(ERROR_HOST_MEMORY_ALREADY_REGISTERED, e))?;
        s.host_memory.insert(base, HostMemory::new(Kind::Registered, address, bytes, flags));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(address: u64) -> Code {
    code(working().and_then(|mut s| {
        s.is_safe()?;
        s.remove_host_memory(address, Kind::Registered, ERROR_HOST_MEMORY_NOT_REGISTERED)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetDevicePointer_v2(out: Out<u64>, address: u64, flags: c_uint) -> Code {
    code(working().and_then(|s| {
        if flags != 0 || s.host_memory_at(address).is_none() {
            return Err(ERROR_INVALID_VALUE);
        }
        out.put(address)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(out: Out<c_uint>, address: u64) -> Code {
    code(working().and_then(|s| {
        let memory = s.host_memory_at(address).filter(|m| m.kind != Kind::Managed);
        // All pinned memory is mapped where addresses are unified.
        out.put(memory.ok_or(ERROR_INVALID_VALUE)?.flags | 2)
    }))
}
