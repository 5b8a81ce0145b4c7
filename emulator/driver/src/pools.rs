//! Memory pools and allocation in the order of a stream.
//!
//! Pools belong to the device, so that they need no context. A pool reserves memory in blocks and keeps what is freed: at the next synchronisation it gives back what it holds
//! above its release threshold. Work is done when it is submitted, so freed memory is free at once.

use std::ffi::{c_int, c_uint};

use crate::device::check_device;
use crate::errors::*;
use crate::ffi::{In, Out};
use crate::state::*;

/// Pools reserve memory in multiples of this.
const BLOCK: u64 = 2 << 20;

#[derive(Default)]
pub struct Pool {
    pub used: u64,
    pub used_high: u64,
    pub reserved: u64,
    pub reserved_high: u64,
    pub threshold: u64,
    /// The most it may reserve; 0 for no limit.
    pub max_size: u64,
    /// Policies of reuse, on unless switched off; kept and given back.
    pub no_reuse: [bool; 3],
}

impl Pool {
    fn take(&mut self, bytes: u64) {
        self.used += bytes;
        self.used_high = self.used_high.max(self.used);
        if self.used > self.reserved {
            self.reserved = self.used.next_multiple_of(BLOCK);
            self.reserved_high = self.reserved_high.max(self.reserved);
        }
    }

    /// Gives back what it does not use, above `keep` bytes.
    fn trim(&mut self, keep: u64) {
        let least = self.used.next_multiple_of(BLOCK).max(keep);
        self.reserved = self.reserved.min(least);
    }
}

impl State {
    /// Bytes that pools hold and do not use.
    pub fn kept_bytes(&self) -> u64 {
        self.pools.values().map(|p| p.reserved.saturating_sub(p.used)).sum()
    }

    /// Memory has become scarce: pools give back all that they can.
    pub fn trim_pools(&mut self) {
        for pool in self.pools.values_mut() {
            pool.reserved = pool.used;
        }
    }

    /// At a synchronisation pools give back what they hold above their thresholds.
    pub fn release_pools(&mut self) {
        for pool in self.pools.values_mut() {
            pool.trim(pool.threshold);
        }
    }

    /// An allocation is gone; a pool may have to know.
    pub fn given_back(&mut self, address: u64, bytes: u64) {
        if let Some(pool) = self.pool_of.remove(&address).and_then(|p| self.pools.get_mut(&p)) {
            pool.used -= bytes;
        }
    }

    fn pool(&mut self, pool: Handle) -> Result<&mut Pool, Code> {
        self.pools.get_mut(&(pool as usize)).ok_or(ERROR_INVALID_HANDLE)
    }
}

fn allocate(out: Out<u64>, bytes: usize, pool: Option<usize>, stream: Handle) -> Result<(), Code> {
    let mut s = working()?;
    out.required()?;
    let key = s.stream(stream)?;
    if s.capturing(key)?.is_some() {
        let address = s.capture_allocation(key, bytes as u64)?;
        return out.put(address);
    }
    s.legacy_is_free(key)?;
    let handle = pool.unwrap_or(s.current_pool);
    let pool = s.pool(handle as Handle)?;
    if pool.max_size > 0 && pool.used.saturating_add(bytes as u64) > pool.max_size {
        let (used, max) = (pool.used, pool.max_size);
        let message = format!("{bytes} B from a memory pool of at most {max} B, of which {used} B are used");
        return Err(refuse(ERROR_OUT_OF_MEMORY, message));
    }
    let address = s.allocate(bytes)?;
    s.pool_of.insert(address, handle);
    s.pool(handle as Handle)?.take(bytes as u64);
    out.put(address)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: Handle) -> Code {
    code(allocate(out, bytes, None, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: Handle, stream: Handle) -> Code {
    code(allocate(out, bytes, Some(pool as usize), stream))
}

/// In a capture it becomes a node, for memory that a node has allocated.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        if s.capturing(key)?.is_some() {
            if !s.graph_allocations.contains_key(&address) {
                let message = "cuMemFreeAsync in a capture: the memory was not allocated in one";
                return Err(refuse(s.spoil(key, ERROR_INVALID_VALUE), message));
            }
            return s.capture(key, crate::ops::Op::Free(address)).map(|_| ());
        }
        s.legacy_is_free(key)?;
        s.free(address)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(out: Out<usize>, device: c_int) -> Code {
    code(state().and_then(|_| check_device(device)).and_then(|_| out.put(DEFAULT_POOL)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(out: Out<usize>, device: c_int) -> Code {
    code(state().and_then(|s| check_device(device).and_then(|_| out.put(s.current_pool))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: c_int, pool: Handle) -> Code {
    code(state().and_then(|mut s| {
        check_device(device)?;
        s.pool(pool)?;
        s.current_pool = pool as usize;
        Ok(())
    }))
}

/// There are pools of the device's pinned memory (1), none of the host's or of managed memory.
fn of_device(location: In<Location>, kind: c_int) -> Result<(), Code> {
    let l = location.get()?;
    match (l.kind, kind) {
        (1, 1) => check_device(l.id),
        (1..=4, 1 | 2) => {
            say_once(
                "pools of the host",
                "memory pools of the host, and of managed memory, are not supported",
            );
            Err(ERROR_NOT_SUPPORTED)
        }
        _ => Err(ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetDefaultMemPool(out: Out<usize>, location: In<Location>, kind: c_int) -> Code {
    code(state().and_then(|_| of_device(location, kind)).and_then(|_| out.put(DEFAULT_POOL)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetMemPool(out: Out<usize>, location: In<Location>, kind: c_int) -> Code {
    code(state().and_then(|s| of_device(location, kind).and_then(|_| out.put(s.current_pool))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemSetMemPool(location: In<Location>, kind: c_int, pool: Handle) -> Code {
    match of_device(location, kind) {
        Ok(()) => cuDeviceSetMemPool(0, pool),
        Err(code) => code,
    }
}

/// CUmemPoolProps.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolProps {
    allocation_type: c_int,
    handle_types: c_int,
    location_type: c_int,
    location: c_int,
    security: usize,
    max_size: usize,
    usage: u16,
    reserved: [u8; 54],
}

/// Pinned memory (1) of a device (1).
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolCreate(out: Out<usize>, props: In<PoolProps>) -> Code {
    code(state().and_then(|mut s| {
        out.required()?;
        let p = props.get()?;
        if p.allocation_type != 1 || p.location_type != 1 {
            return Err(ERROR_INVALID_VALUE);
        }
        check_device(p.location)?;
        if p.handle_types != 0 {
            say_once("pool handles", "memory pools that other processes share are not supported");
            return Err(ERROR_NOT_SUPPORTED);
        }
        let handle = s.new_handle();
        s.pools.insert(handle, Pool { max_size: p.max_size as u64, ..Pool::default() });
        out.put(handle)
    }))
}

/// Its allocations stay until they are freed.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: Handle) -> Code {
    code(state().and_then(|mut s| {
        let handle = pool as usize;
        if handle == DEFAULT_POOL {
            return Err(ERROR_INVALID_VALUE);
        }
        s.pool(pool)?;
        s.pools.remove(&handle);
        s.pool_of.retain(|_, p| *p != handle);
        if s.current_pool == handle {
            s.current_pool = DEFAULT_POOL;
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: Handle, keep: usize) -> Code {
    code(state().and_then(|mut s| {
        s.pool(pool)?.trim(keep as u64);
        Ok(())
    }))
}

/// CUmemPool_attribute: three policies (int), the threshold, and reserved and used memory with their highest (u64).
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAttribute(pool: Handle, attribute: c_uint, out: Out<u64>) -> Code {
    code(state().and_then(|mut s| {
        let p = s.pool(pool)?;
        match attribute {
            1..=3 => out.cast::<c_int>().put(!p.no_reuse[attribute as usize - 1] as c_int),
            4 => out.put(p.threshold),
            5 => out.put(p.reserved),
            6 => out.put(p.reserved_high),
            7 => out.put(p.used),
            8 => out.put(p.used_high),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }))
}

/// The highest values may only be set to 0, which starts them anew.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(pool: Handle, attribute: c_uint, value: Out<u64>) -> Code {
    code(state().and_then(|mut s| {
        let p = s.pool(pool)?;
        match attribute {
            1..=3 => p.no_reuse[attribute as usize - 1] = value.cast::<c_int>().get()? == 0,
            4 => p.threshold = value.get()?,
            6 if value.get()? == 0 => p.reserved_high = p.reserved,
            8 if value.get()? == 0 => p.used_high = p.used,
            _ => return Err(ERROR_INVALID_VALUE),
        }
        Ok(())
    }))
}

/// CUmemLocation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    pub kind: c_int,
    pub id: c_int,
}

/// The one device may read and write (3) all pools.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolGetAccess(flags: Out<c_int>, pool: Handle, location: In<Location>) -> Code {
    code(state().and_then(|mut s| {
        s.pool(pool)?;
        let l = location.get()?;
        flags.put(if l.kind == 1 && l.id == 0 { 3 } else { 0 })
    }))
}

/// CUmemAccessDesc.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    pub location: Location,
    pub flags: c_int,
}

/// The device's own access cannot be taken away, and there is no other device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAccess(pool: Handle, list: In<Access>, count: usize) -> Code {
    code(state().and_then(|mut s| {
        s.pool(pool)?;
        for a in list.list(count)? {
            if a.location.kind != 1 || a.flags != 3 {
                return Err(ERROR_INVALID_VALUE);
            }
            check_device(a.location.id)?;
        }
        Ok(())
    }))
}
