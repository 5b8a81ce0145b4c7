//! The tensor: runtime dtype, shape and device over reference-counted storage.
//!
//! Cloning shares the storage. Nothing writes to shared storage: [`Tensor::slice_mut`] copies first when somebody
//! else holds it, so a view or a value saved for backward never changes under its holder.

use std::sync::Arc;

use handloom_kernels::slice::{Slice, SliceMut};

use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Element, Float};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::tape::Var;

/// An n-dimensional array, row-major unless it is a view.
#[derive(Clone)]
pub struct Tensor {
    memory: Arc<Memory>,
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

/// Copies a strided array, row-major.
fn gather<E: Element>(out: &mut [E], inp: &[E], shape: &[usize], strides: &[usize]) {
    match shape {
        [] => out[0] = inp[0],
        [n] => (0..*n).for_each(|i| out[i] = inp[i * strides[0]]),
        [n, rest @ ..] => {
            let step = rest.iter().product::<usize>();
            for i in 0..*n {
                gather(&mut out[i * step..(i + 1) * step], &inp[i * strides[0]..], rest, &strides[1..]);
            }
        }
    }
}

impl Tensor {
    /// A tensor whose contents are unspecified until written.
    ///
    /// # Errors
    /// [`Error::Cuda`] when a GPU has no room for it.
    pub fn empty(shape: &[usize], dtype: DType, device: Device) -> Result<Self> {
        let memory = Memory::new(shape.iter().product(), dtype, device)?;
        Ok(Tensor {
            memory: Arc::new(memory),
            offset: 0,
            shape: shape.to_vec(),
            strides: contiguous_strides(shape),
            dtype,
            device,
            var: None,
        })
    }

    /// All zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(shape: &[usize], dtype: DType, device: Device) -> Result<Self> {
        let mut tensor = Tensor::empty(shape, dtype, device)?;
        match device {
            Device::Cpu => tensor.owned().bytes_mut("zeros")?.fill(0),
            Device::Cuda(gpu) => gpu.fill_zero(tensor.owned().buffer_mut("zeros")?.slice_mut())?,
        }
        Ok(tensor)
    }

    /// The memory of a tensor that nothing else shares.
    fn owned(&mut self) -> &mut Memory {
        Arc::get_mut(&mut self.memory).expect("bug in handloom-engine: memory is shared")
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
        let mut tensor = Tensor::empty(shape, E::DTYPE, Device::Cpu)?;
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

    fn check_contiguous(&self, op: &'static str) -> Result<()> {
        if !self.is_contiguous() {
            let message = format!(
                "tensor {:?} with strides {:?} is not contiguous; call contiguous()",
                self.shape, self.strides
            );
            return Err(Error::shape(op, message));
        }
        Ok(())
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// [`Error::DType`] for another element type, [`Error::Shape`] for a view that is not contiguous, [`Error::Device`] for a
    /// tensor on a GPU.
    pub fn slice<E: Element>(&self) -> Result<&[E]> {
        self.check_dtype::<E>()?;
        self.check_contiguous("slice")?;
        Ok(&bytemuck::cast_slice(self.memory.bytes("slice")?)[self.offset..self.offset + self.numel()])
    }

    /// The elements from the first one on, whatever the strides; index with [`Tensor::strides`].
    pub fn strided<E: Element>(&self) -> Result<&[E]> {
        self.check_dtype::<E>()?;
        Ok(&bytemuck::cast_slice(self.memory.bytes("strided")?)[self.offset..])
    }

    /// The elements, row-major and writable; copies first when the memory is shared.
    ///
    /// # Errors
    /// As [`Tensor::slice`].
    pub fn slice_mut<E: Element>(&mut self) -> Result<&mut [E]> {
        self.slice::<E>()?;
        self.unshare()?;
        let range = self.offset..self.offset + self.numel();
        Ok(&mut bytemuck::cast_slice_mut(self.owned().bytes_mut("slice_mut")?)[range])
    }

    /// Copies a contiguous tensor whose memory somebody else holds too.
    fn unshare(&mut self) -> Result<()> {
        if Arc::get_mut(&mut self.memory).is_none() {
            let var = self.var.take();
            *self = self.duplicate()?;
            self.var = var;
        }
        Ok(())
    }

    /// A copy of a contiguous tensor in memory of its own.
    fn duplicate(&self) -> Result<Self> {
        let mut copy = Tensor::empty(&self.shape, self.dtype, self.device)?;
        match self.device {
            Device::Cpu => copy.owned().bytes_mut("duplicate")?.copy_from_slice(self.bytes()?),
            Device::Cuda(gpu) => {
                gpu.copy(copy.owned().buffer_mut("duplicate")?.slice_mut(), self.cuda_slice()?)?;
            }
        }
        Ok(copy)
    }

    /// Overwrites the elements with those of a contiguous tensor of the same shape, dtype and device.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] and [`Error::Device`] when the two differ.
    pub fn assign(&mut self, from: &Tensor) -> Result<()> {
        crate::ops::same_shape("assign", "target", self, "source", from)?;
        self.assign_at(0, from)
    }

    /// Overwrites as many elements as `from` has, row-major from `start` on.
    ///
    /// # Errors
    /// As [`Tensor::assign`], and [`Error::Shape`] when they leave the tensor.
    pub fn assign_at(&mut self, start: usize, from: &Tensor) -> Result<()> {
        const OP: &str = "assign";
        crate::ops::same_dtype(OP, "source", self, from)?;
        let range = start..start.saturating_add(from.numel());
        if range.end > self.numel() {
            return Err(Error::shape(OP, format!("elements {range:?} leave {:?}", self.shape)));
        }
        if self.device != from.device {
            let (expected, got) = (self.device.to_string(), from.device.to_string());
            return Err(Error::Device { op: OP, expected, got });
        }
        match self.device {
            Device::Cuda(gpu) => Ok(gpu.copy(self.cuda_slice_mut()?.range(range), from.cuda_slice()?)?),
            Device::Cpu => {
                self.bytes()?;
                self.unshare()?;
                let size = self.dtype.size();
                let range = (self.offset + range.start) * size..(self.offset + range.end) * size;
                self.owned().bytes_mut(OP)?[range].copy_from_slice(from.bytes()?);
                Ok(())
            }
        }
    }

    /// The raw bytes of a contiguous CPU tensor, for files.
    pub fn bytes(&self) -> Result<&[u8]> {
        self.check_contiguous("bytes")?;
        let size = self.dtype.size();
        Ok(&self.memory.bytes("bytes")?[self.offset * size..(self.offset + self.numel()) * size])
    }

    /// The elements of a contiguous tensor on a GPU.
    ///
    /// # Errors
    /// [`Error::Device`] for a tensor on the CPU, [`Error::Shape`] for a view that is not contiguous.
    pub fn cuda_slice(&self) -> Result<Slice<'_>> {
        self.check_contiguous("cuda_slice")?;
        let slice = self.memory.buffer("cuda_slice")?.slice();
        Ok(slice.range(self.offset..self.offset + self.numel()))
    }

    /// The elements on a GPU from the first one on, whatever the strides.
    pub fn cuda_strided(&self) -> Result<Slice<'_>> {
        Ok(self.memory.buffer("cuda_strided")?.slice().offset(self.offset))
    }

    /// The elements of a contiguous tensor on a GPU, writable; copies first when the memory is shared.
    ///
    /// # Errors
    /// As [`Tensor::cuda_slice`].
    pub fn cuda_slice_mut(&mut self) -> Result<SliceMut<'_>> {
        self.cuda_slice()?;
        self.unshare()?;
        let range = self.offset..self.offset + self.numel();
        Ok(self.owned().buffer_mut("cuda_slice_mut")?.slice_mut().range(range))
    }

    /// The same values on another device, outside every tape; a tensor that is there already is shared. Copying to the CPU
    /// waits for the device.
    ///
    /// # Errors
    /// [`Error::Cuda`] when a GPU has no room or a kernel before the copy failed.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        if self.device == device {
            return Ok(self.detach());
        }
        let from = self.to_contiguous()?;
        let mut out = Tensor::empty(&self.shape, self.dtype, device)?;
        match (from.device, device) {
            (Device::Cpu, Device::Cuda(gpu)) => {
                gpu.upload(out.owned().buffer_mut("to_device")?.slice_mut(), from.bytes()?)?;
            }
            (Device::Cuda(gpu), Device::Cpu) => {
                // The CPU's pool hands out more bytes than asked for; the copy takes the tensor's own.
                let bytes = out.numel() * out.dtype.size();
                gpu.download(&mut out.owned().bytes_mut("to_device")?[..bytes], from.cuda_slice()?)?;
            }
            _ => return from.to_device(Device::Cpu)?.to_device(device),
        }
        Ok(out)
    }

    /// A row-major copy of a view; a contiguous tensor is returned as it is. Not recorded on the tape:
    /// `ops::view::contiguous` is.
    pub(crate) fn to_contiguous(&self) -> Result<Self> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        let mut out = Tensor::empty(&self.shape, self.dtype, self.device)?;
        match self.device {
            _ if self.numel() == 0 => {}
            Device::Cuda(gpu) => {
                let buffer = out.owned().buffer_mut("contiguous")?.slice_mut();
                handloom_kernels::view::copy(&gpu, buffer, &self.shape, self.cuda_strided()?, &self.strides)?;
            }
            // Copying moves bits: the element type only has to have the right size.
            Device::Cpu if self.dtype.size() == 2 => {
                let inp: &[half::bf16] =
                    &bytemuck::cast_slice(self.memory.bytes("contiguous")?)[self.offset..];
                let out = bytemuck::cast_slice_mut(out.owned().bytes_mut("contiguous")?);
                gather(out, inp, &self.shape, &self.strides);
            }
            Device::Cpu => {
                let inp: &[i32] = &bytemuck::cast_slice(self.memory.bytes("contiguous")?)[self.offset..];
                let out = bytemuck::cast_slice_mut(out.owned().bytes_mut("contiguous")?);
                gather(out, inp, &self.shape, &self.strides);
            }
        }
        out.var = self.var.clone();
        Ok(out)
    }

    /// The values as f32, row-major, from any float dtype or i32, any strides and any device.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the copy from a GPU fails.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        let tensor = self.to_contiguous()?.to_device(Device::Cpu)?;
        if tensor.dtype == DType::I32 {
            return Ok(tensor.slice::<i32>()?.iter().map(|&x| x as f32).collect());
        }
        dispatch_float!(tensor.dtype, "read_f32", "tensor", |E| {
            Ok(tensor.slice::<E>()?.iter().map(|x| Float::to_f32(*x)).collect())
        })
    }

    /// As [`Tensor::read_f32`], for a tensor on the CPU, where nothing can fail.
    ///
    /// # Panics
    /// When the tensor is on a GPU whose copy fails.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        self.read_f32().expect("bug in handloom-engine: a CPU tensor of a known dtype is readable")
    }

    /// The only value of a one-element tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is not exactly one element.
    pub fn item(&self) -> Result<f32> {
        if self.numel() != 1 {
            return Err(Error::shape("item", format!("expected one element, got shape {:?}", self.shape)));
        }
        Ok(self.read_f32()?[0])
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
