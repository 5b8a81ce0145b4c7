//! The optimizer on a GPU: norm, clipping, loss scaling and AdamW without the host.
//!
//! What changes from step to step lies in device memory: the step, the loss scale and its history, the learning rate (read from a table of
//! all of them), bias corrections and clip factor. [`Optimizer::step`] only enqueues four kernels, the same ones with the same arguments
//! each time, so that a step can be captured as part of a CUDA graph. A step whose gradients are not all finite changes no parameter and
//! no moment. The numbers are those of [`crate::ops::adamw`], bit for bit, where the gradients' norm is the same.
//!
//! ```text
//! let mut optimizer = Optimizer::new(device, settings, &rates, 65536.0, State::default())?;
//! loop {
//!     // forward; then the loss scale is the upstream gradient of the loss
//!     tape.backward(&loss, optimizer.loss_scale(), &mut grads)?;
//!     optimizer.advance_draws()?;               // once a micro-batch: new dropout masks
//!     optimizer.step(&mut parameters)?;
//!     optimizer.send_progress(&mut pinned)?;    // to be read a step later; progress() waits for it
//! }
//! ```

use handloom_kernels::optimizer::{Parameter as Launched, Table};
pub use handloom_kernels::optimizer::{Scaling, Settings, State};
use handloom_kernels::{adamw, loss_scaler, norm};

use crate::device::{Cuda, Device, Pinned};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::adamw::Parameter;
use crate::tensor::Tensor;

const OP: &str = "optimizer";

/// AdamW's state that is shared by all parameters, and dynamic loss scaling's, on a GPU.
pub struct Optimizer {
    gpu: Cuda,
    /// [`State::WORDS`] i32.
    state: Tensor,
    /// f32.
    loss_scale: Tensor,
    /// [`Settings::DOUBLES`] f64, as pairs of i32.
    settings: Tensor,
    /// f64, as pairs of i32.
    rates: Tensor,
    /// One f64: of the scaled gradients.
    norm: Tensor,
    table: Table,
}

/// Where training is, as read from the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub state: State,
    /// Of the next step: 1 without loss scaling.
    pub loss_scale: f32,
}

impl Progress {
    /// Bytes that [`Optimizer::send_progress`] writes.
    pub const BYTES: usize = 4 * (State::WORDS + 1);

    /// From what [`Optimizer::send_progress`] has written.
    ///
    /// # Panics
    /// When there are fewer than [`Progress::BYTES`] bytes: a bug of the caller.
    pub fn from_bytes(bytes: &[u8]) -> Progress {
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * i + byte]));
        let state = State::from_words(std::array::from_fn(word));
        Progress { state, loss_scale: f32::from_bits(word(State::WORDS)) }
    }
}

/// i32 words of f64.
fn words(values: &[f64]) -> Vec<i32> {
    values.iter().map(|x| x.to_bits()).flat_map(|bits| [bits as i32, (bits >> 32) as i32]).collect()
}

fn upload<E: crate::dtype::Element>(data: &[E], shape: &[usize], device: Device) -> Result<Tensor> {
    Tensor::from_slice(data, shape)?.to_device(device)
}

impl Optimizer {
    /// `rates[i]` is the learning rate of step i; past the end the last one stays. `loss_scale` is the first one (1 when
    /// `settings.scaling` is off); `state` is the default for a new run, or what a checkpoint holds.
    ///
    /// # Errors
    /// [`Error::Value`] on a CPU (see [`crate::ops::adamw`]), or when there are no rates, too many, or a scale that is not positive.
    pub fn new(
        device: Device,
        settings: Settings,
        rates: &[f64],
        loss_scale: f32,
        state: State,
    ) -> Result<Self> {
        let Device::Cuda(gpu) = device else {
            return Err(Error::value(OP, "keeps its state on a GPU, not on the CPU: use ops::adamw there"));
        };
        if rates.is_empty() || u32::try_from(rates.len()).is_err() {
            return Err(Error::value(OP, format!("{} learning rates, expected 1 to 2^32 - 1", rates.len())));
        }
        if !(loss_scale > 0.0 && loss_scale.is_finite()) {
            return Err(Error::value(OP, format!("loss_scale is {loss_scale}, expected a positive number")));
        }
        let state: Vec<i32> = state.to_words().iter().map(|word| *word as i32).collect();
        let settings = words(&settings.to_doubles(rates.len()));
        let rates = words(rates);
        Ok(Optimizer {
            gpu,
            state: upload(&state, &[state.len()], device)?,
            loss_scale: upload(&[loss_scale], &[], device)?,
            settings: upload(&settings, &[settings.len()], device)?,
            rates: upload(&rates, &[rates.len()], device)?,
            norm: Tensor::zeros(&[2], DType::I32, device)?,
            table: Table::default(),
        })
    }

    /// What the loss is multiplied by: the upstream gradient to start backward with. It shares the optimizer's memory, so that a captured
    /// graph reads the scale of each step anew; let go of it before [`Optimizer::step`].
    pub fn loss_scale(&self) -> Tensor {
        self.loss_scale.clone()
    }

    /// Moves every generator's stream on the device one step on: once a micro-batch.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the launch fails.
    pub fn advance_draws(&self) -> Result<()> {
        Ok(loss_scaler::advance(&self.gpu, self.gpu.gpu().draw_step_mut())?)
    }

    /// One step: the norm of all gradients, whether it counts, clip factor and bias corrections, and the update. Everything happens on the
    /// device; nothing is copied there unless a tensor has moved since the last step.
    ///
    /// # Errors
    /// [`Error::Value`] when somebody still holds [`Optimizer::loss_scale`]; [`Error::Cuda`] when the tensors of a parameter do not
    /// belong together or a launch fails.
    pub fn step(&mut self, parameters: &mut [Parameter]) -> Result<()> {
        let _time = crate::profile::scope("optimizer", crate::profile::Pass::Other);
        let gpu = self.gpu.gpu();
        let mut launched = parameters.iter_mut().map(launched).collect::<Result<Vec<_>>>()?;
        self.table.refresh(gpu, &launched)?;
        norm::global_norm(gpu, self.norm.cuda_slice_mut()?, &self.table)?;
        let place = self.loss_scale.cuda_slice()?.address();
        let loss_scale = self.loss_scale.cuda_slice_mut()?;
        if loss_scale.address() != place {
            return Err(Error::value(OP, "the loss scale is still held; let go of it before the step"));
        }
        let (settings, rates) = (self.settings.cuda_slice()?, self.rates.cuda_slice()?);
        let state = self.state.cuda_slice_mut()?;
        loss_scaler::update(gpu, state, loss_scale, settings, rates, self.norm.cuda_slice()?)?;
        adamw::step(gpu, &mut self.table, &mut launched, self.state.cuda_slice()?, settings)?;
        Ok(())
    }

    /// Enqueues a copy of where training is to the first [`Progress::BYTES`] bytes of pinned memory, and does not wait for it.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the memory is too small.
    pub fn send_progress(&self, to: &mut Pinned) -> Result<()> {
        to.download(self.state.cuda_slice()?, 0)?;
        Ok(to.download(self.loss_scale.cuda_slice()?, 4 * State::WORDS)?)
    }

    /// Where training is. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Cuda`] when a kernel before it failed.
    pub fn progress(&self) -> Result<Progress> {
        let words = self.state.to_device(Device::Cpu)?;
        let mut state = [0; State::WORDS];
        for (to, from) in state.iter_mut().zip(words.slice::<i32>()?) {
            *to = *from as u32;
        }
        Ok(Progress { state: State::from_words(state), loss_scale: self.loss_scale.item()? })
    }

    /// How often the table of parameters has been copied to the device: once, unless tensors moved.
    pub fn table_uploads(&self) -> u64 {
        self.table.uploads()
    }
}

fn launched<'a>(parameter: &'a mut Parameter<'_>) -> Result<Launched<'a>> {
    let master = parameter.master.as_mut();
    Ok(Launched {
        value: parameter.value.cuda_slice_mut()?,
        master: master.map(|master| master.cuda_slice_mut()).transpose()?,
        grad: parameter.grad.cuda_slice()?,
        m: parameter.m.cuda_slice_mut()?,
        v: parameter.v.cuda_slice_mut()?,
        weight_decay: parameter.weight_decay,
    })
}
