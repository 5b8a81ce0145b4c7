//! The tensor: runtime dtype, shape and device over reference-counted storage.
//!
//! Cloning shares the storage. Nothing writes to shared storage: [`Tensor::slice_mut`] copies first when somebody
//! else holds it, so a view or a value saved for backward never changes under its holder.

use std::sync::Arc;

use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::tape::Var;

/// An n-dimensional array, row-major unless it is a view.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    /// Position of the first element, in elements.
    offset: usize,
    shape: Vec<usize>,
    /// Distance in elements between neighbours along each dimension.
    strides: Vec<usize>,
    dtype: DType,
    device: Device,
    pub(crate) var: Option<Var>,
}

/// Row-major strides of a shape.
pub fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

impl Tensor {
    /// A tensor whose contents are unspecified until written.
    pub fn empty(shape: &[usize], dtype: DType, device: Device) -> Self {
        let numel: usize = shape.iter().product();
        Tensor {
            storage: Arc::new(Storage::new(numel * dtype.size())),
            offset: 0,
            shape: shape.to_vec(),
            strides: contiguous_strides(shape),
            dtype,
            device,
            var: None,
        }
    }

    /// All zeros.
    pub fn zeros(shape: &[usize], dtype: DType, device: Device) -> Self {
        let mut tensor = Tensor::empty(shape, dtype, device);
        Arc::get_mut(&mut tensor.storage)
            .expect("bug in handloom-engine: new storage is shared")
            .as_bytes_mut()
            .fill(0);
        tensor
    }

    /// A one-element f32 tensor of shape ().
    pub fn scalar(value: f32) -> Self {
        Tensor::from_slice(&[value], &[]).expect("bug in handloom-engine: one element fills shape ()")
    }

    /// Copies `data`, row-major, into a CPU tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shape does not hold exactly `data.len()` elements.
    pub fn from_slice<E: Element>(data: &[E], shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != data.len() {
            return Err(Error::shape(
                "from_slice",
                format!("{} elements do not fill shape {shape:?}", data.len()),
            ));
        }
        let mut tensor = Tensor::empty(shape, E::DTYPE, Device::Cpu);
        tensor.slice_mut::<E>()?.copy_from_slice(data);
        Ok(tensor)
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the elements lie row-major without gaps; no elements do.
    pub fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }

    /// The same values outside every tape: no gradient flows through the result.
    pub fn detach(&self) -> Self {
        Tensor { var: None, ..self.clone() }
    }

    /// Whether a tape follows this tensor.
    pub fn needs_grad(&self) -> bool {
        self.var.is_some()
    }

    fn check_dtype<E: Element>(&self) -> Result<()> {
        if self.dtype != E::DTYPE {
            let expected = E::DTYPE.name();
            return Err(Error::DType { op: "slice", what: "tensor", expected, got: self.dtype });
        }
        Ok(())
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// [`Error::DType`] for another element type, [`Error::Shape`] for a view that is not contiguous.
    pub fn slice<E: Element>(&self) -> Result<&[E]> {
        self.check_dtype::<E>()?;
        if !self.is_contiguous() {
            return Err(Error::shape(
                "slice",
                format!(
                    "tensor {:?} with strides {:?} is not contiguous; call contiguous()",
                    self.shape, self.strides
                ),
            ));
        }
        Ok(&bytemuck::cast_slice(self.storage.as_bytes())[self.offset..self.offset + self.numel()])
    }

    /// The elements from the first one on, whatever the strides; index with [`Tensor::strides`].
    pub fn strided<E: Element>(&self) -> Result<&[E]> {
        self.check_dtype::<E>()?;
        Ok(&bytemuck::cast_slice(self.storage.as_bytes())[self.offset..])
    }

    /// The elements, row-major and writable; copies first when the storage is shared.
    ///
    /// # Errors
    /// As [`Tensor::slice`].
    pub fn slice_mut<E: Element>(&mut self) -> Result<&mut [E]> {
        self.slice::<E>()?;
        if Arc::get_mut(&mut self.storage).is_none() {
            let mut copy = Tensor::empty(&self.shape, self.dtype, self.device);
            copy.slice_mut::<E>()?.copy_from_slice(self.slice::<E>()?);
            self.storage = copy.storage;
            self.offset = 0;
            self.strides = copy.strides;
        }
        let numel = self.numel();
        let storage =
            Arc::get_mut(&mut self.storage).expect("bug in handloom-engine: storage shared after a copy");
        Ok(&mut bytemuck::cast_slice_mut(storage.as_bytes_mut())[self.offset..self.offset + numel])
    }

    /// The raw bytes of a contiguous tensor, for files.
    pub fn bytes(&self) -> Result<&[u8]> {
        match self.dtype {
            DType::F32 => Ok(bytemuck::cast_slice(self.slice::<f32>()?)),
            DType::F16 => Ok(bytemuck::cast_slice(self.slice::<half::f16>()?)),
            DType::BF16 => Ok(bytemuck::cast_slice(self.slice::<half::bf16>()?)),
            DType::I32 => Ok(bytemuck::cast_slice(self.slice::<i32>()?)),
        }
    }

    /// A row-major copy of a view; a contiguous tensor is returned as it is. Not recorded on the tape:
    /// `ops::view::contiguous` is.
    pub(crate) fn to_contiguous(&self) -> Self {
        if self.is_contiguous() {
            return self.clone();
        }
        fn gather<E: Element>(out: &mut [E], inp: &[E], shape: &[usize], strides: &[usize]) {
            match shape {
                [] => out[0] = inp[0],
                [n] => (0..*n).for_each(|i| out[i] = inp[i * strides[0]]),
                [n, rest @ ..] => {
                    let step = rest.iter().product::<usize>();
                    for i in 0..*n {
                        gather(
                            &mut out[i * step..(i + 1) * step],
                            &inp[i * strides[0]..],
                            rest,
                            &strides[1..],
                        );
                    }
                }
            }
        }
        let mut out = Tensor::empty(&self.shape, self.dtype, self.device);
        if self.numel() > 0 {
            // Copying moves bits: the element type only has to have the right size.
            let storage =
                Arc::get_mut(&mut out.storage).expect("bug in handloom-engine: new storage is shared");
            if self.dtype.size() == 2 {
                let inp = &bytemuck::cast_slice::<u8, half::bf16>(self.storage.as_bytes())[self.offset..];
                gather(bytemuck::cast_slice_mut(storage.as_bytes_mut()), inp, &self.shape, &self.strides);
            } else {
                let inp = &bytemuck::cast_slice::<u8, i32>(self.storage.as_bytes())[self.offset..];
                gather(bytemuck::cast_slice_mut(storage.as_bytes_mut()), inp, &self.shape, &self.strides);
            }
        }
        out.var = self.var.clone();
        out
    }

    /// The values as f32, row-major, from any float dtype or i32 and any strides.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        let tensor = self.to_contiguous();
        let read = || -> Result<Vec<f32>> {
            if tensor.dtype == DType::I32 {
                return Ok(tensor.slice::<i32>()?.iter().map(|&x| x as f32).collect());
            }
            dispatch_float!(tensor.dtype, "to_vec_f32", "tensor", |E| {
                Ok(tensor.slice::<E>()?.iter().map(|x| Float::to_f32(*x)).collect())
            })
        };
        read().expect("bug in handloom-engine: a contiguous tensor of a known dtype is readable")
    }

    /// The only value of a one-element tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is not exactly one element.
    pub fn item(&self) -> Result<f32> {
        if self.numel() != 1 {
            return Err(Error::shape("item", format!("expected one element, got shape {:?}", self.shape)));
        }
        Ok(self.to_vec_f32()[0])
    }

    /// A view with other shape and strides over the same storage; the caller answers for the bounds.
    pub(crate) fn view(&self, offset: usize, shape: Vec<usize>, strides: Vec<usize>) -> Self {
        // An empty view may start past the end: nothing is there to point to.
        let offset = if shape.contains(&0) { 0 } else { self.offset + offset };
        Tensor { offset, shape, strides, var: None, ..self.clone() }
    }

    /// Sizes of a rank-2 tensor.
    pub fn dims2(&self, op: &'static str, what: &str) -> Result<(usize, usize)> {
        match self.shape[..] {
            [a, b] => Ok((a, b)),
            _ => Err(Error::shape(op, format!("{what} must have 2 dimensions, got {:?}", self.shape))),
        }
    }

    /// Sizes of a rank-3 tensor.
    pub fn dims3(&self, op: &'static str, what: &str) -> Result<(usize, usize, usize)> {
        match self.shape[..] {
            [a, b, c] => Ok((a, b, c)),
            _ => Err(Error::shape(op, format!("{what} must have 3 dimensions, got {:?}", self.shape))),
        }
    }

    /// Rows and columns when all leading dimensions are taken as rows.
    pub fn rows_cols(&self, op: &'static str, what: &str) -> Result<(usize, usize)> {
        match self.shape.split_last() {
            Some((&cols, rows)) => Ok((rows.iter().product(), cols)),
            None => Err(Error::shape(op, format!("{what} must have at least 1 dimension, got a scalar"))),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {}, {})", self.shape, self.dtype, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_to_shared_storage_copies() {
        let a = Tensor::from_slice(&[1.0f32, 2.0], &[2]).unwrap();
        let mut b = a.clone();
        b.slice_mut::<f32>().unwrap()[0] = 9.0;
        assert_eq!(a.to_vec_f32(), [1.0, 2.0]);
        assert_eq!(b.to_vec_f32(), [9.0, 2.0]);
    }

    #[test]
    fn wrong_sizes_and_dtypes_are_errors() {
        let error = Tensor::from_slice(&[1.0f32; 5], &[2, 3]).unwrap_err();
        assert_eq!(error.to_string(), "from_slice: 5 elements do not fill shape [2, 3]");
        let ids = Tensor::from_slice(&[1i32], &[1]).unwrap();
        assert_eq!(ids.slice::<f32>().unwrap_err().to_string(), "slice: tensor has dtype i32, expected f32");
    }
}
