//! What a step reads: the batches' numbers, packed into one block that is copied to the GPU while the host goes on.

use handloom_engine::device::{Cuda, Device, Pinned};
use handloom_engine::dtype::DType;
use handloom_engine::ops::view::{narrow, reshape};
use handloom_engine::tensor::Tensor;

use crate::error::{Error, Result};
use crate::objective::Batch;

/// Tensors in the block start at multiples of this many i32: 256 bytes.
const ALIGN: usize = 64;

/// One block in device memory, always at the same address, and two in pinned memory: the next step's numbers are written while
/// the last step's may still be on their way.
pub struct Inputs {
    gpu: Cuda,
    block: Tensor,
    /// What every loss is multiplied by: one over the step's counted targets, an f32 scalar.
    factor: Tensor,
    staging: [Pinned; 2],
    turn: usize,
    /// How often the block had to grow, and so moved.
    moves: u64,
}

impl Inputs {
    /// # Errors
    /// When host or device have no memory for it.
    pub fn new(gpu: Cuda) -> Result<Self> {
        let block = Tensor::zeros(&[ALIGN], DType::I32, Device::Cuda(gpu))?;
        let factor = Tensor::zeros(&[], DType::F32, Device::Cuda(gpu))?;
        let pinned = || Ok::<_, Error>(gpu.gpu().pinned(4 * (1 + ALIGN))?);
        Ok(Inputs { gpu, block, factor, staging: [pinned()?, pinned()?], turn: 0, moves: 0 })
    }

    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// One over the counted targets of the batches that were uploaded last.
    pub fn factor(&self) -> &Tensor {
        &self.factor
    }

    /// Enqueues the copy of these batches and returns them as views of the block. Let go of those before the next call.
    ///
    /// # Errors
    /// When memory is short or the device has failed.
    pub fn upload(&mut self, batches: &[Batch]) -> Result<Vec<Batch>> {
        let mut numbers: Vec<i32> = Vec::new();
        let mut starts = Vec::new();
        for batch in batches {
            batch.map(|tensor| {
                starts.push(numbers.len());
                numbers.extend(tensor.slice::<i32>()?);
                numbers.resize(numbers.len().next_multiple_of(ALIGN), 0);
                Ok(tensor.clone())
            })?;
        }
        self.reserve(numbers.len())?;
        self.turn = 1 - self.turn;
        let staging = &mut self.staging[self.turn];
        // The factor first, then the block.
        let counted: usize = batches.iter().map(|batch| batch.counted).sum();
        let bytes = staging.write()?;
        bytes[..4].copy_from_slice(&(1.0 / counted.max(1) as f32).to_le_bytes());
        bytes[4..][..4 * numbers.len()].copy_from_slice(bytemuck::cast_slice(&numbers));
        staging.upload(self.factor.cuda_slice_mut()?, 0)?;
        let place = self.block.cuda_slice()?.address();
        let block = self.block.cuda_slice_mut()?;
        if block.address() != place {
            return Err(Error::Run("bug in handloom-model: a batch of the last step is still held".into()));
        }
        staging.upload(block.range(0..numbers.len()), 4)?;
        let mut starts = starts.into_iter();
        let block = &self.block;
        let mut view = |tensor: &Tensor| {
            let start = starts.next().expect("bug in handloom-model: a batch has as many tensors as before");
            Ok(reshape(&narrow(block, 0, start, tensor.numel())?, tensor.shape())?)
        };
        batches.iter().map(|batch| batch.map(&mut view)).collect()
    }

    /// Room for so many i32.
    fn reserve(&mut self, len: usize) -> Result<()> {
        if len > self.block.numel() {
            self.block = Tensor::zeros(&[len], DType::I32, Device::Cuda(self.gpu))?;
            for staging in &mut self.staging {
                *staging = self.gpu.gpu().pinned(4 * (1 + len))?;
            }
            self.moves += 1;
        }
        Ok(())
    }
}
