//! Matrix products: batched matmul of any transposes, and the linear layer with its epilogues.

mod cuda;

use rayon::prelude::*;

use crate::cpu::elementwise as elementwise_kernel;
use crate::cpu::gelu as gelu_kernel;
use crate::cpu::matmul::{Mat, Threads, gemm};
use crate::device::Device;
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
    let (inp, weight) = (inp.to_contiguous()?, weight.to_contiguous()?);
    let bias = bias.map(Tensor::to_contiguous).transpose()?;
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
            Some(residual.to_contiguous()?)
        }
        _ => None,
    };
    let gelu = if let Epilogue::Gelu(form) = epilogue { Some(form) } else { None };

    let mut out = Tensor::empty(&shape, inp.dtype(), inp.device())?;
    let mut pre_activation = gelu
        .map(|form| Ok::<_, Error>((form, Tensor::empty(&shape, inp.dtype(), inp.device())?)))
        .transpose()?;
    let weight_kn = weight_kn(&weight.detach(), layout)?;
    let layer = Layer { inp: &inp, weight: &weight_kn, bias: bias.as_ref(), residual: residual.as_ref() };
    match inp.device() {
        Device::Cpu => layer.forward_cpu(&mut out, pre_activation.as_mut(), [rows, n, k])?,
        Device::Cuda(gpu) => layer.forward_cuda(gpu, &mut out, pre_activation.as_mut(), [rows, n, k])?,
    }

    let (inp_id, weight_id) = (inp.grad_id(), weight.grad_id());
    let (bias_id, residual_id) =
        (bias.as_ref().and_then(Tensor::grad_id), residual.as_ref().and_then(Tensor::grad_id));
    let saved_inp = super::view::reshape(&inp.detach(), &[rows, k])?;
    let mut parents = vec![&inp, &weight];
    parents.extend(bias.iter().chain(&residual));
    Ok(record(OP, &parents, out, move |dout, grads| {
        grads.add(residual_id, dout.clone())?;
        let dout = match &pre_activation {
            Some((form, pre)) => gelu_backward(&dout, pre, *form)?,
            None => dout,
        };
        let dout = super::view::reshape(&dout, &[rows, n])?;
        grads.write(bias_id, |dbias, accumulate| sum_columns(dbias, &dout, n, accumulate))?;
        grads.write(inp_id, |dinp, accumulate| batched(dinp, &dout, &swap_last(&weight_kn)?, accumulate))?;
        grads.write(weight_id, |dweight, accumulate| match layout {
            WeightLayout::InOut => batched(dweight, &swap_last(&saved_inp)?, &dout, accumulate),
            WeightLayout::OutIn => batched(dweight, &swap_last(&dout)?, &saved_inp, accumulate),
        })
    }))
}

/// The weight as a (K, N) view.
fn weight_kn(weight: &Tensor, layout: WeightLayout) -> Result<Tensor> {
    match layout {
        WeightLayout::InOut => Ok(weight.clone()),
        WeightLayout::OutIn => swap_last(weight),
    }
}

/// The inputs of a linear layer, contiguous but for the weight, a (K, N) view.
struct Layer<'a> {
    inp: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    residual: Option<&'a Tensor>,
}

impl Layer<'_> {
    /// Writes `out` and, where there is an activation, what goes into it.
    fn forward_cpu(
        &self,
        out: &mut Tensor,
        pre_activation: Option<&mut (Gelu, Tensor)>,
        [rows, n, k]: [usize; 3],
    ) -> Result<()> {
        dispatch_float!(self.inp.dtype(), "linear", "inp", |E| {
            let out = out.slice_mut::<E>()?;
            let (product, activated) = match pre_activation {
                Some((form, pre)) => (pre.slice_mut::<E>()?, Some((*form, out))),
                None => (out, None),
            };
            if let Some(residual) = self.residual {
                product.copy_from_slice(residual.slice::<E>()?);
            }
            let (row_stride, col_stride) = (self.weight.strides()[0], self.weight.strides()[1]);
            let weight = Mat { data: self.weight.strided::<E>()?, row_stride, col_stride };
            let inp = Mat::rows(self.inp.slice::<E>()?, k);
            gemm(product, inp, weight, rows, n, k, self.residual.is_some(), Threads::All);
            if let Some(bias) = self.bias {
                elementwise_kernel::add_bias(product, bias.slice::<E>()?);
            }
            if let Some((form, out)) = activated {
                gelu_kernel::forward(out, product, form);
            }
            Ok(())
        })
    }
}

/// dout gelu'(pre), of a layer whose activation is fused.
fn gelu_backward(dout: &Tensor, pre: &Tensor, form: Gelu) -> Result<Tensor> {
    let mut dpre = Tensor::empty(pre.shape(), pre.dtype(), pre.device())?;
    match pre.device() {
        Device::Cpu => dispatch_float!(pre.dtype(), "linear", "inp", |E| {
            let (dout, pre) = (dout.slice::<E>()?, pre.slice::<E>()?);
            gelu_kernel::backward(dpre.slice_mut::<E>()?, dout, pre, form, false);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            let (dout, pre) = (dout.cuda_slice()?, pre.cuda_slice()?);
            handloom_kernels::gelu::backward(
                &gpu,
                dpre.cuda_slice_mut()?,
                dout,
                pre,
                form.launched(),
                false,
            )?;
        }
    }
    Ok(dpre)
}

/// dbias (N) (+)= the sum of the rows of dout (rows, N).
fn sum_columns(dbias: &mut Tensor, dout: &Tensor, n: usize, accumulate: bool) -> Result<()> {
    match dout.device() {
        Device::Cpu => dispatch_float!(dout.dtype(), "linear", "gradient", |E| {
            let sums = elementwise_kernel::sum_columns(dout.slice::<E>()?, n);
            super::write_f32(dbias, &sums, accumulate, "linear")
        }),
        Device::Cuda(gpu) => cuda::sum_columns(gpu, dbias, dout, n, accumulate),
    }
}
