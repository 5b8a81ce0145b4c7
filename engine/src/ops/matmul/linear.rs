//! The linear layer and its epilogues.

use super::{batched, cuda, swap_last};
use crate::cpu::elementwise as elementwise_kernel;
use crate::cpu::gelu as gelu_kernel;
use crate::cpu::matmul::{Mat, Threads, gemm};
use crate::device::Device;
use crate::dispatch_float;
use crate::error::{Error, Result};
use crate::ops::gelu::Gelu;
use crate::ops::{same_dtype, view, write_f32};
use crate::tape::{GradId, Gradients, is_recording, record};
use crate::tensor::Tensor;

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
    /// gelu(product + bias); the pre-activation is kept for backward, where there will be one.
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
    let residual = if let Epilogue::Residual(residual) = epilogue { Some(residual) } else { None };
    let gelu = if let Epilogue::Gelu(form) = epilogue { Some(form) } else { None };
    let layer = Layer::new(OP, inp, weight, bias, layout, residual)?;
    let parents: Vec<&Tensor> = [inp, weight].into_iter().chain(bias).chain(residual).collect();
    let (out, pre_activation) = layer.forward(gelu, is_recording(&parents))?;
    let (saved, inp_id, residual_id) = (layer.saved()?, inp.grad_id(), residual.and_then(Tensor::grad_id));
    Ok(record(OP, &parents, out, move |dout, grads| {
        grads.add(residual_id, dout.clone())?;
        let dout = match (&pre_activation, gelu) {
            (Some(pre), Some(form)) => gelu_backward(&dout, pre, form)?,
            _ => dout,
        };
        let dout = view::reshape(&dout, &saved.out_shape())?;
        saved.parameter_gradients(&dout, grads)?;
        grads.write(inp_id, |dinp, accumulate| saved.input_gradient(dinp, &dout, accumulate))
    }))
}

/// The checked inputs of a linear layer, contiguous.
pub(super) struct Layer {
    inp: Tensor,
    weight: Tensor,
    layout: WeightLayout,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
    /// (..., N)
    shape: Vec<usize>,
    rows: usize,
    n: usize,
    k: usize,
}

impl Layer {
    pub(super) fn new(
        op: &'static str,
        inp: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        layout: WeightLayout,
        residual: Option<&Tensor>,
    ) -> Result<Self> {
        let (rows, k) = inp.rows_cols(op, "inp")?;
        let (first, second) = weight.dims2(op, "weight")?;
        let (weight_k, n) = if layout == WeightLayout::InOut { (first, second) } else { (second, first) };
        if weight_k != k {
            let (inp, weight) = (inp.shape(), weight.shape());
            let message = format!("inp {inp:?} has K={k}, weight {weight:?} ({layout:?}) has K={weight_k}");
            return Err(Error::shape(op, message));
        }
        same_dtype(op, "weight", inp, weight)?;
        if let Some(bias) = bias {
            same_dtype(op, "bias", inp, bias)?;
            if bias.shape() != [n] {
                return Err(Error::shape(op, format!("bias is {:?}, weight has {n} outputs", bias.shape())));
            }
        }
        let mut shape = inp.shape().to_vec();
        *shape.last_mut().expect("bug in handloom-engine: rows_cols accepted a scalar") = n;
        if let Some(residual) = residual {
            if residual.shape() != shape {
                let message = format!("residual is {:?}, the output {shape:?}", residual.shape());
                return Err(Error::shape(op, message));
            }
            same_dtype(op, "residual", inp, residual)?;
        }
        Ok(Layer {
            inp: inp.to_contiguous()?,
            weight: weight.to_contiguous()?,
            layout,
            bias: bias.map(Tensor::to_contiguous).transpose()?,
            residual: residual.map(Tensor::to_contiguous).transpose()?,
            shape,
            rows,
            n,
            k,
        })
    }

    /// The weight as a (K, N) view.
    fn weight_kn(&self) -> Result<Tensor> {
        match self.layout {
            WeightLayout::InOut => Ok(self.weight.detach()),
            WeightLayout::OutIn => swap_last(&self.weight.detach()),
        }
    }

    /// The output, and with `keep` what went into the activation, if there is one.
    pub(super) fn forward(&self, gelu: Option<Gelu>, keep: bool) -> Result<(Tensor, Option<Tensor>)> {
        let empty = || Tensor::empty(&self.shape, self.inp.dtype(), self.inp.device());
        let (mut out, weight) = (empty()?, self.weight_kn()?);
        let mut pre = (gelu.is_some() && keep).then(empty).transpose()?;
        match self.inp.device() {
            Device::Cpu => self.forward_cpu(&mut out, &weight, gelu, pre.as_mut())?,
            Device::Cuda(gpu) => {
                let operands = cuda::Operands {
                    inp: &self.inp,
                    weight: &weight,
                    bias: self.bias.as_ref(),
                    residual: self.residual.as_ref(),
                };
                operands.forward(gpu, &mut out, gelu, pre.as_mut(), [self.rows, self.n, self.k])?;
            }
        }
        Ok((out, pre))
    }

    fn forward_cpu(
        &self,
        out: &mut Tensor,
        weight: &Tensor,
        gelu: Option<Gelu>,
        pre: Option<&mut Tensor>,
    ) -> Result<()> {
        dispatch_float!(self.inp.dtype(), "linear", "inp", |E| {
            let out = out.slice_mut::<E>()?;
            let (product, activated) = match pre {
                Some(pre) => (pre.slice_mut::<E>()?, Some(out)),
                None => (out, None),
            };
            if let Some(residual) = &self.residual {
                product.copy_from_slice(residual.slice::<E>()?);
            }
            let (row_stride, col_stride) = (weight.strides()[0], weight.strides()[1]);
            let weight = Mat { data: weight.strided::<E>()?, row_stride, col_stride };
            let inp = Mat::rows(self.inp.slice::<E>()?, self.k);
            let accumulate = self.residual.is_some();
            gemm(product, inp, weight, self.rows, self.n, self.k, accumulate, Threads::All);
            if let Some(bias) = &self.bias {
                elementwise_kernel::add_bias(product, bias.slice::<E>()?);
            }
            match (gelu, activated) {
                (Some(form), Some(out)) => gelu_kernel::forward(out, product, form),
                (Some(form), None) => gelu_kernel::forward_in_place(product, form),
                (None, _) => {}
            }
            Ok(())
        })
    }

    /// What the layer's backward reads, and where its gradients go.
    pub(super) fn saved(&self) -> Result<Saved> {
        Ok(Saved {
            inp: view::reshape(&self.inp.detach(), &[self.rows, self.k])?,
            weight_kn: self.weight_kn()?,
            layout: self.layout,
            weight_id: self.weight.grad_id(),
            bias_id: self.bias.as_ref().and_then(Tensor::grad_id),
        })
    }
}

/// What a linear layer keeps for backward.
pub(super) struct Saved {
    /// (rows, K)
    inp: Tensor,
    weight_kn: Tensor,
    layout: WeightLayout,
    weight_id: GradId,
    bias_id: GradId,
}

impl Saved {
    /// (rows, N)
    pub(super) fn out_shape(&self) -> [usize; 2] {
        [self.inp.shape()[0], self.weight_kn.shape()[1]]
    }

    pub(super) fn has_parameter_gradients(&self) -> bool {
        self.weight_id.is_some() || self.bias_id.is_some()
    }

    /// Gradients of bias and weight from that of the product, dout (rows, N).
    pub(super) fn parameter_gradients(&self, dout: &Tensor, grads: &mut Gradients) -> Result<()> {
        let n = self.out_shape()[1];
        grads.write(self.bias_id, |dbias, accumulate| sum_columns(dbias, dout, n, accumulate))?;
        grads.write(self.weight_id, |dweight, accumulate| match self.layout {
            WeightLayout::InOut => batched(dweight, &swap_last(&self.inp)?, dout, accumulate),
            WeightLayout::OutIn => batched(dweight, &swap_last(dout)?, &self.inp, accumulate),
        })
    }

    /// dinp (+)= dout W^T.
    pub(super) fn input_gradient(&self, dinp: &mut Tensor, dout: &Tensor, accumulate: bool) -> Result<()> {
        batched(dinp, dout, &swap_last(&self.weight_kn)?, accumulate)
    }

    /// dout W^T gelu'(pre), (rows, K): the gradient of what went into the activation before this layer. On a GPU, one kernel.
    pub(super) fn pre_activation_gradient(&self, dout: &Tensor, pre: &Tensor, form: Gelu) -> Result<Tensor> {
        let [rows, k] = [self.inp.shape()[0], self.inp.shape()[1]];
        let empty = || Tensor::empty(&[rows, k], dout.dtype(), dout.device());
        if let Device::Cuda(gpu) = dout.device() {
            let mut dpre = empty()?;
            cuda::gelu_product(gpu, &mut dpre, dout, &swap_last(&self.weight_kn)?, pre, form)?;
            return Ok(dpre);
        }
        let mut dactivated = empty()?;
        self.input_gradient(&mut dactivated, dout, false)?;
        gelu_backward(&dactivated, pre, form)
    }
}

/// dout gelu'(pre), of a layer whose activation is fused.
fn gelu_backward(dout: &Tensor, pre: &Tensor, form: Gelu) -> Result<Tensor> {
    let mut dpre = Tensor::empty(dout.shape(), pre.dtype(), pre.device())?;
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
            write_f32(dbias, &sums, accumulate, "linear")
        }),
        Device::Cuda(gpu) => cuda::sum_columns(gpu, dbias, dout, n, accumulate),
    }
}
