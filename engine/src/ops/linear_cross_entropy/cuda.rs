//! The vocabulary's products and their loss on a GPU, a chunk of rows at a time.
//!
//! 1. logits = x W^T in f32, whatever the operands: the loss is of unrounded logits.
//! 2. cross_entropy_fused: each row's loss and hit of logits + bias, and dlogits = scale (softmax - onehot) in the operands' dtype.
//! 3. dx = dlogits W; dW += dlogits^T x; dbias += column sums of dlogits; all in f32.
//!
//! dlogits are those of the summed loss: what the mean and the upstream gradient multiply by is a number in device memory, applied in f32
//! at the end. So the loss scale is not needed before backward, and small probabilities do not vanish in f16
//! (docs/src/numerics.md, Loss over the vocabulary).

use handloom_kernels::cross_entropy::{fused, padded};
use handloom_kernels::matmul::{Matmul, Matrix, Output, matmul};
use handloom_kernels::{elementwise, reduce};

use super::{OP, Scored};
use crate::device::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::cross_entropy::{IGNORE_INDEX, RowScores, Totals, contiguous_targets};
use crate::tape::{GradId, Gradients, record};
use crate::tensor::Tensor;

/// Rows of a chunk are a multiple of this: whole tiles of the products.
const TILE_ROWS: usize = 128;

/// What dlogits are multiplied by before they are rounded to `dtype`: a power of two that keeps (p - 1) 2^12 inside f16's range and puts
/// probabilities down to 2^-26 among its normal numbers. f32 and bf16 have exponents enough.
fn dlogits_scale(dtype: DType) -> f32 {
    if dtype == DType::F16 { 4096.0 } else { 1.0 }
}

pub(super) fn scored(
    gpu: Cuda,
    inp: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    divisor: Option<f64>,
    [rows, vocab, cols]: [usize; 3],
    logits_bytes: usize,
) -> Result<Scored> {
    let targets = contiguous_targets(OP, targets, rows)?;
    let ids = [inp.grad_id(), weight.grad_id(), bias.and_then(Tensor::grad_id)];
    let parents: Vec<&Tensor> = [inp, weight].into_iter().chain(bias).collect();
    let head = Head {
        gpu,
        inp: inp.to_contiguous()?,
        weight: weight.to_contiguous()?,
        bias: bias.map(Tensor::to_contiguous).transpose()?,
        rows,
        vocab,
        cols,
    };
    let mut sums = Sums::new(&head, ids, inp.shape())?;
    let mut scores = RowScores::new(rows, inp.device())?;
    head.run(&targets, &mut scores, &mut sums, logits_bytes)?;
    let Totals { loss, factor, hits } = scores.totals(gpu, &targets, vocab, divisor)?;
    let dtype = inp.dtype();
    let loss =
        record(OP, &parents, loss, move |dout, grads| sums.pass_on(gpu, grads, ids, &dout, &factor, dtype));
    Ok(Scored { loss, hits })
}

/// The operands.
struct Head {
    gpu: Cuda,
    inp: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    rows: usize,
    vocab: usize,
    cols: usize,
}

/// Gradients of the summed loss times [`dlogits_scale`], f32; of those inputs that need one.
struct Sums {
    /// As inp.
    dinp: Option<Tensor>,
    /// (V, C)
    dweight: Option<Tensor>,
    /// (padded(V))
    dbias: Option<Tensor>,
    vocab: usize,
}

impl Sums {
    fn new(head: &Head, [inp, weight, bias]: [GradId; 3], shape: &[usize]) -> Result<Self> {
        let zeros = |id: GradId, shape: &[usize]| {
            id.map(|_| Tensor::zeros(shape, DType::F32, head.inp.device())).transpose()
        };
        let empty = |id: GradId, shape: &[usize]| {
            // The first chunk overwrites; without rows there is none.
            let make = if head.rows == 0 { Tensor::zeros } else { Tensor::empty };
            id.map(|_| make(shape, DType::F32, head.inp.device())).transpose()
        };
        Ok(Sums {
            dinp: empty(inp, shape)?,
            dweight: empty(weight, &[head.vocab, head.cols])?,
            dbias: zeros(bias, &[padded(head.vocab)])?,
            vocab: head.vocab,
        })
    }

    fn any(&self) -> bool {
        self.dinp.is_some() || self.dweight.is_some() || self.dbias.is_some()
    }

    /// Multiplies by *dout * *factor and hands the gradients to the tape.
    fn pass_on(
        self,
        gpu: Cuda,
        grads: &mut Gradients,
        ids: [GradId; 3],
        dout: &Tensor,
        factor: &Tensor,
        dtype: DType,
    ) -> Result<()> {
        let mut scale = Tensor::empty(&[], DType::F32, dout.device())?;
        let undo = 1.0 / dlogits_scale(dtype);
        let (factor, dout) = (factor.cuda_slice()?, dout.cuda_slice()?);
        elementwise::scale(&gpu, scale.cuda_slice_mut()?, factor, undo, Some(dout), false)?;
        let dbias = match self.dbias {
            Some(dbias) => Some(crate::ops::view::narrow(&dbias, 0, 0, self.vocab)?),
            None => None,
        };
        for (id, sum) in ids.into_iter().zip([self.dinp, self.dweight, dbias]) {
            let Some(mut sum) = sum else { continue };
            let Some((mut buffer, accumulate)) = grads.begin(id)? else { continue };
            let scale = Some(scale.cuda_slice()?);
            if buffer.dtype() == DType::F32 {
                let into = buffer.cuda_slice_mut()?;
                elementwise::scale(&gpu, into, sum.cuda_slice()?, 1.0, scale, accumulate)?;
            } else {
                elementwise::scale_in_place(&gpu, sum.cuda_slice_mut()?, 1.0, scale)?;
                let into = buffer.cuda_slice_mut()?;
                handloom_kernels::cast::cast(&gpu, into, sum.cuda_slice()?, accumulate)?;
            }
            grads.finish(id, buffer)?;
        }
        Ok(())
    }
}

impl Head {
    fn run(
        &self,
        targets: &Tensor,
        scores: &mut RowScores,
        sums: &mut Sums,
        logits_bytes: usize,
    ) -> Result<()> {
        let (device, dtype) = (self.inp.device(), self.inp.dtype());
        let stride = padded(self.vocab);
        let fitting = logits_bytes / (stride * size_of::<f32>()).max(1);
        let whole = fitting / TILE_ROWS * TILE_ROWS;
        let chunk = if whole > 0 { whole } else { fitting.max(1) }.min(self.rows);
        let mut logits = Tensor::empty(&[chunk, stride], DType::F32, device)?;
        let mut dlogits = match sums.any() {
            true => Some(Tensor::empty(&[chunk, stride], dtype, device)?),
            false => None,
        };
        for first in (0..self.rows).step_by(chunk.max(1)) {
            let rows = first..(first + chunk).min(self.rows);
            self.logits(&mut logits, rows.clone())?;
            fused(
                &self.gpu,
                dtype.elem(),
                dlogits.as_mut().map(Tensor::cuda_slice_mut).transpose()?,
                scores.loss.cuda_slice_mut()?.range(rows.clone()),
                scores.hit.cuda_slice_mut()?.range(rows.clone()),
                logits.cuda_slice()?,
                self.bias.as_ref().map(Tensor::cuda_slice).transpose()?,
                targets.cuda_slice()?.range(rows.clone()),
                rows.len(),
                self.vocab,
                IGNORE_INDEX,
                dlogits_scale(dtype),
            )?;
            if let Some(dlogits) = &dlogits {
                self.gradients(sums, dlogits, rows)?;
            }
        }
        Ok(())
    }

    fn x(&self, rows: std::ops::Range<usize>) -> Result<Matrix<'_>> {
        let elements = rows.start * self.cols..rows.end * self.cols;
        Ok(Matrix::rows(self.inp.cuda_slice()?.range(elements), self.cols))
    }

    fn logits(&self, logits: &mut Tensor, rows: std::ops::Range<usize>) -> Result<()> {
        let out = Output { data: logits.cuda_slice_mut()?, row_stride: padded(self.vocab), batch_stride: 0 };
        let weight = Matrix::rows(self.weight.cuda_slice()?, self.cols).t();
        let product = Matmul::new(out, self.x(rows.clone())?, weight, rows.len(), self.vocab, self.cols);
        Ok(matmul(self.gpu.gpu(), Matmul { tf32: self.gpu.tf32(), ..product })?)
    }

    fn gradients(&self, sums: &mut Sums, dlogits: &Tensor, rows: std::ops::Range<usize>) -> Result<()> {
        let (gpu, count) = (self.gpu.gpu(), rows.len());
        let (vocab, cols, stride, tf32) = (self.vocab, self.cols, padded(self.vocab), gpu.tf32());
        let dlogits = Matrix::rows(dlogits.cuda_slice()?, stride);
        if let Some(dinp) = &mut sums.dinp {
            let out = dinp.cuda_slice_mut()?.range(rows.start * cols..rows.end * cols);
            let weight = Matrix::rows(self.weight.cuda_slice()?, cols);
            let product = Matmul::new(Output::rows(out, count, cols), dlogits, weight, count, cols, vocab);
            matmul(gpu, Matmul { tf32, ..product })?;
        }
        if let Some(dweight) = &mut sums.dweight {
            let out = Output::rows(dweight.cuda_slice_mut()?, vocab, cols);
            let product = Matmul::new(out, dlogits.t(), self.x(rows.clone())?, vocab, cols, count);
            matmul(gpu, Matmul { tf32, accumulate: rows.start > 0, ..product })?;
        }
        if let Some(dbias) = &mut sums.dbias {
            reduce::middle(gpu, dbias.cuda_slice_mut()?, dlogits.data, [1, count, stride], true)?;
        }
        Ok(())
    }
}
