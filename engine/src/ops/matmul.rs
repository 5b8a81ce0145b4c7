//! Matrix products: batched matmul of any transposes, the linear layer with its epilogues, and two of them as an MLP.

mod cuda;
mod linear;
mod mlp;

pub use linear::{Epilogue, WeightLayout, linear};
pub use mlp::{Weights, mlp};

use rayon::prelude::*;

use crate::cpu::matmul::{Mat, Threads, gemm};
use crate::device::Device;
use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::tape::record;
use crate::tensor::Tensor;

/// out[b] = lhs[b] rhs[b]. Transposed operands are views from [`crate::ops::view::transpose`]; nothing is copied.
///
/// # Shapes
/// lhs (..., M, K), rhs (..., K, N) with equal leading dimensions, or rhs (K, N) for every batch; out (..., M, N).
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit, [`Error::DType`] when the dtypes differ or are not floats.
pub fn matmul(lhs: &Tensor, rhs: &Tensor) -> Result<Tensor> {
    let _time = crate::profile::scope("matmul", crate::profile::Pass::Forward);
    const OP: &str = "matmul";
    super::same_dtype(OP, "rhs", lhs, rhs)?;
    if lhs.rank() < 2 || rhs.rank() < 2 {
        let message =
            format!("operands need 2 dimensions or more, got {:?} x {:?}", lhs.shape(), rhs.shape());
        return Err(Error::shape(OP, message));
    }
    let (lead, [m, k]) = split_shape(lhs);
    let (rhs_lead, [rhs_k, n]) = split_shape(rhs);
    if k != rhs_k {
        return Err(Error::shape(
            OP,
            format!(
                "inner sizes differ: lhs {:?} has K={k}, rhs {:?} has K={rhs_k}; expected (.., M, K) x (.., K, N)",
                lhs.shape(),
                rhs.shape()
            ),
        ));
    }
    if !rhs_lead.is_empty() && rhs_lead != lead {
        let message = format!("leading dimensions of {:?} and {:?} differ", lhs.shape(), rhs.shape());
        return Err(Error::shape(OP, message));
    }
    let (lhs, rhs) = (batch_contiguous(lhs)?, batch_contiguous(rhs)?);
    let mut shape = lead.to_vec();
    shape.extend([m, n]);
    let mut out = Tensor::empty(&shape, lhs.dtype(), lhs.device())?;
    batched(&mut out, &lhs, &rhs, false)?;
    let (lhs_id, rhs_id) = (lhs.grad_id(), rhs.grad_id());
    let (a, b) = (lhs.detach(), rhs.detach());
    Ok(record(OP, &[&lhs, &rhs], out, move |dout, grads| {
        grads.write(lhs_id, |da, accumulate| batched(da, &dout, &swap_last(&b)?, accumulate))?;
        grads.write(rhs_id, |db, accumulate| {
            if b.rank() == 2 && a.rank() > 2 {
                // One right-hand side for every batch: its gradient sums over them, as if the batch were more rows.
                let rows = a.shape()[..a.rank() - 1].iter().product();
                let a = a.to_contiguous()?;
                let a = super::view::reshape(&a, &[rows, k])?;
                batched(db, &swap_last(&a)?, &super::view::reshape(&dout, &[rows, n])?, accumulate)
            } else {
                batched(db, &swap_last(&a)?, &dout, accumulate)
            }
        })
    }))
}

fn split_shape(x: &Tensor) -> (&[usize], [usize; 2]) {
    let (lead, last) = x.shape().split_at(x.rank() - 2);
    (lead, [last[0], last[1]])
}

fn swap_last(x: &Tensor) -> Result<Tensor> {
    super::view::transpose(x, x.rank() - 2, x.rank() - 1)
}

/// The kernel takes any strides in the last two dimensions, and batches one behind the other.
fn batch_contiguous(x: &Tensor) -> Result<Tensor> {
    let [rows, cols] = split_shape(x).1;
    let mut expected = rows * cols;
    for i in (0..x.rank() - 2).rev() {
        if x.shape()[i] != 1 && x.strides()[i] != expected {
            return x.to_contiguous();
        }
        expected *= x.shape()[i];
    }
    Ok(x.clone())
}

/// out[b] (+)= lhs[b] rhs[b]; a rank-2 rhs serves every batch. `out` may have another float dtype.
fn batched(out: &mut Tensor, lhs: &Tensor, rhs: &Tensor, accumulate: bool) -> Result<()> {
    let (lead, [m, k]) = split_shape(lhs);
    let n = rhs.shape()[rhs.rank() - 1];
    let batch: usize = lead.iter().product();
    let strides = |x: &Tensor| (x.strides()[x.rank() - 2], x.strides()[x.rank() - 1]);
    let ((lhs_row, lhs_col), (rhs_row, rhs_col)) = (strides(lhs), strides(rhs));
    let rhs_step = if rhs.rank() == 2 { 0 } else { k * n };
    if let Device::Cuda(gpu) = out.device() {
        return cuda::batched(gpu, out, lhs, rhs, rhs_step, [batch, m, n, k], accumulate);
    }
    dispatch_float!(lhs.dtype(), "matmul", "lhs", |E| {
        dispatch_float!(out.dtype(), "matmul", "out", |O| {
            let (lhs, rhs) = (lhs.strided::<E>()?, rhs.strided::<E>()?);
            let product = |b: usize, out: &mut [O], threads| {
                let (lhs, rhs) = (&lhs[b * m * k..], &rhs[b * rhs_step..]);
                let lhs = Mat { data: lhs, row_stride: lhs_row, col_stride: lhs_col };
                let rhs = Mat { data: rhs, row_stride: rhs_row, col_stride: rhs_col };
                gemm(out, lhs, rhs, m, n, k, accumulate, threads);
            };
            let out = out.slice_mut::<O>()?;
            if batch == 1 {
                product(0, out, Threads::All);
            } else if m * n > 0 {
                out.par_chunks_exact_mut(m * n)
                    .enumerate()
                    .for_each(|(b, out)| product(b, out, Threads::One));
            }
            Ok(())
        })
    })
}
