//! A model's parameters by name, their initialisation, and their place on a step's tape.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::error::Result;
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::view::narrow;
use handloom_engine::philox::Stream;
use handloom_engine::profile::{Pass, scope};
use handloom_engine::tape::{Gradients, Tape};
use handloom_engine::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The precision a model computes in. Masters, moments and parameter gradients are f32 in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Fp32,
    /// f32 whose products round their factors to 10 bits of mantissa, for the tensor cores of a GPU.
    Tf32,
    Bf16,
    /// Needs dynamic loss scaling ([`crate::train::loss_scaler`]).
    Fp16,
}

impl Precision {
    /// The dtype of activations and working weights.
    pub fn dtype(self) -> DType {
        match self {
            Precision::Fp32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Fp16 => DType::F16,
        }
    }

    /// tf32 is a way of GPUs' tensor cores; on the CPU it would be fp32 under another name.
    ///
    /// # Errors
    /// [`Error::Run`](crate::error::Error::Run) for tf32 on the CPU.
    pub fn check_device(self, device: Device) -> crate::error::Result<()> {
        if self == Precision::Tf32 && device == Device::Cpu {
            return Err(crate::error::Error::Run(
                "tf32 is a precision of GPUs; on the CPU use fp32 (--precision fp32)".into(),
            ));
        }
        Ok(())
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fp32" => Ok(Precision::Fp32),
            "tf32" => Ok(Precision::Tf32),
            "bf16" => Ok(Precision::Bf16),
            "fp16" => Ok(Precision::Fp16),
            _ => Err(format!("`{name}` is no precision; expected fp32, tf32, bf16 or fp16")),
        }
    }
}

/// As the configuration and `--precision` spell it.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
        })
    }
}

/// How weight matrices start; layernorm weights start at 1, biases at 0, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Normal(0, `init_std`); projections into the residual stream divided by sqrt(2 layers) (Radford et al. 2019,
    /// section 2.3).
    #[default]
    Gpt2,
    /// Normal with variance 2/(fan_in + fan_out) (Glorot and Bengio 2010, equation 12).
    Xavier,
    /// Normal with variance 2/fan_in (He et al. 2015, equation 10).
    He,
    /// Normal with deviation width^-0.5 (Vaswani et al. 2017).
    InverseSqrtWidth,
    /// As [`Init::Gpt2`], with attention that looks at neighbours from the start (BERT only: `bert::mimetic`).
    Mimetic,
}

/// What a parameter is, as far as initialisation is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A matrix inside a layer.
    Weight { fan_in: usize, fan_out: usize },
    /// A matrix whose output is added to the residual stream.
    ResidualWeight { fan_in: usize, fan_out: usize },
    /// A table of vectors.
    Embedding,
    /// A layernorm's weight.
    Scale,
    /// A bias.
    Bias,
}

/// Index of a parameter in its [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// One parameter.
pub struct Param {
    /// The Hugging Face name, for example `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    pub kind: Kind,
    /// What the model computes with.
    pub value: Tensor,
    /// The f32 original, when `value` is half precision.
    pub master: Option<Tensor>,
}

impl Param {
    /// The f32 values.
    pub fn master(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.value)
    }
}

/// All parameters of a model, in a fixed order.
pub struct Params {
    list: Vec<Param>,
    by_name: HashMap<String, usize>,
    /// 0, 1, 2, ... i32, beside the parameters.
    indices: Tensor,
}

impl Default for Params {
    fn default() -> Self {
        let indices =
            Tensor::from_slice::<i32>(&[], &[0]).expect("bug in handloom-engine: nothing fills nothing");
        Params { list: Vec::new(), by_name: HashMap::new(), indices }
    }
}

/// What initialisation needs to know of a model.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    pub init: Init,
    /// Standard deviation of [`Init::Gpt2`] and [`Init::Mimetic`].
    pub std: f64,
    pub layers: usize,
    pub width: usize,
    pub seed: u64,
}

/// The stream number of parameter `index`; dropout's streams stay below 2^31.
fn init_stream(index: usize) -> u32 {
    (1 << 31) + index as u32
}

impl Params {
    /// Declares the next parameter. Its value is unset until [`Params::initialise`] or a load.
    pub(crate) fn add(&mut self, name: String, kind: Kind, shape: &[usize]) -> ParamId {
        let value = Tensor::zeros(shape, DType::F32, Device::Cpu)
            .expect("bug in handloom-engine: host memory is never refused");
        self.by_name.insert(name.clone(), self.list.len());
        self.list.push(Param { name, kind, value, master: None });
        ParamId(self.list.len() - 1)
    }

    /// Keeps the indices `0..len` for [`Params::indices`].
    pub(crate) fn keep_indices(&mut self, len: usize) -> Result<()> {
        let indices: Vec<i32> = (0..len as i32).collect();
        self.indices = Tensor::from_slice(&indices, &[len])?.to_device(self.device())?;
        Ok(())
    }

    /// i32 `start..start + len` on the device of the parameters: what tables are looked up with, without a copy to the device each
    /// time.
    ///
    /// # Errors
    /// When the model has not that many.
    pub(crate) fn indices(&self, start: usize, len: usize) -> Result<Tensor> {
        narrow(&self.indices, 0, start, len)
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.list.first().map_or(Device::Cpu, |param| param.value.device())
    }

    /// Moves everything to another device.
    ///
    /// # Errors
    /// When a GPU has no room for it.
    pub fn to_device(&mut self, device: Device) -> Result<()> {
        let _owner = scope("parameters", Pass::Other);
        for param in &mut self.list {
            param.value = param.value.to_device(device)?;
            param.master = param.master.take().map(|master| master.to_device(device)).transpose()?;
        }
        self.indices = self.indices.to_device(device)?;
        Ok(())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Param> {
        self.list.iter()
    }

    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Param> {
        self.list.iter_mut()
    }

    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    pub(crate) fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.list[id.0]
    }

    /// The parameter of this name.
    pub fn by_name(&mut self, name: &str) -> Option<&mut Param> {
        self.by_name.get(name).map(|&i| &mut self.list[i])
    }

    /// Number of values.
    pub fn numel(&self) -> usize {
        self.list.iter().map(|p| p.value.numel()).sum()
    }

    /// Draws every parameter anew. A value is a function of the seed, the parameter's place and the element's index, so
    /// that it is the same on every device and for every number of threads.
    pub fn initialise(&mut self, options: InitOptions) -> Result<()> {
        const RUN: usize = 16 * 1024;
        for (index, param) in self.list.iter_mut().enumerate() {
            let std = match (param.kind, options.init) {
                (Kind::Scale, _) => {
                    param.value.slice_mut::<f32>()?.fill(1.0);
                    continue;
                }
                (Kind::Bias, _) => {
                    param.value.slice_mut::<f32>()?.fill(0.0);
                    continue;
                }
                (_, Init::InverseSqrtWidth) => 1.0 / (options.width as f64).sqrt(),
                (Kind::ResidualWeight { .. }, Init::Gpt2 | Init::Mimetic) => {
                    options.std / (2.0 * options.layers as f64).sqrt()
                }
                (Kind::Weight { .. }, Init::Gpt2 | Init::Mimetic) | (Kind::Embedding, _) => options.std,
                (
                    Kind::Weight { fan_in, fan_out } | Kind::ResidualWeight { fan_in, fan_out },
                    Init::Xavier,
                ) => (2.0 / (fan_in + fan_out) as f64).sqrt(),
                (Kind::Weight { fan_in, .. } | Kind::ResidualWeight { fan_in, .. }, Init::He) => {
                    (2.0 / fan_in as f64).sqrt()
                }
            };
            let values = param.value.slice_mut::<f32>()?;
            values.par_chunks_mut(RUN).enumerate().for_each(|(run, values)| {
                let mut reader =
                    Stream { seed: options.seed, stream: init_stream(index), step: run as u32 }.reader();
                values.iter_mut().for_each(|value| *value = (reader.normal() * std) as f32);
            });
        }
        Ok(())
    }

    /// Makes the model compute in `precision`, keeping f32 masters beside half-precision values.
    pub fn set_precision(&mut self, precision: Precision) -> Result<()> {
        for param in &mut self.list {
            let master = param.master.take().unwrap_or_else(|| param.value.clone());
            if precision.dtype() == DType::F32 {
                param.value = master;
            } else {
                param.value = cast(&master, precision.dtype())?;
                param.master = Some(master);
            }
        }
        Ok(())
    }

    /// The values as a forward pass uses them: leaves of `tape` when there is one.
    pub fn bind(&self, tape: Option<&Tape>) -> Weights {
        let bind = |param: &Param| match tape {
            Some(tape) => tape.leaf(&param.value, DType::F32),
            None => param.value.clone(),
        };
        Weights(Arc::new(self.list.iter().map(bind).collect()))
    }
}

/// A step's view of the parameters.
#[derive(Clone)]
pub struct Weights(Arc<Vec<Tensor>>);

impl Weights {
    /// Whether both are the same tensors in the same memory.
    pub(crate) fn is_same(&self, other: &Weights) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.0[id.0]
    }

    /// Puts `grads`, one per parameter where there is one, in as what this step adds to.
    pub fn seed_gradients(&self, target: &mut Gradients, grads: Vec<Option<Tensor>>) {
        for (weight, grad) in self.0.iter().zip(grads) {
            if let Some(grad) = grad {
                target.set(weight.grad_id(), grad);
            }
        }
    }

    /// Names the memory, one tensor per parameter, that this step's gradients are written to.
    pub fn place_gradients(&self, target: &mut Gradients, places: Vec<Tensor>) -> Result<()> {
        self.0.iter().zip(places).try_for_each(|(weight, place)| target.place(weight.grad_id(), place))
    }

    /// Takes the gradient of each parameter out; `None` where none arrived.
    pub fn take_gradients(&self, grads: &mut Gradients) -> Vec<Option<Tensor>> {
        self.0.iter().map(|weight| grads.take(weight.grad_id())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAN: [usize; 2] = [300, 200];

    fn drawn(init: Init, seed: u64) -> Vec<Vec<f32>> {
        let (fan_in, fan_out) = (FAN[0], FAN[1]);
        let mut params = Params::default();
        params.add("w".into(), Kind::Weight { fan_in, fan_out }, &FAN);
        params.add("r".into(), Kind::ResidualWeight { fan_in, fan_out }, &FAN);
        params.add("e".into(), Kind::Embedding, &FAN);
        params.add("s".into(), Kind::Scale, &[5]);
        params.add("b".into(), Kind::Bias, &[5]);
        params.initialise(InitOptions { init, std: 0.02, layers: 8, width: 256, seed }).unwrap();
        params.iter().map(|param| param.value.to_vec_f32()).collect()
    }

    #[test]
    fn every_initialisation_has_its_deviation() {
        // By hand: 2 layers = 16 and sqrt 16 = 4; 2/(300+200) and 2/300 are variances; 256^-0.5 = 1/16.
        for (init, weight, residual, table) in [
            (Init::Gpt2, 0.02, 0.005, 0.02),
            (Init::Xavier, 0.004f64.sqrt(), 0.004f64.sqrt(), 0.02),
            (Init::He, (1.0f64 / 150.0).sqrt(), (1.0f64 / 150.0).sqrt(), 0.02),
            (Init::InverseSqrtWidth, 0.0625, 0.0625, 0.0625),
        ] {
            let values = drawn(init, 7);
            for (values, want) in values.iter().zip([weight, residual, table]) {
                let n = values.len() as f64;
                let mean = values.iter().map(|x| *x as f64).sum::<f64>() / n;
                let std = (values.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / n).sqrt();
                // Standard errors of 60,000 normal draws: std / 245 of the mean, std / 346 of the deviation; 5 of them.
                assert!(mean.abs() < 5.0 * want / 245.0, "{init:?}: mean {mean}");
                assert!((std / want - 1.0).abs() < 5.0 / 346.0, "{init:?}: deviation {std}, want {want}");
            }
            assert_eq!(values[3], [1.0; 5]);
            assert_eq!(values[4], [0.0; 5]);
        }
    }

    #[test]
    fn draws_depend_on_the_seed_and_on_nothing_else() {
        let values = drawn(Init::Gpt2, 7);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(values, one.install(|| drawn(Init::Gpt2, 7)));
        assert_ne!(values[0], drawn(Init::Gpt2, 8)[0]);
        assert!(values[0] != values[2], "parameters draw from streams of their own");
    }
}
