//! Initialisation, the device and what it is.

use std::ffi::{c_char, c_int, c_uint};

use handloom_emulator::Arch;

use crate::errors::*;
use crate::ffi::{Out, Text};
use crate::state::*;

/// CUDA 13.0.
pub const VERSION: c_int = 13000;
/// Where the one device claims to be plugged in.
const PCI_BUS_ID: &str = "0000:00:00.0";

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> Code {
    if flags != 0 { ERROR_INVALID_VALUE } else { init() }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(out: Out<c_int>) -> Code {
    code(out.put(VERSION))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(out: Out<c_int>) -> Code {
    code(state().and_then(|_| out.put(1)))
}

pub fn check_device(device: c_int) -> Result<(), Code> {
    if device == 0 { Ok(()) } else { Err(ERROR_INVALID_DEVICE) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(out: Out<c_int>, ordinal: c_int) -> Code {
    code(state().and_then(|_| check_device(ordinal)).and_then(|_| out.put(0)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(out: Out<c_char>, length: c_int, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        let name = format!("Handloom emulated GPU ({})", s.device.options().arch.name);
        out.put_text(&name, length.max(0) as usize)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, device: c_int) -> Code {
    code(state().and_then(|_| check_device(device)).and_then(|_| out.put(*b"handloom-emulate")))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(out: Out<[u8; 16]>, device: c_int) -> Code {
    cuDeviceGetUuid_v2(out, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetPCIBusId(out: Out<c_char>, length: c_int, device: c_int) -> Code {
    code(
        state()
            .and_then(|_| check_device(device))
            .and_then(|_| out.put_text(PCI_BUS_ID, length.max(0) as usize)),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetByPCIBusId(out: Out<c_int>, name: Text) -> Code {
    code(state().and_then(|_| match name.get()?.as_str() {
        PCI_BUS_ID | "00:00.0" | "0000:00:00" | "00:00" => out.put(0),
        _ => Err(ERROR_INVALID_DEVICE),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(out: Out<usize>, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        out.put(s.device.memory().capacity() as usize)
    }))
}

/// Attributes of an architecture by number (CUdevice_attribute). A feature that the driver lacks is 0; a number that
/// the API does not have is None. Textures and surfaces, which the emulator does not have, are 0 in size.
pub fn attribute(arch: &Arch, attribute: c_int) -> Option<u32> {
    let hopper = arch.major >= 9;
    Some(match attribute {
        1 => arch.max_threads_per_block,
        2..=4 => arch.max_block[attribute as usize - 2],
        5..=7 => arch.max_grid[attribute as usize - 5],
        8 => arch.shared_per_block,
        9 => arch.const_bytes,
        10 => 32,              // threads of a warp
        11 => i32::MAX as u32, // pitch
        12 => arch.registers_per_block,
        // kHz: the emulator has no clock, and programs divide by it; these are the real devices' boost clocks.
        13 => {
            if hopper {
                1_980_000
            } else {
                1_410_000
            }
        }
        14 | 30 => 512, // alignment of textures and surfaces
        15 => 1,        // copies may overlap kernels
        16 => arch.sms,
        17 | 18 => 0, // no time limit, not integrated
        19 => 1,      // host memory can be mapped
        20 => 0,      // default compute mode
        31 => 1,      // concurrent kernels
        32 => 1,      // ECC
        33..=35 => 0,
        36 => {
            if hopper {
                2_619_000
            } else {
                1_215_000
            }
        } // memory clock, kHz
        37 => 5120, // bits of the memory bus
        38 => {
            if hopper {
                50 << 20
            } else {
                40 << 20
            }
        } // L2 cache
        39 => arch.max_threads_per_sm,
        40 => 3, // copy engines
        41 => 1, // unified addressing
        51 => 32,
        75 => arch.major,
        76 => arch.minor,
        78..=80 => 1, // priorities, L1 for global and local memory
        81 => arch.shared_per_sm,
        82 => arch.registers_per_sm,
        83 | 89 => 1,             // managed memory, which the host may use at any time
        87 => 2,                  // f32 to f64 rate
        90 => 1,                  // preemption
        91 => 1,                  // registered memory has one address
        92..=94 | 122 | 123 => 1, // streams write words and wait for them
        98 | 102 => 1,            // writes of others are seen; virtual memory
        95 => 1,                  // cooperative launch
        97 => arch.shared_per_block_optin,
        99 => 1, // registering host memory
        106 => arch.max_blocks_per_sm,
        111 => arch.shared_reserved,
        113 => 1,                   // registering read-only memory
        115 => 1,                   // memory pools
        120 | 127 => hopper as u32, // clusters, tensor maps
        126 => {
            if hopper {
                4
            } else {
                1
            }
        } // memory synchronisation domains
        130 => 0,
        131 | 134 => u32::MAX, // no NUMA node
        // Textures, surfaces, pageable memory, sharing with other processes and devices.
        21..=29
        | 42..=50
        | 52..=74
        | 77
        | 84..=86
        | 88
        | 96
        | 100
        | 101
        | 103..=105
        | 107..=110
        | 112
        | 114
        | 116..=119
        | 121
        | 124
        | 125
        | 128
        | 129
        | 132
        | 133
        | 135..=147 => 0,
        _ => return None,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(out: Out<c_int>, which: c_int, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        match attribute(s.device.options().arch, which) {
            Some(v) => out.put(v as c_int),
            None => Err(refuse(ERROR_INVALID_VALUE, format!("there is no device attribute {which}"))),
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        let arch = s.device.options().arch;
        major.put(arch.major as c_int)?;
        minor.put(arch.minor as c_int)
    }))
}

/// CUdevprop, of the oldest programs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    max_threads_per_block: c_int,
    max_block: [c_int; 3],
    max_grid: [c_int; 3],
    shared_per_block: c_int,
    const_bytes: c_int,
    warp: c_int,
    pitch: c_int,
    registers_per_block: c_int,
    clock: c_int,
    texture_align: c_int,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetProperties(out: Out<Properties>, device: c_int) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        let a = s.device.options().arch;
        out.put(Properties {
            max_threads_per_block: a.max_threads_per_block as c_int,
            max_block: a.max_block.map(|d| d as c_int),
            max_grid: a.max_grid.map(|d| d as c_int),
            shared_per_block: a.shared_per_block as c_int,
            const_bytes: a.const_bytes as c_int,
            warp: 32,
            pitch: i32::MAX,
            registers_per_block: a.registers_per_block as c_int,
            clock: attribute(a, 13).unwrap_or(0) as c_int,
            texture_align: 512,
        })
    }))
}

/// There is one device, which is no peer of itself.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceCanAccessPeer(out: Out<c_int>, a: c_int, b: c_int) -> Code {
    code(state().and_then(|_| {
        check_device(a)?;
        check_device(b)?;
        out.put(0)
    }))
}

/// Memory that graphs use (1, 2) or reserve (3, 4), now and at most: part of the device's, not counted apart.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetGraphMemAttribute(device: c_int, attribute: c_int, out: Out<u64>) -> Code {
    code(state().and_then(|s| {
        check_device(device)?;
        let m = s.device.memory();
        let live = s.graph_allocations.keys().filter_map(|&a| m.find(a)).map(|a| a.size).sum();
        match attribute {
            0 | 2 => out.put(live),
            1 | 3 => Err(refuse(ERROR_NOT_SUPPORTED, "the most memory that graphs have used is not counted")),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGraphMemTrim(device: c_int) -> Code {
    code(state().and_then(|_| check_device(device)))
}
