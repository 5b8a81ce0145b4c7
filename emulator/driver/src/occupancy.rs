//! How many blocks of a kernel an SM holds: by threads, registers, shared memory and blocks (CUDA C++ Programming Guide,
//! "Hardware Implementation", and the technical specifications per compute capability).

use std::ffi::{c_int, c_uint};

use handloom_emulator::{Arch, Kernel};

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::launch::Config;
use crate::state::*;

/// Registers are given out to warps in these units.
const REGISTER_UNIT: u32 = 256;

/// What a compiler would need at least: the most values live at once, and some to compute with.
pub fn registers(kernel: &Kernel, arch: &Arch) -> u32 {
    (kernel.live_registers + 8).next_multiple_of(8).clamp(16, arch.max_registers_per_thread)
}

/// Blocks of `block` threads with `dynamic` bytes of shared memory that run at once on one SM.
pub fn blocks_per_sm(arch: &Arch, kernel: &Kernel, block: u32, dynamic: usize) -> u32 {
    if block > arch.max_threads_per_block {
        return 0;
    }
    let warps = block.div_ceil(32).max(1);
    let shared = (kernel.shared_bytes as usize + arch.shared_reserved as usize).saturating_add(dynamic);
    let by_shared = arch.shared_per_sm as usize / shared.max(1);
    let per_warp = (registers(kernel, arch) * 32).next_multiple_of(REGISTER_UNIT);
    let by_registers = arch.registers_per_sm / (per_warp * warps);
    let by_threads = arch.max_threads_per_sm / 32 / warps;
    by_threads.min(by_registers).min(arch.max_blocks_per_sm).min(by_shared as u32)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    out: Out<c_int>,
    function: Handle,
    block: c_int,
    dynamic: usize,
) -> Code {
    code(working().and_then(|s| {
        let (kernel, ..) = s.kernel(function)?;
        if block <= 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        out.put(blocks_per_sm(s.device.options().arch, kernel, block as u32, dynamic) as c_int)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    out: Out<c_int>,
    function: Handle,
    block: c_int,
    dynamic: usize,
    _flags: c_uint,
) -> Code {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(out, function, block, dynamic)
}

type SharedOfBlock = unsafe extern "C" fn(c_int) -> usize;

/// The block size with the most threads at once on an SM, the largest of them, and the blocks that fill the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSize(
    min_grid: Out<c_int>,
    block_out: Out<c_int>,
    function: Handle,
    shared_of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
) -> Code {
    code((|| {
        min_grid.required().and_then(|_| block_out.required())?;
        let most = {
            let s = working()?;
            let (kernel, ..) = s.kernel(function)?;
            kernel.max_threads.unwrap_or(u32::MAX).min(s.device.options().arch.max_threads_per_block)
        };
        let most = if limit > 0 { most.min(limit as u32) } else { most };
        let (mut best, mut best_blocks) = (0, 0);
        for block in (1..=most.div_ceil(32)).rev().map(|warps| (warps * 32).min(most)) {
            let shared = match shared_of_block {
                // SAFETY: a function of the caller, by the API's contract; the state is not locked.
                Some(f) => unsafe { f(block as c_int) },
                None => dynamic,
            };
            let s = working()?;
            let (kernel, ..) = s.kernel(function)?;
            let blocks = blocks_per_sm(s.device.options().arch, kernel, block, shared);
            if blocks * block > best * best_blocks {
                (best, best_blocks) = (block, blocks);
            }
        }
        min_grid.put((best_blocks * working()?.device.options().arch.sms) as c_int)?;
        block_out.put(best as c_int)
    })())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    min_grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle,
    shared_of_block: Option<SharedOfBlock>,
    dynamic: usize,
    limit: c_int,
    _flags: c_uint,
) -> Code {
    cuOccupancyMaxPotentialBlockSize(min_grid, block, function, shared_of_block, dynamic, limit)
}

/// Dynamic shared memory with which `blocks` blocks still fit on an SM.
#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    out: Out<usize>,
    function: Handle,
    blocks: c_int,
    _block: c_int,
) -> Code {
    code(working().and_then(|s| {
        let arch = s.device.options().arch;
        let (kernel, ..) = s.kernel(function)?;
        if blocks <= 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        let share = arch.shared_per_sm / blocks as u32;
        let taken = kernel.shared_bytes + arch.shared_reserved;
        let most = arch.shared_per_block_optin.saturating_sub(kernel.shared_bytes);
        out.put(share.saturating_sub(taken).min(most) as usize)
    }))
}

/// Blocks of the largest cluster that every GPU with clusters runs.
const PORTABLE_CLUSTER: u32 = 8;

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxPotentialClusterSize(
    out: Out<c_int>,
    function: Handle,
    config: In<Config>,
) -> Code {
    code(working().and_then(|s| {
        s.kernel(function)?;
        config.get()?;
        out.put(if s.device.options().arch.major >= 9 { PORTABLE_CLUSTER as c_int } else { 1 })
    }))
}

/// Clusters that the device holds at once, as if its SMs were one pool: an upper bound, for real ones are grouped.
#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveClusters(
    out: Out<c_int>,
    function: Handle,
    config: In<Config>,
) -> Code {
    code(working().and_then(|s| {
        let arch = s.device.options().arch;
        let (kernel, ..) = s.kernel(function)?;
        let shape = config.get()?.shape()?;
        let product = |d: [u32; 3]| d.iter().fold(1u32, |n, &d| n.saturating_mul(d));
        let size = product(shape.cluster);
        if arch.major < 9 || size == 0 {
            return Err(ERROR_INVALID_CLUSTER_SIZE);
        }
        let blocks = blocks_per_sm(arch, kernel, product(shape.block), shape.shared as usize);
        out.put((blocks * arch.sms / size) as c_int)
    }))
}
