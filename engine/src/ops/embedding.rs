//! Row lookup in an embedding table.

use handloom_kernels::embedding as launcher;

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
/// [`Error::Value`] for an id outside 0..V (on a GPU, where nobody waits to read the ids, such a row is NaN, and the error comes when results are read: [`handloom_kernels::ids`]), [`Error::DType`] when `ids` is not i32 or `weight` not a float tensor.
pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let _time = crate::profile::scope("embedding", crate::profile::Pass::Forward);
    let (vocab, cols) = weight.dims2("embedding", "weight")?;
    if ids.dtype() != DType::I32 {
        return Err(Error::DType { op: "embedding", what: "ids", expected: "i32", got: ids.dtype() });
    }
    let ids = ids.to_contiguous()?.detach();
    let outside = |id: i32| id < 0 || id as usize >= vocab;
    if weight.device() == Device::Cpu
        && let Some((at, id)) = ids.slice::<i32>()?.iter().enumerate().find(|(_, id)| outside(**id))
    {
        let message = format!("id {id} at position {at} is outside the table of {vocab} rows");
        return Err(Error::value("embedding", message));
    }
    let weight = weight.to_contiguous()?;
    let mut shape = ids.shape().to_vec();
    shape.push(cols);
    let mut out = Tensor::empty(&shape, weight.dtype(), weight.device())?;
    lookup("embedding", &mut out, &ids, &weight, vocab, cols)?;
    let id = weight.grad_id();
    Ok(record("embedding", &[&weight], out, move |dout, grads| {
        grads.write(id, |dweight, accumulate| {
            scatter_add("embedding", dweight, &dout, &ids, vocab, cols, accumulate)
        })
    }))
}

/// out (N, C): row n is table[ids[n]].
pub(super) fn lookup(
    op: &'static str,
    out: &mut Tensor,
    ids: &Tensor,
    table: &Tensor,
    vocab: usize,
    cols: usize,
) -> Result<()> {
    match table.device() {
        Device::Cpu => dispatch_float!(table.dtype(), op, "table", |E| {
            kernel::forward(out.slice_mut::<E>()?, ids.slice::<i32>()?, table.slice::<E>()?, cols);
            Ok(())
        }),
        Device::Cuda(gpu) => {
            let (ids, table) = (ids.cuda_slice()?, table.cuda_slice()?);
            Ok(launcher::forward(&gpu, op, out.cuda_slice_mut()?, ids, table, vocab, cols)?)
        }
    }
}

/// dtable (V, C) (+)= the rows of dout (N, C) at their ids, in order.
pub(super) fn scatter_add(
    op: &'static str,
    dtable: &mut Tensor,
    dout: &Tensor,
    ids: &Tensor,
    vocab: usize,
    cols: usize,
    accumulate: bool,
) -> Result<()> {
    match dtable.device() {
        Device::Cpu => dispatch_float!(dout.dtype(), op, "gradient", |E| {
            dispatch_float!(dtable.dtype(), op, "gradient", |G| {
                let dtable = dtable.slice_mut::<G>()?;
                if !accumulate {
                    dtable.fill(bytemuck::Zeroable::zeroed());
                }
                kernel::backward(dtable, dout.slice::<E>()?, ids.slice::<i32>()?, cols);
                Ok(())
            })
        }),
        Device::Cuda(gpu) => {
            let (dtable, dout, ids) = (dtable.cuda_slice_mut()?, dout.cuda_slice()?, ids.cuda_slice()?);
            Ok(launcher::backward(gpu.gpu(), dtable, dout, ids, vocab, cols, accumulate)?)
        }
    }
}
