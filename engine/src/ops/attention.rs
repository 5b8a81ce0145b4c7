//! Multi-head scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2), never holding the
//! T x T weights of more than a few queries.

use handloom_kernels::attention as launcher;
use handloom_kernels::dropout::Draws;
use handloom_kernels::slice::SliceMut;

use crate::cpu::attention::{Attention as Kernel, Heads, HeadsMut};
use crate::device::{Device, Gpu};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::ParameterGrad;
use crate::philox::Stream;
use crate::tape::{GradId, Gradients, record};
use crate::tensor::Tensor;

/// Options of an attention call.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// Query i of Tq sees keys 0 ..= Tk - Tq + i only.
    pub causal: bool,
    /// Factor on the scores; `None` is 1/sqrt(head size).
    pub scale: Option<f32>,
    /// Dropout on the attention weights: probability and stream.
    pub dropout: Option<(f32, Stream)>,
    /// (B, Tk) i32; 0 hides a key (padding) from every query. A query that sees no key gets 0.
    pub key_mask: Option<Tensor>,
    /// (NH, Tq, Tk) or (1, NH, Tq, Tk), f32 or the dtype of q: added to the scaled scores of every sequence, as T5's relative
    /// positions are (Raffel et al. 2020, arXiv:1910.10683, section 2.1). Used in f32, and its gradient is summed in f32.
    pub bias: Option<Tensor>,
}

/// softmax(scale q k^T + bias) v for each head. Saves q, k, v, the output and its log-sum-exp (B, NH, Tq; to
/// base 2 on a GPU) for backward.
///
/// # Shapes
/// q (B, Tq, NH, HS), k and v (B, Tk, NH, HS), out (B, Tq, NH, HS).
///
/// # Errors
/// [`Error::Shape`] when sizes differ, also those of mask and bias, or with `causal` when Tk < Tq; [`Error::DType`] when dtypes
/// differ; [`Error::Value`] for a drop probability outside [0, 1).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
    let _time = crate::profile::scope("attention", crate::profile::Pass::Forward);
    const OP: &str = "attention";
    let ([batch, queries, heads, head_size], [kb, keys, kh, ks]) = (dims4(q, "q")?, dims4(k, "k")?);
    if [kb, kh, ks] != [batch, heads, head_size] || v.shape() != k.shape() {
        let message = format!(
            "q {:?}, k {:?}, v {:?}; expected q (B, Tq, NH, HS) and k, v (B, Tk, NH, HS)",
            q.shape(),
            k.shape(),
            v.shape()
        );
        return Err(Error::shape(OP, message));
    }
    super::same_dtype(OP, "k", q, k)?;
    super::same_dtype(OP, "v", q, v)?;
    let sizes = Sizes { batch, heads, queries, keys, head_size };
    let bias = options.bias.as_ref();
    let (options, bias_id) = (check(&sizes, q, options)?, grad_id(&options.bias));
    if q.numel() == 0 || k.numel() == 0 {
        // Nothing attends, or nothing is there to be attended to: zeros, and zero gradients.
        let out = Tensor::zeros(q.shape(), q.dtype(), q.device())?;
        return Ok(zero_gradients(OP, &with_bias(&[q, k, v], bias), out));
    }
    let (q, k, v) = (with_contiguous_heads(q)?, with_contiguous_heads(k)?, with_contiguous_heads(v)?);
    let mut out = Tensor::empty(q.shape(), q.dtype(), q.device())?;
    let mut lse = Tensor::empty(&[batch, heads, queries], DType::F32, q.device())?;
    match q.device() {
        Device::Cpu => dispatch_float!(q.dtype(), OP, "q", |E| {
            sizes.kernel(&options)?.forward(
                out.slice_mut::<E>()?,
                lse.slice_mut()?,
                heads_of(&q)?,
                heads_of::<E>(&k)?,
                heads_of(&v)?,
            );
            Ok(())
        })?,
        Device::Cuda(gpu) => sizes.launcher(&gpu, &options)?.forward(
            &gpu,
            out.cuda_slice_mut()?,
            lse.cuda_slice_mut()?,
            cuda_heads_of(&q)?,
            cuda_heads_of(&k)?,
            cuda_heads_of(&v)?,
        )?,
    }
    let ids = [q.grad_id(), k.grad_id(), v.grad_id()];
    let (sq, sk, sv, sout) = (q.detach(), k.detach(), v.detach(), out.clone());
    Ok(record(OP, &with_bias(&[&q, &k, &v], bias), out, move |dout, grads| {
        let mut dbias = ParameterGrad::begin(grads, bias_id)?;
        let like = |x: &Tensor| Tensor::empty(x.shape(), x.dtype(), x.device());
        let (mut dq, mut dk, mut dv) = (like(&sq)?, like(&sk)?, like(&sv)?);
        let row = heads * head_size;
        match sq.device() {
            Device::Cpu => dispatch_float!(sq.dtype(), OP, "q", |E| {
                sizes.kernel(&options)?.backward(
                    &HeadsMut::new(dq.slice_mut::<E>()?, 0, queries * row, row),
                    &HeadsMut::new(dk.slice_mut::<E>()?, 0, keys * row, row),
                    &HeadsMut::new(dv.slice_mut::<E>()?, 0, keys * row, row),
                    target_cpu(&mut dbias)?,
                    dout.slice::<E>()?,
                    sout.slice::<E>()?,
                    lse.slice()?,
                    heads_of(&sq)?,
                    heads_of(&sk)?,
                    heads_of(&sv)?,
                    false,
                );
                Ok(())
            })?,
            Device::Cuda(gpu) => {
                let gradients = launcher::Gradients::Apart {
                    dq: cuda_gradient(&mut dq, queries)?,
                    dk: cuda_gradient(&mut dk, keys)?,
                    dv: cuda_gradient(&mut dv, keys)?,
                };
                let saved = saved_of(&sout, &lse, &dout)?;
                let (q, k, v) = (cuda_heads_of(&sq)?, cuda_heads_of(&sk)?, cuda_heads_of(&sv)?);
                let (kernel, dbias) = (sizes.launcher(&gpu, &options)?, target(&mut dbias)?);
                kernel.backward(gpu.gpu(), gradients, dbias, saved, q, k, v, false)?
            }
        }
        finish(dbias, sq.device(), grads)?;
        for (id, grad) in ids.into_iter().zip([dq, dk, dv]) {
            grads.add(id, grad)?;
        }
        Ok(())
    }))
}

/// Self-attention on a packed projection: columns [0, C) of qkv are q, [C, 2C) k, [2C, 3C) v, heads side by side.
///
/// # Shapes
/// qkv (B, T, 3C) with C = heads * HS, out (B, T, C).
///
/// # Errors
/// As [`attention`], and [`Error::Shape`] when the last size of qkv is not 3 * heads * HS.
pub fn attention_packed(qkv: &Tensor, heads: usize, options: &Attention) -> Result<Tensor> {
    let _time = crate::profile::scope("attention_packed", crate::profile::Pass::Forward);
    const OP: &str = "attention_packed";
    let (batch, time, packed) = qkv.dims3(OP, "qkv")?;
    if heads == 0 || packed % (3 * heads) != 0 {
        let message = format!("qkv {:?} does not hold q, k and v of {heads} heads", qkv.shape());
        return Err(Error::shape(OP, message));
    }
    let (cols, head_size) = (packed / 3, packed / (3 * heads));
    let sizes = Sizes { batch, heads, queries: time, keys: time, head_size };
    let bias = options.bias.as_ref();
    let (options, bias_id) = (check(&sizes, qkv, options)?, grad_id(&options.bias));
    let qkv = qkv.to_contiguous()?;
    let mut out = Tensor::empty(&[batch, time, cols], qkv.dtype(), qkv.device())?;
    let mut lse = Tensor::empty(&[batch, heads, time], DType::F32, qkv.device())?;
    fn parts<E: Float>(data: &[E], time: usize, cols: usize) -> [Heads<'_, E>; 3] {
        let part =
            |i: usize| Heads { data: &data[i * cols..], batch_stride: time * 3 * cols, row_stride: 3 * cols };
        [part(0), part(1), part(2)]
    }
    if qkv.numel() == 0 {
        return Ok(zero_gradients(OP, &with_bias(&[&qkv], bias), out));
    }
    match qkv.device() {
        Device::Cpu => dispatch_float!(qkv.dtype(), OP, "qkv", |E| {
            let [q, k, v] = parts(qkv.slice::<E>()?, time, cols);
            sizes.kernel(&options)?.forward(out.slice_mut::<E>()?, lse.slice_mut()?, q, k, v);
            Ok(())
        })?,
        Device::Cuda(gpu) => {
            let [q, k, v] = cuda_parts(&qkv, time, cols)?;
            let kernel = sizes.launcher(&gpu, &options)?;
            kernel.forward(&gpu, out.cuda_slice_mut()?, lse.cuda_slice_mut()?, q, k, v)?
        }
    }
    let (id, saved, saved_out) = (qkv.grad_id(), qkv.detach(), out.clone());
    Ok(record(OP, &with_bias(&[&qkv], bias), out, move |dout, grads| {
        let mut dbias = ParameterGrad::begin(grads, bias_id)?;
        grads.write(id, |dqkv, accumulate| match saved.device() {
            Device::Cpu => dispatch_float!(saved.dtype(), OP, "qkv", |E| {
                let [q, k, v] = parts(saved.slice::<E>()?, time, cols);
                let dqkv = dqkv.slice_mut::<E>()?;
                let [dq, dk, dv] =
                    [0, 1, 2].map(|i| HeadsMut::new(dqkv, i * cols, time * 3 * cols, 3 * cols));
                let (dout, out, lse) = (dout.slice::<E>()?, saved_out.slice::<E>()?, lse.slice()?);
                let (kernel, dbias) = (sizes.kernel(&options)?, target_cpu(&mut dbias)?);
                kernel.backward(&dq, &dk, &dv, dbias, dout, out, lse, q, k, v, accumulate);
                Ok(())
            }),
            Device::Cuda(gpu) => {
                let gradients = launcher::Gradients::Packed(dqkv.cuda_slice_mut()?);
                let [q, k, v] = cuda_parts(&saved, time, cols)?;
                let saved = saved_of(&saved_out, &lse, &dout)?;
                let (kernel, dbias) = (sizes.launcher(&gpu, &options)?, target(&mut dbias)?);
                Ok(kernel.backward(gpu.gpu(), gradients, dbias, saved, q, k, v, accumulate)?)
            }
        })?;
        finish(dbias, saved.device(), grads)
    }))
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    head_size: usize,
}

impl Sizes {
    fn scale(&self, options: &Attention) -> f32 {
        options.scale.unwrap_or(1.0 / (self.head_size as f32).sqrt())
    }

    fn kernel<'a>(&self, options: &'a Attention) -> Result<Kernel<'a>> {
        Ok(Kernel {
            batch: self.batch,
            heads: self.heads,
            queries: self.queries,
            keys: self.keys,
            head_size: self.head_size,
            causal: options.causal,
            scale: self.scale(options),
            dropout: options.dropout.filter(|(drop_prob, _)| *drop_prob > 0.0),
            key_mask: options.key_mask.as_ref().map(|mask| mask.slice()).transpose()?,
            bias: options.bias.as_ref().map(|bias| bias.slice()).transpose()?,
        })
    }

    fn launcher<'a>(&self, gpu: &'a Gpu, options: &'a Attention) -> Result<launcher::Attention<'a>> {
        Ok(launcher::Attention {
            batch: self.batch,
            heads: self.heads,
            queries: self.queries,
            keys: self.keys,
            head_size: self.head_size,
            causal: options.causal,
            scale: self.scale(options),
            dropout: options.dropout.map(|(drop_prob, Stream { seed, stream, step })| {
                (drop_prob, Draws { seed, stream, step, device_step: Some(gpu.draw_step()) })
            }),
            key_mask: options.key_mask.as_ref().map(|mask| mask.cuda_slice()).transpose()?,
            bias: options.bias.as_ref().map(|bias| bias.cuda_slice()).transpose()?,
        })
    }
}

fn dims4(x: &Tensor, what: &str) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(x.shape()).map_err(|_| {
        Error::shape(
            "attention",
            format!("{what} must have 4 dimensions (B, T, NH, HS), got {:?}", x.shape()),
        )
    })
}

/// The options as the kernels take them: mask and bias without gaps, the bias in f32. `q` has the activations' dtype.
fn check(sizes: &Sizes, q: &Tensor, options: &Attention) -> Result<Attention> {
    const OP: &str = "attention";
    let &Sizes { batch, heads, queries, keys, .. } = sizes;
    if options.causal && keys < queries {
        let message = format!("causal needs at least as many keys as queries, got {keys} < {queries}");
        return Err(Error::shape(OP, message));
    }
    if let Some((drop_prob, _)) = options.dropout {
        super::dropout::check_drop_prob(OP, drop_prob)?;
    }
    if let Some(mask) = &options.key_mask {
        if mask.shape() != [batch, keys] {
            let message = format!("key_mask is {:?}, expected [{batch}, {keys}]", mask.shape());
            return Err(Error::shape(OP, message));
        }
        if mask.dtype() != DType::I32 {
            return Err(Error::DType { op: OP, what: "key_mask", expected: "i32", got: mask.dtype() });
        }
    }
    if let Some(bias) = &options.bias {
        let shape = bias.shape().strip_prefix(&[1]).filter(|rest| rest.len() == 3).unwrap_or(bias.shape());
        if shape != [heads, queries, keys] {
            let message = format!(
                "bias is {:?}, expected [{heads}, {queries}, {keys}] (NH, Tq, Tk), or 1 before that",
                bias.shape()
            );
            return Err(Error::shape(OP, message));
        }
        if bias.dtype() != DType::F32 {
            super::same_dtype(OP, "bias", q, bias)?;
        }
    }
    let contiguous = |x: &Tensor| x.detach().to_contiguous();
    let bias = options.bias.as_ref().map(|bias| super::cast::cast(&contiguous(bias)?, DType::F32));
    Ok(Attention {
        key_mask: options.key_mask.as_ref().map(contiguous).transpose()?,
        bias: bias.transpose()?,
        ..*options
    })
}

fn grad_id(bias: &Option<Tensor>) -> GradId {
    bias.as_ref().and_then(Tensor::grad_id)
}

/// The inputs and the bias: what the tape may follow.
fn with_bias<'a>(inputs: &[&'a Tensor], bias: Option<&'a Tensor>) -> Vec<&'a Tensor> {
    inputs.iter().copied().chain(bias).collect()
}

/// `out`, of which no input has a gradient but 0.
fn zero_gradients(op: &'static str, inputs: &[&Tensor], out: Tensor) -> Tensor {
    let ids: Vec<_> =
        inputs.iter().map(|x| (x.grad_id(), x.shape().to_vec(), x.dtype(), x.device())).collect();
    record(op, inputs, out, move |_, grads| {
        ids.into_iter()
            .try_for_each(|(id, shape, dtype, device)| grads.add(id, Tensor::zeros(&shape, dtype, device)?))
    })
}

fn target_cpu(dbias: &mut Option<ParameterGrad>) -> Result<Option<(&mut [f32], bool)>> {
    dbias.as_mut().map(ParameterGrad::target_cpu).transpose()
}

fn target(dbias: &mut Option<ParameterGrad>) -> Result<Option<(SliceMut<'_>, bool)>> {
    dbias.as_mut().map(ParameterGrad::target).transpose()
}

fn finish(dbias: Option<ParameterGrad>, device: Device, grads: &mut Gradients) -> Result<()> {
    match (dbias, device) {
        (None, _) => Ok(()),
        (Some(dbias), Device::Cpu) => dbias.finish_cpu("attention", grads),
        (Some(dbias), Device::Cuda(gpu)) => dbias.finish(gpu, grads),
    }
}

/// The kernel takes any batch and row strides, but each row's heads side by side.
fn with_contiguous_heads(x: &Tensor) -> Result<Tensor> {
    match x.strides() {
        [_, _, head, 1] if *head == x.shape()[3] => Ok(x.clone()),
        _ => x.to_contiguous(),
    }
}

fn heads_of<E: Float>(x: &Tensor) -> Result<Heads<'_, E>> {
    Ok(Heads { data: x.strided::<E>()?, batch_stride: x.strides()[0], row_stride: x.strides()[1] })
}

fn cuda_heads_of(x: &Tensor) -> Result<launcher::Heads<'_>> {
    let [batch_stride, row_stride] = [x.strides()[0], x.strides()[1]];
    Ok(launcher::Heads { data: x.cuda_strided()?, batch_stride, row_stride })
}

/// q, k and v of a packed projection.
fn cuda_parts(qkv: &Tensor, time: usize, cols: usize) -> Result<[launcher::Heads<'_>; 3]> {
    let data = qkv.cuda_slice()?;
    Ok([0, 1, 2].map(|part| launcher::Heads {
        data: data.offset(part * cols),
        batch_stride: time * 3 * cols,
        row_stride: 3 * cols,
    }))
}

/// A contiguous gradient (B, T, NH, HS).
fn cuda_gradient(x: &mut Tensor, time: usize) -> Result<launcher::HeadsMut<'_>> {
    let row_stride = x.shape()[2] * x.shape()[3];
    Ok(launcher::HeadsMut { data: x.cuda_slice_mut()?, batch_stride: time * row_stride, row_stride })
}

fn saved_of<'a>(out: &'a Tensor, lse: &'a Tensor, dout: &'a Tensor) -> Result<launcher::Saved<'a>> {
    Ok(launcher::Saved { out: out.cuda_slice()?, lse: lse.cuda_slice()?, dout: dout.cuda_slice()? })
}
