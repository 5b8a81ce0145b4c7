//! Words of memory that a stream writes, or waits for. Work is done when it is submitted, so a wait must find its value
//! there: one that does not is refused, for nothing could come to write it while the caller waits.

use std::ffi::{c_int, c_uint};

use crate::errors::*;
use crate::ffi::In;
use crate::state::*;

/// CUstreamBatchMemOpType.
const WAIT_32: c_int = 1;
const WRITE_32: c_int = 2;
const FLUSH: c_int = 3;
const WAIT_64: c_int = 4;
const WRITE_64: c_int = 5;
const BARRIER: c_int = 6;

/// A flag of waits that asks for writes of other devices to be seen first: there are none.
const WAIT_FLUSH: u32 = 1 << 30;

/// CUstreamBatchMemOpParams, as far as waiting and writing use it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchOp {
    operation: c_int,
    address: u64,
    value: u64,
    flags: c_uint,
    alias: u64,
    pad: u64,
}

fn check(s: &State, address: u64, bytes: u64) -> Result<(), Code> {
    let found = s.device.memory().find(address).filter(|a| a.base + a.size - address >= bytes);
    if found.is_some() && address.is_multiple_of(bytes) { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
}

/// True when the value that is there ends the wait.
fn holds(there: u64, value: u64, bytes: u64, condition: u32) -> bool {
    match (condition, bytes) {
        (0, 4) => (there as u32).wrapping_sub(value as u32) as i32 >= 0,
        (0, _) => there.wrapping_sub(value) as i64 >= 0,
        (1, _) => there == value,
        (2, _) => there & value != 0,
        (_, 4) => !(there as u32 | value as u32) != 0,
        _ => !(there | value) != 0,
    }
}

fn act(s: &State, op: &BatchOp) -> Result<(), Code> {
    let bytes = if matches!(op.operation, WAIT_32 | WRITE_32) { 4 } else { 8 };
    let invalid = |e: handloom_emulator::Error| refuse(ERROR_INVALID_VALUE, e);
    match op.operation {
        WAIT_32 | WAIT_64 => {
            check(s, op.address, bytes)?;
            let condition = op.flags & !WAIT_FLUSH;
            if condition > 3 {
                return Err(ERROR_INVALID_VALUE);
            }
            let mut word = [0; 8];
            s.device.read(op.address, &mut word[..bytes as usize]).map_err(invalid)?;
            let value = if bytes == 4 { op.value as u32 as u64 } else { op.value };
            if holds(u64::from_le_bytes(word), value, bytes, condition) {
                return Ok(());
            }
            let what = "a stream waits for a value that is not there yet: work is done when it is submitted here, so \
                        submit what writes it first";
            say_once("stream waits for a value", what);
            Err(ERROR_NOT_SUPPORTED)
        }
        WRITE_32 | WRITE_64 => {
            check(s, op.address, bytes)?;
            if op.flags > 1 {
                return Err(ERROR_INVALID_VALUE);
            }
            s.device.write(op.address, &op.value.to_le_bytes()[..bytes as usize]).map_err(invalid)
        }
        // What came before is done.
        FLUSH | BARRIER => Ok(()),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

fn submit(stream: Handle, ops: &[BatchOp]) -> Result<(), Code> {
    let mut s = working()?;
    let key = s.stream(stream)?;
    if s.capturing(key)?.is_some() {
        say_once("captured memory operations", "memory operations of streams cannot be captured");
        return Err(s.spoil(key, ERROR_NOT_SUPPORTED));
    }
    s.legacy_is_free(key)?;
    ops.iter().try_for_each(|op| act(&s, op))
}

fn one(stream: Handle, operation: c_int, address: u64, value: u64, flags: c_uint) -> Code {
    code(submit(stream, &[BatchOp { operation, address, value, flags, alias: 0, pad: 0 }]))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitValue32_v2(stream: Handle, address: u64, value: u32, flags: c_uint) -> Code {
    one(stream, WAIT_32, address, value as u64, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitValue64_v2(stream: Handle, address: u64, value: u64, flags: c_uint) -> Code {
    one(stream, WAIT_64, address, value, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWriteValue32_v2(stream: Handle, address: u64, value: u32, flags: c_uint) -> Code {
    one(stream, WRITE_32, address, value as u64, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWriteValue64_v2(stream: Handle, address: u64, value: u64, flags: c_uint) -> Code {
    one(stream, WRITE_64, address, value, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBatchMemOp_v2(
    stream: Handle,
    count: c_uint,
    ops: In<BatchOp>,
    flags: c_uint,
) -> Code {
    match ops.list(count as usize) {
        Ok(ops) if flags == 0 && count <= 256 => code(submit(stream, &ops)),
        _ => ERROR_INVALID_VALUE,
    }
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn conditions_are_those_of_the_api() {
        assert!(holds(7, 7, 4, 0) && holds(8, 7, 4, 0) && !holds(6, 7, 4, 0));
        // The difference counts, so that a counter may wrap.
        assert!(holds(1, 0xffff_ffff, 4, 0) && !holds(0xffff_ffff, 1, 4, 0) && !holds(1 << 63, 0, 8, 0));
        assert!(holds(7, 7, 8, 1) && !holds(8, 7, 8, 1));
        assert!(holds(6, 2, 4, 2) && !holds(4, 2, 4, 2));
        assert!(holds(0, 0xffff_fffe, 4, 3) && !holds(1, 0xffff_fffe, 4, 3));
    }
}
