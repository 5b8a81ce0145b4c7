//! Row lookup in an embedding table.

use crate::cpu::embedding as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

/// out[..., :] = weight[ids[...], :]. Backward adds each row of dout to its id's row, in order.
///
/// # Shapes
/// ids (...) i32, weight (V, C), out (..., C).
///
/// # Errors
/// [`Error::Value`] for an id outside 0..V, [`Error::DType`] when `ids` is not i32 or `weight` not a float tensor.
pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let _time = crate::profile::scope("embedding", crate::profile::Pass::Forward);
    let (vocab, cols) = weight.dims2("embedding", "weight")?;
    if ids.dtype() != DType::I32 {
        return Err(Error::DType { op: "embedding", what: "ids", expected: "i32", got: ids.dtype() });
    }
    let ids = ids.to_contiguous();
    if let Some((at, id)) =
        ids.slice::<i32>()?.iter().enumerate().find(|(_, id)| **id < 0 || **id as usize >= vocab)
    {
        let message = format!("id {id} at position {at} is outside the table of {vocab} rows");
        return Err(Error::value("embedding", message));
    }
    let weight = weight.to_contiguous();
    let mut shape = ids.shape().to_vec();
    shape.push(cols);
    let mut out = Tensor::empty(&shape, weight.dtype(), weight.device());
    dispatch_float!(weight.dtype(), "embedding", "weight", |E| {
        match weight.device() {
            Device::Cpu => {
                kernel::forward(out.slice_mut::<E>()?, ids.slice::<i32>()?, weight.slice::<E>()?, cols)
            }
        }
        Ok(())
    })?;
    let (id, ids) = (weight.grad_id(), ids.detach());
    Ok(record("embedding", &[&weight], out, move |dout, grads| {
        grads.write(id, |dweight, accumulate| {
            dispatch_float!(dout.dtype(), "embedding", "gradient", |E| {
                dispatch_float!(dweight.dtype(), "embedding", "gradient", |G| {
                    let dweight = dweight.slice_mut::<G>()?;
                    if !accumulate {
                        dweight.fill(bytemuck::Zeroable::zeroed());
                    }
                    kernel::backward(dweight, dout.slice::<E>()?, ids.slice::<i32>()?, cols);
                    Ok(())
                })
            })
        })
    }))
}
