//! Gathering of rows: the few of a hidden state that a head needs.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

/// out[k, :] = inp[rows[k], :], where all leading dimensions of `inp` count as rows. Backward adds each row of dout to the
/// row it came from, in order; rows that were not gathered get 0.
///
/// # Shapes
/// inp (..., C) with N rows, rows (K) i32, out (K, C).
///
/// # Errors
/// [`Error::Value`] for a row outside 0..N (on a GPU such a row is NaN and reported later, as in `embedding`), [`Error::DType`] when `rows` is not i32 or `inp` not a float tensor.
pub fn gather_rows(inp: &Tensor, rows: &Tensor) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let _time = crate::profile::scope(OP, crate::profile::Pass::Forward);
    let (count, cols) = inp.rows_cols(OP, "inp")?;
    if rows.dtype() != DType::I32 {
        return Err(Error::DType { op: OP, what: "rows", expected: "i32", got: rows.dtype() });
    }
    if rows.rank() != 1 {
        return Err(Error::shape(OP, format!("rows must have 1 dimension, got {:?}", rows.shape())));
    }
    let rows = rows.to_contiguous()?.detach();
    let outside = |row: i32| row < 0 || row as usize >= count;
    if inp.device() == Device::Cpu
        && let Some((at, row)) = rows.slice::<i32>()?.iter().enumerate().find(|(_, row)| outside(**row))
    {
        return Err(Error::value(
            OP,
            format!("row {row} at position {at} is outside the {count} rows of inp"),
        ));
    }
    let inp = inp.to_contiguous()?;
    let mut out = Tensor::empty(&[rows.numel(), cols], inp.dtype(), inp.device())?;
    super::embedding::lookup(OP, &mut out, &rows, &inp, count, cols)?;
    let id = inp.grad_id();
    Ok(record(OP, &[&inp], out, move |dout, grads| {
        grads.write(id, |dinp, accumulate| {
            super::embedding::scatter_add(OP, dinp, &dout, &rows, count, cols, accumulate)
        })
    }))
}
