//! Attention of new tokens over the keys and values of earlier ones, which are kept: what generation runs.
//!
//! No backward. A prompt is many queries at once: [`Cache::append`] and [`super::attention`] over [`Cache::first`]. A single token is
//! [`cached_attention`], whose place in the sequence is a number in the memory of the device: on a GPU the same launches, and so one
//! captured graph, serve every token.

use handloom_kernels::cached_attention::CachedAttention;

use super::attention::{Attention, attention};
use super::view::{narrow, reshape};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::no_backward;
use crate::tensor::Tensor;

const OP: &str = "cached_attention";

/// Keys and values of a layer, (B, context, C) each.
pub struct Cache {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    /// Room for `context` tokens of `batch` sequences.
    ///
    /// # Errors
    /// [`Error::Cuda`] when a GPU has no room for it.
    pub fn new(batch: usize, context: usize, width: usize, dtype: DType, device: Device) -> Result<Self> {
        let empty = || Tensor::empty(&[batch, context, width], dtype, device);
        Ok(Cache { keys: empty()?, values: empty()? })
    }

    /// Stores the keys and values of a packed projection in rows `at..at + T`.
    ///
    /// # Shapes
    /// qkv (B, T, 3C): columns [C, 2C) are k, [2C, 3C) v.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes differ or the rows leave the cache.
    pub fn append(&mut self, qkv: &Tensor, at: usize) -> Result<()> {
        let (batch, time, packed) = qkv.dims3(OP, "qkv")?;
        let (rows, context, width) = self.keys.dims3(OP, "keys")?;
        if (batch, packed) != (rows, 3 * width) || at + time > context {
            let message =
                format!("qkv {:?} at {at} does not fit a cache {:?}", qkv.shape(), self.keys.shape());
            return Err(Error::shape(OP, message));
        }
        for (part, cache) in [(1, &mut self.keys), (2, &mut self.values)] {
            for b in 0..batch {
                let row = narrow(&narrow(&qkv.detach(), 0, b, 1)?, 2, part * width, width)?;
                cache.assign_at((b * context + at) * width, &row.to_contiguous()?)?;
            }
        }
        Ok(())
    }

    /// Views of the first `count` rows as k and v of [`attention`], (B, count, heads, HS).
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not that many, or the width is none of `heads` heads.
    pub fn first(&self, count: usize, heads: usize) -> Result<[Tensor; 2]> {
        let (batch, context, width) = self.keys.dims3(OP, "keys")?;
        let head_size = head_size(width, heads)?;
        let view =
            |cache: &Tensor| narrow(&reshape(cache, &[batch, context, heads, head_size])?, 1, 0, count);
        Ok([view(&self.keys)?, view(&self.values)?])
    }
}

fn head_size(width: usize, heads: usize) -> Result<usize> {
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(Error::shape(OP, format!("width {width} is none of {heads} heads")));
    }
    Ok(width / heads)
}

/// softmax(q k^T / sqrt(HS)) v of one new token a sequence: its own k and v go to row `position` of the cache, and it sees rows
/// 0 ..= position.
///
/// # Shapes
/// qkv (B, 1, 3C) with q, k, v side by side and the heads side by side in each; position one i32; out (B, 1, C).
///
/// # Errors
/// [`Error::Shape`] when sizes differ; [`Error::DType`]; [`Error::Value`] for a position outside the cache (on a GPU, where nobody
/// waits to read it, the result is NaN); [`Error::NoBackward`] on a tape.
pub fn cached_attention(qkv: &Tensor, heads: usize, cache: &mut Cache, position: &Tensor) -> Result<Tensor> {
    let _time = crate::profile::scope(OP, crate::profile::Pass::Forward);
    no_backward(OP, &[qkv])?;
    let (batch, time, packed) = qkv.dims3(OP, "qkv")?;
    let (rows, context, width) = cache.keys.dims3(OP, "keys")?;
    if (batch, time, packed) != (rows, 1, 3 * width) {
        let message = format!("qkv is {:?}, expected [{rows}, 1, {}]", qkv.shape(), 3 * width);
        return Err(Error::shape(OP, message));
    }
    if position.dtype() != DType::I32 {
        return Err(Error::DType { op: OP, what: "position", expected: "i32", got: position.dtype() });
    }
    super::same_dtype(OP, "keys", qkv, &cache.keys)?;
    let head_size = head_size(width, heads)?;
    let qkv = qkv.to_contiguous()?;
    match qkv.device() {
        Device::Cpu => {
            let position = position.slice::<i32>()?.first().copied().unwrap_or(-1);
            let at = usize::try_from(position).ok().filter(|at| *at < context).ok_or_else(|| {
                Error::value(OP, format!("position {position} is outside the cache of {context} tokens"))
            })?;
            cache.append(&qkv, at)?;
            let q = reshape(&narrow(&qkv, 2, 0, width)?, &[batch, 1, heads, head_size])?;
            let [k, v] = cache.first(at + 1, heads)?;
            reshape(&attention(&q, &k, &v, &Attention::default())?, &[batch, 1, width])
        }
        Device::Cuda(gpu) => {
            let mut out = Tensor::empty(&[batch, 1, width], qkv.dtype(), qkv.device())?;
            let scale = 1.0 / (head_size as f32).sqrt();
            CachedAttention { batch, context, heads, head_size, scale }.forward(
                &gpu,
                out.cuda_slice_mut()?,
                cache.keys.cuda_slice_mut()?,
                cache.values.cuda_slice_mut()?,
                qkv.cuda_slice()?,
                position.cuda_slice()?,
            )?;
            Ok(out)
        }
    }
}
