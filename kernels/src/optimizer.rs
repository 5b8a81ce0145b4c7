//! What the optimizer keeps in device memory, so that a step needs nothing from the host: the table of parameters, the state and the
//! settings. The layouts are those of `optimizer.cuh`.

use crate::arena::Buffer;
use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::slice::{Slice, SliceMut};

/// Elements of a chunk at most.
const CHUNK: usize = 16384;
/// 64-bit words of a chunk in the table.
const WORDS: usize = 8;

/// One parameter and its state; all of one length, f32 except `value`.
pub struct Parameter<'a> {
    /// What the model computes with: f32, or the half-precision copy of `master`.
    pub value: SliceMut<'a>,
    /// The f32 original of a half-precision `value`.
    pub master: Option<SliceMut<'a>>,
    pub grad: Slice<'a>,
    /// First moment.
    pub m: SliceMut<'a>,
    /// Second moment.
    pub v: SliceMut<'a>,
    /// Decoupled weight decay of this parameter.
    pub weight_decay: f32,
}

/// Where a parameter's arrays are: what the table is made from.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    addresses: [u64; 5],
    len: usize,
    elem: Elem,
    weight_decay: f32,
}

impl Parameter<'_> {
    fn place(&self, op: &'static str) -> Result<Place> {
        let len = self.value.len();
        let elem = self.value.elem();
        self.grad.expect(op, "grad", Elem::F32, len)?;
        self.m.expect(op, "m", Elem::F32, len)?;
        self.v.expect(op, "v", Elem::F32, len)?;
        if let Some(master) = &self.master {
            master.expect(op, "master", Elem::F32, len)?;
        }
        let master = match (elem, &self.master) {
            (Elem::F32, None) => 0,
            (Elem::F16 | Elem::BF16, Some(master)) => master.address(),
            (Elem::F32, Some(_)) => return Err(Error::argument(op, "an f32 value is its own master".into())),
            (elem, _) => {
                let message = format!("a {} parameter needs an f32 master", elem.suffix());
                return Err(Error::argument(op, message));
            }
        };
        let addresses =
            [self.grad.address(), self.value.address(), master, self.m.address(), self.v.address()];
        Ok(Place { addresses, len, elem, weight_decay: self.weight_decay })
    }
}

impl Place {
    /// The words of the table's rows for this parameter.
    fn chunks(&self) -> impl Iterator<Item = [u64; WORDS]> + '_ {
        (0..self.len).step_by(CHUNK).map(|start| {
            let len = CHUNK.min(self.len - start);
            let value_size = self.elem.size();
            let sizes = [4, value_size, 4, 4, 4];
            let mut words = [0; WORDS];
            for ((word, address), size) in words.iter_mut().zip(self.addresses).zip(sizes) {
                *word = if address == 0 { 0 } else { address + (start * size) as u64 };
            }
            let aligned = words[..5].iter().zip(sizes).all(|(word, size)| word % (4 * size as u64) == 0);
            let dtype = match self.elem {
                Elem::F16 => 1,
                Elem::BF16 => 2,
                Elem::F32 | Elem::I32 => 0u64,
            };
            words[5] = len as u64 | (aligned as u64) << 32;
            words[6] = dtype | (self.weight_decay.to_bits() as u64) << 32;
            words
        })
    }
}

/// The parameters of a model as the optimizer's kernels find them.
#[derive(Default)]
pub struct Table {
    places: Vec<Place>,
    rows: Option<Buffer>,
    chunks: usize,
    uploads: u64,
}

impl Table {
    /// Makes the table describe these parameters. Copies to the device only when an array has moved since the last call: in a steady
    /// state never.
    ///
    /// # Errors
    /// [`Error::Argument`] when the arrays of a parameter do not belong together; out of memory.
    pub fn refresh(&mut self, gpu: &'static Gpu, parameters: &[Parameter]) -> Result<()> {
        const OP: &str = "optimizer";
        let places =
            parameters.iter().map(|parameter| parameter.place(OP)).collect::<Result<Vec<Place>>>()?;
        if places == self.places && self.uploads > 0 {
            return Ok(());
        }
        let words: Vec<u64> = places.iter().flat_map(Place::chunks).flatten().collect();
        self.chunks = words.len() / WORDS;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut rows = gpu.buffer(Elem::I32, (words.len() * 2).max(1))?;
        if !bytes.is_empty() {
            gpu.upload(rows.slice_mut(), &bytes)?;
        }
        self.rows = Some(rows);
        self.places = places;
        self.uploads += 1;
        Ok(())
    }

    /// Chunks that the kernels' grids cover.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// How often the table has been copied to the device.
    pub fn uploads(&self) -> u64 {
        self.uploads
    }

    pub(crate) fn slice(&self, op: &'static str) -> Result<Slice<'_>> {
        let rows = self.rows.as_ref();
        rows.map(Buffer::slice).ok_or_else(|| Error::argument(op, "the table has not been refreshed".into()))
    }
}

/// What changes from step to step, as the host sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    /// Steps, skipped ones included: the position in the table of learning rates.
    pub step: u32,
    /// AdamW updates: t of the bias correction.
    pub updates: u32,
    /// Steps skipped because a gradient was not finite.
    pub skipped: u32,
    /// Steps without overflow since the loss scale last changed.
    pub clean: u32,
    /// Of the last step: whether its gradients were finite and it counted.
    pub applied: bool,
    /// Of the last step: what gradients were multiplied by first, clip factor / loss scale.
    pub grad_scale: f32,
    /// Of the last step: lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
    pub step_size: f32,
    pub v_correction: f32,
    /// Of the last step: the learning rate, and the norm of the unscaled gradients.
    pub lr: f64,
    pub norm: f64,
}

impl State {
    /// 32-bit words of the state in device memory, 8-byte aligned.
    pub const WORDS: usize = 12;

    /// As it lies in device memory.
    pub fn to_words(self) -> [u32; State::WORDS] {
        let [lr, norm] = [self.lr, self.norm].map(f64::to_bits);
        [
            self.step,
            self.updates,
            self.skipped,
            self.clean,
            self.applied as u32,
            self.grad_scale.to_bits(),
            self.step_size.to_bits(),
            self.v_correction.to_bits(),
            lr as u32,
            (lr >> 32) as u32,
            norm as u32,
            (norm >> 32) as u32,
        ]
    }

    /// From what lies in device memory.
    pub fn from_words(words: [u32; State::WORDS]) -> State {
        let double = |at: usize| f64::from_bits(words[at] as u64 | (words[at + 1] as u64) << 32);
        State {
            step: words[0],
            updates: words[1],
            skipped: words[2],
            clean: words[3],
            applied: words[4] != 0,
            grad_scale: f32::from_bits(words[5]),
            step_size: f32::from_bits(words[6]),
            v_correction: f32::from_bits(words[7]),
            lr: double(8),
            norm: double(10),
        }
    }
}

/// Dynamic loss scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// Factor after `growth_interval` steps without overflow.
    pub growth: f64,
    /// Factor after an overflow.
    pub backoff: f64,
    pub growth_interval: u32,
    /// The scale never leaves floor..=ceiling.
    pub floor: f64,
    pub ceiling: f64,
}

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub betas: (f64, f64),
    pub eps: f64,
    /// Largest norm of the unscaled gradients; 0 turns clipping off.
    pub clip_norm: f64,
    pub scaling: Option<Scaling>,
}

impl Settings {
    /// f64 of the settings in device memory, 8-byte aligned.
    pub const DOUBLES: usize = 11;

    /// As they lie in device memory, for a table of `rates` learning rates.
    pub fn to_doubles(self, rates: usize) -> [f64; Settings::DOUBLES] {
        let scaling = self.scaling;
        let of = |part: fn(Scaling) -> f64| scaling.map_or(0.0, part);
        [
            self.betas.0,
            self.betas.1,
            self.eps,
            self.clip_norm,
            scaling.is_some() as u32 as f64,
            of(|s| s.growth),
            of(|s| s.backoff),
            of(|s| s.growth_interval as f64),
            of(|s| s.floor),
            of(|s| s.ceiling),
            rates as f64,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_the_way_to_the_device_and_back() {
        let state = State {
            step: 1,
            updates: 2,
            skipped: 3,
            clean: 4,
            applied: true,
            grad_scale: 5.5,
            step_size: 6.5,
            v_correction: 7.5,
            lr: 1e-300,
            norm: f64::INFINITY,
        };
        assert_eq!(State::from_words(state.to_words()), state);
    }

    #[test]
    fn a_parameter_is_cut_into_chunks_with_their_own_addresses() {
        let place =
            Place { addresses: [256, 4096, 0, 512, 768], len: CHUNK + 3, elem: Elem::F32, weight_decay: 0.5 };
        let rows: Vec<[u64; WORDS]> = place.chunks().collect();
        let (aligned, decay) = (1u64 << 32, (0.5f32.to_bits() as u64) << 32);
        assert_eq!(rows[0], [256, 4096, 0, 512, 768, CHUNK as u64 | aligned, decay, 0]);
        assert_eq!(rows[1], [256 + 65536, 4096 + 65536, 0, 512 + 65536, 768 + 65536, 3 | aligned, decay, 0]);
        let half = Place { elem: Elem::BF16, addresses: [256, 4096 + 2, 64, 512, 768], ..place };
        let words = half.chunks().next().expect("a chunk");
        assert_eq!((words[5] >> 32, words[6] as u32), (0, 2), "bf16, and not aligned");
    }
}
