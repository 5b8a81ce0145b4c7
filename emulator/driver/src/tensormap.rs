//! Tensor maps for the tensor copies of sm_90, encoded with the argument checks of the real function.

use std::ffi::c_uint;

use handloom_emulator::tensormap::{BYTES, Tiled, encode_tiled};

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::state::*;

/// CUtensorMap must be aligned to this.
const ALIGN: usize = 64;

#[unsafe(no_mangle)]
pub extern "C" fn cuTensorMapEncodeTiled(
    map: Out<[u8; BYTES]>,
    data_type: c_uint,
    rank: c_uint,
    address: u64,
    dims: In<u64>,
    strides: In<u64>,
    box_dims: In<u32>,
    element_strides: In<u32>,
    interleave: c_uint,
    swizzle: c_uint,
    l2_promotion: c_uint,
    oob_fill: c_uint,
) -> Code {
    code(working().and_then(|s| {
        map.required()?;
        let invalid = |e: String| refuse(ERROR_INVALID_VALUE, format!("cuTensorMapEncodeTiled: {e}"));
        if s.device.options().arch.major < 9 {
            return Err(refuse(ERROR_NOT_SUPPORTED, "tensor maps need sm_90; set arch=sm_90a"));
        }
        if !map.address().is_multiple_of(ALIGN) {
            return Err(invalid(format!("the map is not aligned to {ALIGN} B")));
        }
        if !(1..=5).contains(&rank) {
            return Err(invalid(format!("tensorRank is {rank}, it must be 1 to 5")));
        }
        let rank = rank as usize;
        let (dims, box_dims) = (dims.list(rank)?, box_dims.list(rank)?);
        let element_strides = element_strides.list(rank)?;
        let strides = if rank == 1 { Vec::new() } else { strides.list(rank - 1)? };
        let tiled = Tiled {
            data_type,
            address,
            dims: &dims,
            strides: &strides,
            box_dims: &box_dims,
            element_strides: &element_strides,
            interleave,
            swizzle,
            l2_promotion,
            oob_fill,
        };
        map.put(encode_tiled(&tiled).map_err(invalid)?)
    }))
}

/// A map for the same tensor at another address.
#[unsafe(no_mangle)]
pub extern "C" fn cuTensorMapReplaceAddress(map: Out<[u8; BYTES]>, address: u64) -> Code {
    code(working().and_then(|_| {
        let mut bytes = map.get()?;
        let known = handloom_emulator::tensormap::decode(&bytes);
        if known.is_none() || !address.is_multiple_of(16) {
            return Err(ERROR_INVALID_VALUE);
        }
        // The address stands after the tag and two words of small fields.
        bytes[16..24].copy_from_slice(&address.to_le_bytes());
        map.put(bytes)
    }))
}
