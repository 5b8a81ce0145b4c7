//! Softmax over the last dimension, of scaled and masked scores.

use handloom_kernels::softmax as launcher;

use crate::cpu::softmax as kernel;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

use super::elementwise::sum_to_shape;

/// What is done to the scaled scores before the softmax. A mask has the scores' shape, or 1 or nothing in leading dimensions and 1 in
/// those right before the last: (B, 1, 1, C) for keys, (1, NH, T, C) or (NH, T, C) for a bias a head.
#[derive(Clone, Copy, Debug, Default)]
pub enum Mask<'a> {
    #[default]
    None,
    /// i32; 0 hides an element.
    Keys(&'a Tensor),
    /// Of the scores' dtype; added, and -infinity hides. Has a gradient.
    Added(&'a Tensor),
}

/// out = softmax(scale inp): [`softmax_masked`] without a mask.
///
/// # Errors
/// As there.
pub fn softmax(inp: &Tensor, scale: f32) -> Result<Tensor> {
    softmax_masked(inp, scale, Mask::None)
}

/// out = e^(s - m) / sum e^(s - m) with s = scale inp + mask, m the row's maximum. A row that is hidden, or all -infinity, gives zeros
/// and no gradient, as a query that sees no key does in attention. Saves `out` for backward.
///
/// # Shapes
/// inp and out (..., C); masks as [`Mask`] says.
///
/// # Errors
/// [`Error::DType`] when `inp` is not a float tensor or the mask has another dtype, [`Error::Shape`] when `inp` is a scalar or
/// the mask does not fit.
pub fn softmax_masked(inp: &Tensor, scale: f32, mask: Mask) -> Result<Tensor> {
    const OP: &str = "softmax";
    let _time = crate::profile::scope(OP, crate::profile::Pass::Forward);
    let inp = inp.to_contiguous()?;
    let (rows, cols) = inp.rows_cols(OP, "inp")?;
    let placed = Placed::new(&inp, mask)?;
    let mut out = Tensor::empty(inp.shape(), inp.dtype(), inp.device())?;
    match inp.device() {
        Device::Cpu => dispatch_float!(inp.dtype(), OP, "inp", |E| {
            let mask = placed.on_cpu()?;
            kernel::forward(out.slice_mut::<E>()?, inp.slice::<E>()?, mask, cols, scale);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            let (out, inp, mask) = (out.cuda_slice_mut()?, inp.cuda_slice()?, placed.on_gpu()?);
            launcher::forward(&gpu, out, inp, mask, rows, cols, scale)?;
        }
    }
    let added = if let Mask::Added(added) = mask { Some(added) } else { None };
    let parents: Vec<&Tensor> = [&inp].into_iter().chain(added).collect();
    let added = added.and_then(|added| Some((added.grad_id()?, added.shape().to_vec())));
    let (id, saved) = (inp.grad_id(), out.clone());
    Ok(record(OP, &parents, out, move |dout, grads| {
        if let Some((id, shape)) = added {
            let mut dscores = Tensor::empty(saved.shape(), saved.dtype(), saved.device())?;
            backward(&mut dscores, &dout, &saved, 1.0, false)?;
            grads.add(Some(id), sum_to_shape(OP, dscores, &shape)?)?;
        }
        grads.write(id, |dinp, accumulate| backward(dinp, &dout, &saved, scale, accumulate))
    }))
}

fn backward(dinp: &mut Tensor, dout: &Tensor, out: &Tensor, scale: f32, accumulate: bool) -> Result<()> {
    let (rows, cols) = out.rows_cols("softmax", "out")?;
    match out.device() {
        Device::Cpu => dispatch_float!(out.dtype(), "softmax", "inp", |E| {
            let (dout, out) = (dout.slice::<E>()?, out.slice::<E>()?);
            kernel::backward(dinp.slice_mut::<E>()?, dout, out, cols, scale, accumulate);
            Ok(())
        }),
        Device::Cuda(gpu) => {
            let (dout, out) = (dout.cuda_slice()?, out.cuda_slice()?);
            let dinp = dinp.cuda_slice_mut()?;
            Ok(launcher::backward(&gpu, dinp, dout, out, rows, cols, scale, accumulate)?)
        }
    }
}

/// A mask without gaps, and which of its rows a row of scores has: row n has row `n / repeat % count`.
struct Placed {
    kind: Kind,
    repeat: usize,
    count: usize,
}

enum Kind {
    None,
    Keys(Tensor),
    Added(Tensor),
}

impl Placed {
    fn new(inp: &Tensor, mask: Mask) -> Result<Self> {
        const OP: &str = "softmax";
        let (mask, kind): (_, fn(Tensor) -> Kind) = match mask {
            Mask::None => return Ok(Placed { kind: Kind::None, repeat: 1, count: 1 }),
            Mask::Keys(mask) => (mask, Kind::Keys),
            Mask::Added(mask) => (mask, Kind::Added),
        };
        let expected = if matches!(kind(mask.detach()), Kind::Keys(_)) { DType::I32 } else { inp.dtype() };
        if mask.dtype() != expected {
            return Err(Error::DType { op: OP, what: "mask", expected: expected.name(), got: mask.dtype() });
        }
        let (repeat, count) = places(inp.shape(), mask.shape()).ok_or_else(|| {
            let message = format!(
                "mask {:?} does not fit inp {:?}; expected the same sizes, 1 or nothing in leading dimensions, 1 in those right before the last",
                mask.shape(),
                inp.shape()
            );
            Error::shape(OP, message)
        })?;
        Ok(Placed { kind: kind(mask.to_contiguous()?.detach()), repeat, count })
    }

    fn on_cpu<E: Float>(&self) -> Result<kernel::Mask<'_, E>> {
        let Placed { repeat, count, .. } = *self;
        Ok(match &self.kind {
            Kind::None => kernel::Mask::None,
            Kind::Keys(data) => kernel::Mask::Keys { data: data.slice()?, repeat, count },
            Kind::Added(data) => kernel::Mask::Added { data: data.slice()?, repeat, count },
        })
    }

    fn on_gpu(&self) -> Result<launcher::Mask<'_>> {
        let Placed { repeat, count, .. } = *self;
        Ok(match &self.kind {
            Kind::None => launcher::Mask::None,
            Kind::Keys(data) => launcher::Mask::Keys { data: data.cuda_slice()?, repeat, count },
            Kind::Added(data) => launcher::Mask::Added { data: data.cuda_slice()?, repeat, count },
        })
    }
}

/// Neighbouring rows that share a row of the mask, and rows of the mask; at least 1 each.
fn places(inp: &[usize], mask: &[usize]) -> Option<(usize, usize)> {
    let (cols, rows) = inp.split_last()?;
    let (mask_cols, mask_rows) = mask.split_last()?;
    let missing = rows.len().checked_sub(mask_rows.len())?;
    let size = |d: usize| d.checked_sub(missing).map_or(1, |d| mask_rows[d]);
    let own: Vec<usize> = (0..rows.len()).filter(|d| size(*d) != 1).collect();
    let (first, end) = (own.first().copied().unwrap_or(0), own.last().map_or(0, |last| last + 1));
    let fits = cols == mask_cols && (first..end).all(|d| size(d) == rows[d]);
    let product = |sizes: &[usize]| sizes.iter().product::<usize>().max(1);
    fits.then(|| (product(&rows[end..]), product(&rows[first..end])))
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn masks_are_placed_by_their_sizes() {
        for (mask, want) in [
            (&[2, 3, 4, 5][..], Some((1, 24))),
            (&[2, 1, 1, 5], Some((12, 2))),
            (&[1, 3, 4, 5], Some((1, 12))),
            (&[3, 4, 5], Some((1, 12))),
            (&[3, 1, 5], Some((4, 3))),
            (&[5], Some((24, 1))),
            // Repeated in the middle, another size, too many dimensions.
            (&[2, 1, 4, 5], None),
            (&[4], None),
            (&[1, 2, 3, 4, 5], None),
        ] {
            assert_eq!(places(&[2, 3, 4, 5], mask), want, "{mask:?}");
        }
    }
}
