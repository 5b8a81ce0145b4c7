//! What can be asked of an address.

use std::ffi::{c_int, c_uint};

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::host_memory::Kind;
use crate::state::*;

/// Writes one attribute of `address`.
///
/// # Errors
/// `ERROR_INVALID_VALUE` when the address is no memory that the driver knows, or the attribute is unknown.
fn write(s: &State, address: u64, attribute: c_uint, out: Out<u64>) -> Result<(), Code> {
    let a = s.device.memory().find(address).ok_or(ERROR_INVALID_VALUE)?;
    let kind = s.host_memory_at(address).map(|m| m.kind);
    let host = matches!(kind, Some(Kind::Pinned | Kind::Registered));
    let int = |v: c_int| out.cast::<c_int>().put(v);
    match attribute {
        1 => out.put(current() as u64),
        2 => int(if host { 1 } else { 2 }), // CU_MEMORYTYPE_HOST, _DEVICE
        3 => out.put(address),
        4 if kind.is_some() => out.put(address),
        5 => Err(ERROR_NOT_SUPPORTED),
        6 | 8 | 10 | 13 | 15 | 21 => {
            let yes = match attribute {
                8 => kind == Some(Kind::Managed),
                13 => true,
                _ => false,
            };
            out.cast::<bool>().put(yes)
        }
        7 => out.put(a.base),
        9 => int(0),
        11 | 19 => out.put(a.base),
        12 | 18 => out.put(a.size),
        14 => int(0),
        16 => int(3), // read and write
        17 => out.put(s.pool_of.get(&a.base).copied().unwrap_or(0) as u64),
        20 => out.put(a.base),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttribute(out: Out<u64>, attribute: c_uint, address: u64) -> Code {
    code(working().and_then(|s| {
        out.required()?;
        write(&s, address, attribute, out)
    }))
}

/// As for one, but an attribute that an address does not have gives zeros and no error.
#[unsafe(no_mangle)]
pub extern "C" fn cuPointerGetAttributes(
    count: c_uint,
    attributes: In<c_uint>,
    outs: In<usize>,
    address: u64,
) -> Code {
    code(working().and_then(|s| {
        let count = count as usize;
        for (attribute, out) in attributes.list(count)?.into_iter().zip(outs.list(count)?) {
            let out = Out::<u64>::at(out);
            out.required()?;
            if write(&s, address, attribute, out).is_err() {
                match attribute {
                    2 | 9 | 14 | 16 => out.cast::<c_int>().put(if attribute == 9 { -2 } else { 0 })?,
                    6 | 8 | 10 | 13 | 15 | 21 => out.cast::<bool>().put(false)?,
                    1 | 3 | 4 | 7 | 11 | 12 | 17..=20 => out.put(0)?,
                    _ => return Err(ERROR_INVALID_VALUE),
                }
            }
        }
        Ok(())
    }))
}

/// Only whether copies wait (SYNC_MEMOPS) can be set, and they always do.
#[unsafe(no_mangle)]
pub extern "C" fn cuPointerSetAttribute(value: In<u8>, attribute: c_uint, address: u64) -> Code {
    code(working().and_then(|s| {
        let known = s.device.memory().find(address).is_some();
        if attribute == 6 && known && !value.is_null() { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
    }))
}
