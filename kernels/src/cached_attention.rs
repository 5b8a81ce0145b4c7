//! Attention of one new token a sequence over cached keys and values: cached_attention.cu.

use crate::attention::MAX_HEAD_SIZE;
use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid::{self, VECTOR, WARP};
use crate::slice::{Arg, Slice, SliceMut};

const OP: &str = "cached_attention";

const FORWARD: [&str; 3] =
    ["cached_attention_forward_f32", "cached_attention_forward_f16", "cached_attention_forward_bf16"];

/// Sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CachedAttention {
    pub batch: usize,
    /// Rows of each sequence's cache.
    pub context: usize,
    pub heads: usize,
    pub head_size: usize,
    /// Factor on the products of query and keys.
    pub scale: f32,
}

impl CachedAttention {
    /// Stores the new token's k and v in row `*position` of the caches, and attends to rows 0 ..= `*position`. A position outside the
    /// cache gives NaN and stores nothing.
    ///
    /// # Shapes
    /// out (batch, 1, C), overwritten; keys, values (batch, context, C), of which one row is overwritten; qkv (batch, 1, 3C), q, k and v
    /// side by side; C = heads * head_size; position one i32.
    ///
    /// # Errors
    /// [`Error::Argument`] when an array is too short or of another dtype, or the head size is above [`MAX_HEAD_SIZE`].
    pub fn forward(
        &self,
        gpu: &Gpu,
        out: SliceMut,
        keys: SliceMut,
        values: SliceMut,
        qkv: Slice,
        position: Slice,
    ) -> Result<()> {
        let CachedAttention { batch, context, heads, head_size, scale } = *self;
        let (elem, width) = (out.elem(), heads * head_size);
        let entry = elem.pick(OP, FORWARD)?;
        if head_size > MAX_HEAD_SIZE {
            let message = format!("head size is {head_size}, the GPU's kernels take at most {MAX_HEAD_SIZE}");
            return Err(Error::argument(OP, message));
        }
        if context > i32::MAX as usize {
            return Err(Error::argument(OP, format!("context is {context}, positions are 32-bit")));
        }
        out.expect(OP, "out", elem, batch * width)?;
        keys.expect(OP, "keys", elem, batch * context * width)?;
        values.expect(OP, "values", elem, batch * context * width)?;
        qkv.expect(OP, "qkv", elem, batch * 3 * width)?;
        position.expect(OP, "position", Elem::I32, 1)?;
        if batch * width == 0 {
            return Ok(());
        }
        let aligned = [keys.address(), values.address(), qkv.address()]
            .iter()
            .all(|address| address.is_multiple_of(VECTOR as u64));
        let vector = aligned && (head_size * elem.size()).is_multiple_of(VECTOR);
        let lanes = (head_size * elem.size()).div_ceil(VECTOR).next_power_of_two().min(WARP);
        let args = [
            Arg::from(&out),
            (&keys).into(),
            (&values).into(),
            qkv.into(),
            position.into(),
            Arg::I32(context as i32),
            Arg::I32(heads as i32),
            Arg::I32(head_size as i32),
            Arg::I32(lanes as i32),
            Arg::F32(scale),
            Arg::I32(vector as i32),
        ];
        let blocks = grid::blocks(OP, "batch * heads", batch * heads)?;
        gpu.launch(entry, [blocks, 1, 1], grid::BLOCK, 0, &args)
    }
}
