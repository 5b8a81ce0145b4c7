//! Descriptions of matrices for the tensor copies of sm_90 (TMA).

use cudarc::driver::sys;

use super::Gpu;
use super::call::Call;
use crate::elem::Elem;
use crate::error::Result;
use crate::slice::TensorMap;

impl Gpu {
    /// Describes (z, y, x) elements of f16 or bf16, x adjacent, y and z at `strides` bytes, to copies of boxes (1, y, x) with lines of
    /// 128 bytes, swizzled. All three in the order x, y, z; `strides` of y and z, `box_sizes` of x and y. What a box holds beyond the
    /// sizes becomes zero.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::error::Error::Driver) when the address or a stride is no multiple of 16, or a size is 0 or more than 2^32.
    pub(crate) fn tensor_map(
        &self,
        address: u64,
        elem: Elem,
        sizes: [u64; 3],
        strides: [u64; 2],
        box_sizes: [u32; 2],
    ) -> Result<TensorMap> {
        use sys::CUtensorMapDataType_enum as Type;
        let kind = match elem {
            Elem::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            _ => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        let mut map = TensorMap([0; 16]);
        if self.is_planning() {
            return Ok(map);
        }
        let (boxes, steps) = ([box_sizes[0], box_sizes[1], 1], [1; 3]);
        self.bind()?;
        // SAFETY: the arrays have as many elements as the rank, 3 (strides one less), and the map is 128 bytes, aligned to 64.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                kind,
                3,
                address as *mut std::ffi::c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .call("cuTensorMapEncodeTiled")?;
        Ok(map)
    }
}
