//! Reverse-mode differentiation: a tape of backward closures, one tape per step.
//!
//! An op computes its output, then calls [`record`] with a closure that holds exactly what its backward needs. Going
//! backwards, [`Tape::backward`] takes each closure off the tape and calls it once; what it held is freed when it
//! returns, so a buffer lives no longer than its last use. The first gradient that reaches a tensor is stored, later
//! ones are added in place.
//!
//! Griewank and Walther, "Evaluating Derivatives", 2nd ed., chapters 3 (reverse mode) and 12 (checkpointing).

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::add_in_place;
use crate::profile::{Pass, scope};
use crate::tensor::Tensor;

type Backward = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()> + Send>;

/// The op name of a tensor to differentiate by.
const LEAF: &str = "leaf";

struct Node {
    op: &'static str,
    shape: Vec<usize>,
    grad_dtype: DType,
    device: Device,
    /// None for a leaf, and once the closure has run.
    backward: Option<Backward>,
}

struct Inner {
    nodes: Vec<Node>,
    recording: bool,
}

/// A tensor's place on a tape. It does not keep the tape alive: the closures on the tape hold tensors.
#[derive(Clone)]
pub struct Var {
    tape: Weak<Mutex<Inner>>,
    id: usize,
}

/// Names the gradient of one tensor; `None` stands for a tensor that needs none.
pub type GradId = Option<usize>;

/// The record of one forward pass.
#[derive(Clone)]
pub struct Tape(Arc<Mutex<Inner>>);

/// Gradients under way: one slot per tensor on the tape.
pub struct Gradients {
    tape: Tape,
    slots: Vec<Option<Tensor>>,
    /// Memory that awaits the first gradient of a tensor, by id.
    places: Vec<Option<Tensor>>,
}

impl Default for Tape {
    fn default() -> Self {
        Tape::new()
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Tape {
    pub fn new() -> Self {
        Tape(Arc::new(Mutex::new(Inner { nodes: Vec::new(), recording: true })))
    }

    fn push(
        &self,
        op: &'static str,
        value: &Tensor,
        grad_dtype: DType,
        backward: Option<Backward>,
    ) -> Tensor {
        let mut inner = lock(&self.0);
        inner.nodes.push(Node {
            op,
            shape: value.shape().to_vec(),
            grad_dtype,
            device: value.device(),
            backward,
        });
        let var = Var { tape: Arc::downgrade(&self.0), id: inner.nodes.len() - 1 };
        let mut value = value.clone();
        value.var = Some(var);
        value
    }

    /// The same values as something to differentiate by. Its gradient is accumulated in `grad_dtype`: f32 for
    /// parameters in every precision, the tensor's own dtype for activations.
    pub fn leaf(&self, value: &Tensor, grad_dtype: DType) -> Tensor {
        self.push(LEAF, value, grad_dtype, None)
    }

    /// Number of recorded tensors.
    pub fn len(&self) -> usize {
        lock(&self.0).nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn set_recording(&self, on: bool) -> bool {
        std::mem::replace(&mut lock(&self.0).recording, on)
    }

    /// An empty set of gradients for this tape; [`Gradients::set`] puts in gradients to be added to.
    pub fn gradients(&self) -> Gradients {
        Gradients { tape: self.clone(), slots: Vec::new(), places: Vec::new() }
    }

    /// Runs the tape backwards from `output` with the upstream gradient `dout`, adding to `grads`. Afterwards `grads`
    /// holds the gradients of the leaves, and the tape's closures are gone.
    ///
    /// # Errors
    /// [`Error::Tape`] when `output` is not on this tape, `dout` has another shape, or a gradient reaches an op whose
    /// backward has run already; whatever an op's backward reports.
    pub fn backward(&self, output: &Tensor, dout: Tensor, grads: &mut Gradients) -> Result<()> {
        let id = match &output.var {
            Some(var) if Weak::ptr_eq(&var.tape, &Arc::downgrade(&self.0)) => var.id,
            _ => {
                return Err(Error::Tape(format!(
                    "backward from a tensor {:?} that this tape has not recorded; nothing it depends on is a leaf",
                    output.shape()
                )));
            }
        };
        if dout.shape() != output.shape() {
            return Err(Error::Tape(format!(
                "upstream gradient has shape {:?}, the output {:?}",
                dout.shape(),
                output.shape()
            )));
        }
        grads.add(Some(id), dout)?;
        self.run(grads, id, 0)
    }

    fn run(&self, grads: &mut Gradients, last: usize, first: usize) -> Result<()> {
        let was_recording = self.set_recording(false);
        let result = (first..=last).rev().try_for_each(|id| {
            let (op, backward) = {
                let node = &mut lock(&self.0).nodes[id];
                (node.op, node.backward.take())
            };
            let Some(backward) = backward else {
                return match grads.slots.get(id) {
                    Some(Some(_)) if op != LEAF => Err(Error::Tape(format!(
                        "the backward of {op} has run already and freed what it held; run forward again, \
                         or add the losses and run backward once"
                    ))),
                    _ => Ok(()),
                };
            };
            match grads.take(Some(id)) {
                Some(dout) => {
                    let _time = scope(op, Pass::Backward);
                    backward(dout, grads)
                }
                None => Ok(()), // nothing downstream of it reached the output
            }
        });
        self.set_recording(was_recording);
        result
    }

    /// Runs `f(x)` without recording what happens inside, and again, recorded, when its gradient is needed: memory
    /// for one more forward pass (activation checkpointing; Chen et al. 2016, arXiv:1604.06174). The gradients are
    /// the same bits as without, since every op is deterministic and random draws are functions of their place.
    pub fn checkpoint<F>(&self, x: &Tensor, f: F) -> Result<Tensor>
    where
        F: Fn(&Tensor) -> Result<Tensor> + Send + 'static,
    {
        let was_recording = self.set_recording(false);
        let result = f(&x.detach());
        self.set_recording(was_recording);
        let output = result?;
        if !was_recording {
            return Ok(output);
        }
        let (input, input_id) = (x.detach(), x.grad_id());
        let grad_dtype = output.dtype();
        let backward: Backward = Box::new(move |dout, grads| {
            let tape = grads.tape.clone();
            let first = tape.len();
            let x = tape.leaf(&input, input.dtype());
            tape.set_recording(true);
            let result = f(&x);
            tape.set_recording(false);
            let output = result?;
            grads.add(output.grad_id(), dout)?;
            tape.run(grads, tape.len() - 1, first)?;
            if let Some(dx) = grads.take(x.grad_id()) {
                grads.add(input_id, dx)?;
            }
            lock(&tape.0).nodes.truncate(first);
            grads.slots.truncate(first);
            Ok(())
        });
        Ok(self.push("checkpoint", &output, grad_dtype, Some(backward)))
    }
}

impl Tensor {
    /// Where this tensor's gradient goes, for use inside a backward closure.
    pub fn grad_id(&self) -> GradId {
        self.var.as_ref().map(|var| var.id)
    }
}

/// The tape that follows one of the inputs and is recording.
fn recording_tape(inputs: &[&Tensor]) -> Option<Tape> {
    let tape = inputs.iter().find_map(|x| x.var.as_ref().and_then(|var| var.tape.upgrade()))?;
    let recording = lock(&tape).recording;
    recording.then_some(Tape(tape))
}

/// Whether a tape follows one of the inputs, so that what backward reads has to be kept.
pub(crate) fn is_recording(inputs: &[&Tensor]) -> bool {
    recording_tape(inputs).is_some()
}

/// Puts `output` of `op` on the tape that follows its inputs. Without one, the closure is dropped and `output` returned
/// as it is.
///
/// The closure gets the output's gradient, and passes gradients on through [`Gradients::add`] or [`Gradients::write`]
/// to the ids its inputs had ([`Tensor::grad_id`]).
pub fn record<F>(op: &'static str, inputs: &[&Tensor], output: Tensor, backward: F) -> Tensor
where
    F: FnOnce(Tensor, &mut Gradients) -> Result<()> + Send + 'static,
{
    match recording_tape(inputs) {
        Some(tape) => tape.push(op, &output, output.dtype(), Some(Box::new(backward))),
        None => output.detach(),
    }
}

/// The guard of an op that has no backward.
///
/// # Errors
/// [`Error::NoBackward`] when a tape follows one of the inputs.
pub fn no_backward(op: &'static str, inputs: &[&Tensor]) -> Result<()> {
    match recording_tape(inputs) {
        Some(_) => Err(Error::NoBackward { op }),
        None => Ok(()),
    }
}

impl Gradients {
    fn slot(&mut self, id: usize) -> &mut Option<Tensor> {
        if id >= self.slots.len() {
            self.slots.resize(id + 1, None);
        }
        &mut self.slots[id]
    }

    /// Takes out the gradient of a tensor; `None` when none reached it.
    pub fn take(&mut self, id: GradId) -> Option<Tensor> {
        self.slot(id?).take()
    }

    /// Puts in a gradient that later ones are added to (gradient accumulation over micro-batches).
    pub fn set(&mut self, id: GradId, grad: Tensor) {
        if let Some(id) = id {
            *self.slot(id) = Some(grad);
        }
    }

    /// Names the memory that a tensor's first gradient is written to, whatever it holds: gradients then have the same addresses in
    /// every step, which a captured graph needs.
    ///
    /// # Errors
    /// [`Error::Tape`] when it does not fit the tensor.
    pub fn place(&mut self, id: GradId, memory: Tensor) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        let node = &lock(&self.tape.0).nodes[id];
        if node.shape != memory.shape() || node.grad_dtype != memory.dtype() || node.device != memory.device()
        {
            return Err(Error::Tape(format!(
                "{memory:?} is no place for a gradient {:?} of {} on {}",
                node.shape, node.grad_dtype, node.device
            )));
        }
        if id >= self.places.len() {
            self.places.resize(id + 1, None);
        }
        self.places[id] = Some(memory);
        Ok(())
    }

    fn take_place(&mut self, id: usize) -> Option<Tensor> {
        self.places.get_mut(id)?.take()
    }

    /// Adds a finished gradient. The first one is kept without a copy, unless it has a place.
    pub fn add(&mut self, id: GradId, grad: Tensor) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        match self.slot(id).take() {
            None => {
                let wanted = lock(&self.tape.0).nodes[id].grad_dtype;
                let grad = if grad.dtype() == wanted { grad } else { crate::ops::cast::cast(&grad, wanted)? };
                let grad = match self.take_place(id) {
                    Some(mut place) => {
                        place.assign(&grad.to_contiguous()?)?;
                        place
                    }
                    None => grad,
                };
                *self.slot(id) = Some(grad);
            }
            Some(mut sum) => {
                add_in_place(&mut sum, &grad)?;
                *self.slot(id) = Some(sum);
            }
        }
        Ok(())
    }

    /// Lets `f` write a gradient where it belongs: `f(buffer, accumulate)` overwrites the buffer when `accumulate` is
    /// false and adds to it when it is true. Not called when the tensor needs no gradient.
    pub fn write<F>(&mut self, id: GradId, f: F) -> Result<()>
    where
        F: FnOnce(&mut Tensor, bool) -> Result<()>,
    {
        let Some((mut buffer, accumulate)) = self.begin(id)? else { return Ok(()) };
        f(&mut buffer, accumulate)?;
        self.finish(id, buffer)
    }

    /// Takes out the buffer that a gradient is written to and whether it is added to, for ops that write several gradients at once;
    /// [`Gradients::finish`] puts it back. `None` when the tensor needs no gradient.
    pub(crate) fn begin(&mut self, id: GradId) -> Result<Option<(Tensor, bool)>> {
        let Some(id) = id else { return Ok(None) };
        if let Some(sum) = self.slot(id).take() {
            return Ok(Some((sum, true)));
        }
        if let Some(place) = self.take_place(id) {
            return Ok(Some((place, false)));
        }
        let inner = lock(&self.tape.0);
        let node = &inner.nodes[id];
        Ok(Some((Tensor::empty(&node.shape, node.grad_dtype, node.device)?, false)))
    }

    /// Puts back what [`Gradients::begin`] took out. Two inputs of an op may be one tensor: then both gradients count.
    pub(crate) fn finish(&mut self, id: GradId, buffer: Tensor) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        match self.slot(id).take() {
            None => *self.slot(id) = Some(buffer),
            Some(mut sum) => {
                add_in_place(&mut sum, &buffer)?;
                *self.slot(id) = Some(sum);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tape {
    /// The recorded ops in order, for looking at what a forward pass did.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = lock(&self.0);
        f.debug_list().entries(inner.nodes.iter().map(|node| (node.op, &node.shape))).finish()
    }
}
