//! Matrix products on a GPU: from tensors to [`handloom_kernels::matmul`].

use handloom_kernels::matmul::{Activation, Epilogue, Matmul, Matrix, Output, column_sums, matmul};
use handloom_kernels::slice::Slice;

use crate::device::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::gelu::Gelu;
use crate::tensor::Tensor;

/// The matrices in the last two dimensions of `x`, `batch_stride` elements apart.
fn matrices(x: &Tensor, batch_stride: usize) -> Result<Matrix<'_>> {
    let (row_stride, col_stride) = (x.strides()[x.rank() - 2], x.strides()[x.rank() - 1]);
    Ok(Matrix { data: x.cuda_strided()?, row_stride, col_stride, batch_stride })
}

/// out[b] (+)= lhs[b] rhs[b], matrices of `out` one behind the other; `rhs_step` elements from one rhs to the next.
pub(super) fn batched(
    gpu: Cuda,
    out: &mut Tensor,
    lhs: &Tensor,
    rhs: &Tensor,
    rhs_step: usize,
    [batches, m, n, k]: [usize; 4],
    accumulate: bool,
) -> Result<()> {
    let (lhs, rhs) = (matrices(lhs, m * k)?, matrices(rhs, rhs_step)?);
    // One rhs for all: the batches are more rows of one product.
    let one = rhs_step == 0 && lhs.col_stride == 1 && lhs.row_stride == k;
    let (batches, m) = if one { (1, batches * m) } else { (batches, m) };
    let out = Output::rows(out.cuda_slice_mut()?, m, n);
    let product = Matmul { batches, accumulate, tf32: gpu.tf32(), ..Matmul::new(out, lhs, rhs, m, n, k) };
    Ok(matmul(gpu.gpu(), product)?)
}

fn optional(x: Option<&Tensor>) -> Result<Option<Slice<'_>>> {
    x.map(Tensor::cuda_slice).transpose()
}

/// The inputs of a linear layer, contiguous but for the weight, a (K, N) view.
pub(super) struct Operands<'a> {
    pub inp: &'a Tensor,
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub residual: Option<&'a Tensor>,
}

impl Operands<'_> {
    /// out = residual + gelu(inp W + bias), and what goes into gelu; in one kernel, each part only where it is asked for.
    pub(super) fn forward(
        &self,
        gpu: Cuda,
        out: &mut Tensor,
        gelu: Option<Gelu>,
        pre: Option<&mut Tensor>,
        [rows, n, k]: [usize; 3],
    ) -> Result<()> {
        let pre = pre.map(Tensor::cuda_slice_mut).transpose()?;
        let activation = match gelu {
            Some(form) => Activation::Gelu { form: form.launched(), pre },
            None => Activation::None,
        };
        let epilogue =
            Epilogue { bias: optional(self.bias)?, activation, residual: optional(self.residual)? };
        let out = Output::rows(out.cuda_slice_mut()?, rows, n);
        let (inp, weight) = (Matrix::rows(self.inp.cuda_slice()?, k), matrices(self.weight, 0)?);
        let product = Matmul { epilogue, tf32: gpu.tf32(), ..Matmul::new(out, inp, weight, rows, n, k) };
        Ok(matmul(gpu.gpu(), product)?)
    }
}

/// out (M, N) = lhs (M, K) rhs (K, N) gelu'(pre), in one kernel; lhs contiguous, pre of the shape of out.
pub(super) fn gelu_product(
    gpu: Cuda,
    out: &mut Tensor,
    lhs: &Tensor,
    rhs: &Tensor,
    pre: &Tensor,
    form: Gelu,
) -> Result<()> {
    let (k, n) = (rhs.shape()[0], rhs.shape()[1]);
    let m = lhs.shape()[0];
    let activation = Activation::GeluBackward { form: form.launched(), pre: pre.cuda_slice()? };
    let epilogue = Epilogue { activation, ..Epilogue::default() };
    let out = Output::rows(out.cuda_slice_mut()?, m, n);
    let (lhs, rhs) = (Matrix::rows(lhs.cuda_slice()?, k), matrices(rhs, 0)?);
    let product = Matmul { epilogue, tf32: gpu.tf32(), ..Matmul::new(out, lhs, rhs, m, n, k) };
    Ok(matmul(gpu.gpu(), product)?)
}

/// dbias (N) (+)= the sum of the rows of dout (rows, N); through an f32 tensor when dbias is not f32.
pub(super) fn sum_columns(
    gpu: Cuda,
    dbias: &mut Tensor,
    dout: &Tensor,
    n: usize,
    accumulate: bool,
) -> Result<()> {
    let rows = dout.shape()[0];
    if dbias.dtype() == DType::F32 {
        return Ok(column_sums(gpu.gpu(), dbias.cuda_slice_mut()?, dout.cuda_slice()?, rows, n, accumulate)?);
    }
    let mut sums = Tensor::empty(&[n], DType::F32, dout.device())?;
    column_sums(gpu.gpu(), sums.cuda_slice_mut()?, dout.cuda_slice()?, rows, n, false)?;
    Ok(handloom_kernels::cast::cast(&gpu, dbias.cuda_slice_mut()?, sums.cuda_slice()?, accumulate)?)
}
