//! Matrix products: batched matmul of any transposes, and the linear layer with its epilogues.

use rayon::prelude::*;

use crate::cpu::elementwise as elementwise_kernel;
use crate::cpu::gelu as gelu_kernel;
use crate::cpu::matmul::{Mat, Threads, gemm};
use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::ops::gelu::Gelu;
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
    let (lhs, rhs) = (batch_contiguous(lhs), batch_contiguous(rhs));
    let mut shape = lead.to_vec();
    shape.extend([m, n]);
    let mut out = Tensor::empty(&shape, lhs.dtype(), lhs.device());
    batched(&mut out, &lhs, &rhs, false)?;
    let (lhs_id, rhs_id) = (lhs.grad_id(), rhs.grad_id());
    let (a, b) = (lhs.detach(), rhs.detach());
    Ok(record(OP, &[&lhs, &rhs], out, move |dout, grads| {
        grads.write(lhs_id, |da, accumulate| batched(da, &dout, &swap_last(&b)?, accumulate))?;
        grads.write(rhs_id, |db, accumulate| {
            if b.rank() == 2 && a.rank() > 2 {
                // One right-hand side for every batch: its gradient sums over them, as if the batch were more rows.
                let rows = a.shape()[..a.rank() - 1].iter().product();
                let a = a.to_contiguous();
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
fn batch_contiguous(x: &Tensor) -> Tensor {
    let [rows, cols] = split_shape(x).1;
    let mut expected = rows * cols;
    for i in (0..x.rank() - 2).rev() {
        if x.shape()[i] != 1 && x.strides()[i] != expected {
            return x.to_contiguous();
        }
        expected *= x.shape()[i];
    }
    x.clone()
}

/// out[b] (+)= lhs[b] rhs[b]; a rank-2 rhs serves every batch. `out` may have another float dtype.
fn batched(out: &mut Tensor, lhs: &Tensor, rhs: &Tensor, accumulate: bool) -> Result<()> {
    let (lead, [m, k]) = split_shape(lhs);
    let n = rhs.shape()[rhs.rank() - 1];
    let batch: usize = lead.iter().product();
    let strides = |x: &Tensor| (x.strides()[x.rank() - 2], x.strides()[x.rank() - 1]);
    let ((lhs_row, lhs_col), (rhs_row, rhs_col)) = (strides(lhs), strides(rhs));
    let rhs_step = if rhs.rank() == 2 { 0 } else { k * n };
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

/// How a linear layer's weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// (in, out): Conv1D of GPT-2.
    InOut,
    /// (out, in): Linear of PyTorch.
    OutIn,
}

/// What happens to the product before it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    None,
    /// gelu(product + bias); the pre-activation is kept for backward.
    Gelu(Gelu),
    /// residual + product + bias, residual of the output's shape.
    Residual(&'a Tensor),
}

/// out = epilogue(inp W + bias).
///
/// # Shapes
/// inp (..., K), weight (K, N) or (N, K) as `layout` says, bias (N), out (..., N).
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit, [`Error::DType`] when the dtypes differ or are not floats.
pub fn linear(
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    layout: WeightLayout,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let _time = crate::profile::scope("linear", crate::profile::Pass::Forward);
    const OP: &str = "linear";
    let (rows, k) = inp.rows_cols(OP, "inp")?;
    let (first, second) = weight.dims2(OP, "weight")?;
    let (weight_k, n) = if layout == WeightLayout::InOut { (first, second) } else { (second, first) };
    if weight_k != k {
        let (inp, weight) = (inp.shape(), weight.shape());
        let message = format!("inp {inp:?} has K={k}, weight {weight:?} ({layout:?}) has K={weight_k}");
        return Err(Error::shape(OP, message));
    }
    super::same_dtype(OP, "weight", inp, weight)?;
    let (inp, weight) = (inp.to_contiguous(), weight.to_contiguous());
    let bias = bias.map(Tensor::to_contiguous);
    if let Some(bias) = &bias {
        super::same_dtype(OP, "bias", &inp, bias)?;
        if bias.shape() != [n] {
            return Err(Error::shape(OP, format!("bias is {:?}, weight has {n} outputs", bias.shape())));
        }
    }
    let mut shape = inp.shape().to_vec();
    *shape.last_mut().expect("bug in handloom-engine: rows_cols accepted a scalar") = n;
    let residual = match epilogue {
        Epilogue::Residual(residual) => {
            if residual.shape() != shape {
                let message = format!("residual is {:?}, the output {shape:?}", residual.shape());
                return Err(Error::shape(OP, message));
            }
            super::same_dtype(OP, "residual", &inp, residual)?;
            Some(residual.to_contiguous())
        }
        _ => None,
    };
    let gelu = if let Epilogue::Gelu(form) = epilogue { Some(form) } else { None };

    let mut out = Tensor::empty(&shape, inp.dtype(), inp.device());
    let mut pre_activation = None;
    dispatch_float!(inp.dtype(), OP, "inp", |E| {
        let data = out.slice_mut::<E>()?;
        if let Some(residual) = &residual {
            data.copy_from_slice(residual.slice::<E>()?);
        }
        let weight = weight_mat(weight.slice::<E>()?, layout, k, n);
        gemm(data, Mat::rows(inp.slice::<E>()?, k), weight, rows, n, k, residual.is_some(), Threads::All);
        if let Some(bias) = &bias {
            elementwise_kernel::add_bias(data, bias.slice::<E>()?);
        }
        if let Some(form) = gelu {
            let mut activated = Tensor::empty(&shape, inp.dtype(), inp.device());
            gelu_kernel::forward(activated.slice_mut::<E>()?, out.slice::<E>()?, form);
            pre_activation = Some(std::mem::replace(&mut out, activated));
        }
        Ok(())
    })?;

    let (inp_id, weight_id) = (inp.grad_id(), weight.grad_id());
    let (bias_id, residual_id) =
        (bias.as_ref().and_then(Tensor::grad_id), residual.as_ref().and_then(Tensor::grad_id));
    let (saved_inp, saved_weight) = (inp.detach(), weight.detach());
    let mut parents = vec![&inp, &weight];
    parents.extend(bias.iter().chain(&residual));
    Ok(record(OP, &parents, out, move |mut dout, grads| {
        grads.add(residual_id, dout.clone())?;
        dispatch_float!(saved_inp.dtype(), OP, "inp", |E| {
            if let (Some(pre), Some(form)) = (pre_activation, gelu) {
                let mut dpre = Tensor::empty(pre.shape(), pre.dtype(), pre.device());
                gelu_kernel::backward(
                    dpre.slice_mut::<E>()?,
                    dout.slice::<E>()?,
                    pre.slice::<E>()?,
                    form,
                    false,
                );
                dout = dpre;
            }
            let (dout, inp) = (dout.slice::<E>()?, saved_inp.slice::<E>()?);
            grads.write(bias_id, |dbias, accumulate| {
                super::write_f32(dbias, &elementwise_kernel::sum_columns(dout, n), accumulate, OP)
            })?;
            grads.write(inp_id, |dinp, accumulate| {
                let weight = weight_mat(saved_weight.slice::<E>()?, layout, k, n);
                let dinp = dinp.slice_mut::<E>()?;
                gemm(dinp, Mat::rows(dout, n), weight.t(), rows, k, n, accumulate, Threads::All);
                Ok(())
            })?;
            grads.write(weight_id, |dweight, accumulate| {
                dispatch_float!(dweight.dtype(), OP, "gradient", |G| {
                    let dweight = dweight.slice_mut::<G>()?;
                    let (inp, dout) = (Mat::rows(inp, k), Mat::rows(dout, n));
                    match layout {
                        WeightLayout::InOut => {
                            gemm(dweight, inp.t(), dout, k, n, rows, accumulate, Threads::All)
                        }
                        WeightLayout::OutIn => {
                            gemm(dweight, dout.t(), inp, n, k, rows, accumulate, Threads::All)
                        }
                    }
                    Ok(())
                })
            })
        })
    }))
}

/// The weight as a (K, N) matrix.
fn weight_mat<E>(data: &[E], layout: WeightLayout, k: usize, n: usize) -> Mat<'_, E> {
    match layout {
        WeightLayout::InOut => Mat::rows(data, n),
        WeightLayout::OutIn => Mat::rows(data, k).t(),
    }
}
