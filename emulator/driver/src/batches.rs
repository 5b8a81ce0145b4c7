//! Many copies, prefetches or discards in one call.

use std::ffi::c_int;

use crate::copy::{Copy3, Place, Side, place};
use crate::errors::*;
use crate::ffi::{In, Out};
use crate::hints::managed;
use crate::ops::{Op, submit};
use crate::pools::Location;
use crate::state::*;

/// CUmemcpyAttributes: when the source is read (in stream order, during the call, at any time), hints, flags.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attributes {
    order: c_int,
    hints: [Location; 2],
    flags: u32,
}

/// Copies happen when they are submitted, which every order allows. `failed` gets the place of the first bad copy.
fn copies(
    targets: In<u64>,
    sources: In<u64>,
    sizes: In<usize>,
    count: usize,
    attributes: In<Attributes>,
    attribute_starts: In<usize>,
    attribute_count: usize,
    failed: Out<usize>,
    stream: Handle,
) -> Result<(), Code> {
    failed.put_if_wanted(usize::MAX);
    // The default stream cannot take a batch.
    if count == 0 || stream as usize <= LEGACY || attribute_count == 0 || attribute_count > count {
        return Err(ERROR_INVALID_VALUE);
    }
    if attributes.list(attribute_count)?.iter().any(|a| !(1..=3).contains(&a.order)) {
        return Err(ERROR_INVALID_VALUE);
    }
    let starts = attribute_starts.list(attribute_count)?;
    if starts[0] != 0 || starts.windows(2).any(|w| w[0] >= w[1]) || starts[attribute_count - 1] >= count {
        return Err(ERROR_INVALID_VALUE);
    }
    for i in 0..count {
        let (to, from, bytes) = (targets.get_at(i)?, sources.get_at(i)?, sizes.get_at(i)?);
        let done = working().and_then(|s| {
            let copy = Copy3::line(place(&s, to), place(&s, from), bytes);
            submit(s, stream, Op::Copy(copy))
        });
        done.inspect_err(|_| failed.put_if_wanted(i))?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyBatchAsync_v2(
    targets: In<u64>,
    sources: In<u64>,
    sizes: In<usize>,
    count: usize,
    attributes: In<Attributes>,
    attribute_starts: In<usize>,
    attribute_count: usize,
    stream: Handle,
) -> Code {
    let (starts, none) = (attribute_starts, Out::NULL);
    code(copies(targets, sources, sizes, count, attributes, starts, attribute_count, none, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyBatchAsync(
    targets: In<u64>,
    sources: In<u64>,
    sizes: In<usize>,
    count: usize,
    attributes: In<Attributes>,
    attribute_starts: In<usize>,
    attribute_count: usize,
    failed: Out<usize>,
    stream: Handle,
) -> Code {
    let starts = attribute_starts;
    code(copies(targets, sources, sizes, count, attributes, starts, attribute_count, failed, stream))
}

/// CUmemcpy3DOperand of a pointer: elements from row to row and rows from slice to slice are bytes here; 0 is packed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Operand {
    kind: c_int,
    address: u64,
    row: usize,
    rows: usize,
    hint: Location,
}

/// CUDA_MEMCPY3D_BATCH_OP.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Batch3 {
    from: Operand,
    to: Operand,
    extent: [usize; 3],
    order: c_int,
    flags: u32,
}

/// CU_MEMCPY_OPERAND_TYPE_POINTER; the other is an array.
const POINTER: c_int = 1;

impl Operand {
    fn side(&self, s: &State, [width, height, _]: [usize; 3]) -> Result<Side, Code> {
        if self.kind != POINTER {
            say_once("array", "copies of CUDA arrays are not supported");
            return Err(ERROR_NOT_SUPPORTED);
        }
        let pitch = if self.row == 0 { width } else { self.row };
        let rows = if self.rows == 0 { height } else { self.rows };
        let slice = pitch.checked_mul(rows).ok_or(ERROR_INVALID_VALUE)?;
        let place: Place = place(s, self.address);
        Ok(Side { place, pitch, slice })
    }
}

fn copies3(
    count: usize,
    ops: In<Batch3>,
    failed: Out<usize>,
    flags: u64,
    stream: Handle,
) -> Result<(), Code> {
    failed.put_if_wanted(usize::MAX);
    if count == 0 || flags != 0 || stream as usize <= LEGACY {
        return Err(ERROR_INVALID_VALUE);
    }
    for (i, op) in ops.list(count)?.into_iter().enumerate() {
        let done = working().and_then(|s| {
            let [width, height, depth] = op.extent;
            let (from, to) = (op.from.side(&s, op.extent)?, op.to.side(&s, op.extent)?);
            submit(s, stream, Op::Copy(Copy3 { from, to, width, height, depth }))
        });
        done.inspect_err(|_| failed.put_if_wanted(i))?;
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy3DBatchAsync_v2(count: usize, ops: In<Batch3>, flags: u64, stream: Handle) -> Code {
    code(copies3(count, ops, Out::NULL, flags, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy3DBatchAsync(
    count: usize,
    ops: In<Batch3>,
    failed: Out<usize>,
    flags: u64,
    stream: Handle,
) -> Code {
    code(copies3(count, ops, failed, flags, stream))
}

/// All ranges are managed memory, which is where it is needed already.
fn ranges(
    addresses: In<u64>,
    sizes: In<usize>,
    count: usize,
    flags: u64,
    stream: Handle,
) -> Result<(), Code> {
    let mut s = working()?;
    s.stream(stream)?;
    if count == 0 || flags != 0 || stream as usize <= LEGACY {
        return Err(ERROR_INVALID_VALUE);
    }
    (0..count).try_for_each(|i| managed(&s, addresses.get_at(i)?, sizes.get_at(i)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchBatchAsync(
    addresses: In<u64>,
    sizes: In<usize>,
    count: usize,
    _locations: In<Location>,
    _location_starts: In<usize>,
    _location_count: usize,
    flags: u64,
    stream: Handle,
) -> Code {
    code(ranges(addresses, sizes, count, flags, stream))
}

/// What is discarded may hold anything; here it keeps what it held.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemDiscardBatchAsync(
    addresses: In<u64>,
    sizes: In<usize>,
    count: usize,
    flags: u64,
    stream: Handle,
) -> Code {
    code(ranges(addresses, sizes, count, flags, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemDiscardAndPrefetchBatchAsync(
    addresses: In<u64>,
    sizes: In<usize>,
    count: usize,
    _locations: In<Location>,
    _location_starts: In<usize>,
    _location_count: usize,
    flags: u64,
    stream: Handle,
) -> Code {
    code(ranges(addresses, sizes, count, flags, stream))
}
