//! The steps of one warp, with the values its instructions wrote: for learners, and for looking closely.
//!
//! A step's values are read when the warp comes to its next instruction, so tracing costs the others nothing.

use std::sync::Mutex;

use super::engine::Engine;
use super::rows::lanes_of;
use super::state::{Bases, Warp};
use crate::code::{Bank, Class};

/// Which warp to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceTarget {
    pub block: [u32; 3],
    pub warp: u32,
    /// Steps kept; later ones are not.
    pub limit: usize,
}

/// A register that an instruction wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub register: String,
    /// 1 for predicates, 32 or 64.
    pub bits: u32,
    /// By lane; those outside the step's mask keep what they had.
    pub values: [u64; 32],
}

/// An instruction that the warp issued.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub ptx_line: u32,
    /// File and line of the CUDA source, where the PTX has line information.
    pub source: Option<(String, u32)>,
    /// Lanes at the instruction, and those whose guard let them execute it.
    pub active: u32,
    pub mask: u32,
    pub writes: Vec<Write>,
}

/// What has been traced.
pub struct Trace {
    target: TraceTarget,
    steps: Vec<Step>,
    /// The last step's instruction and frame, until its values are read.
    pending: Option<(u32, Bases)>,
}

impl Trace {
    pub fn new(target: TraceTarget) -> Mutex<Trace> {
        Mutex::new(Trace { target, steps: Vec::new(), pending: None })
    }

    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

impl Engine<'_> {
    /// A warp is about to execute the instruction at `pc`.
    #[cold]
    pub(super) fn trace(
        &self,
        trace: &Mutex<Trace>,
        warp: &mut Warp,
        g: usize,
        pc: u32,
        active: u32,
        mask: u32,
    ) {
        let mut trace = trace.lock().unwrap_or_else(|e| e.into_inner());
        if self.b.index != trace.target.block || warp.index != trace.target.warp {
            return;
        }
        if let Some((before, bases)) = trace.pending.take() {
            let writes = self.written(warp, before, &bases);
            if let Some(step) = trace.steps.last_mut() {
                step.writes = writes;
            }
        }
        let info = &self.l.code.info[pc as usize];
        if info.class == Class::None || trace.steps.len() == trace.target.limit {
            return;
        }
        let step =
            Step { ptx_line: info.ptx_line, source: self.source(pc), active, mask, writes: Vec::new() };
        trace.steps.push(step);
        trace.pending = Some((pc, warp.groups[g].bases));
    }

    fn written(&self, warp: &mut Warp, pc: u32, bases: &Bases) -> Vec<Write> {
        let writes = &self.l.code.writes;
        let first = writes.partition_point(|w| w.inst < pc);
        let banks = warp.banks(bases);
        writes[first..]
            .iter()
            .take_while(|w| w.inst == pc)
            .map(|w| {
                let mut values = [0; 32];
                for lane in lanes_of(u32::MAX) {
                    let slot = w.slot as usize;
                    // SAFETY: slots of lowered code lie within the frame's banks, which only this warp accesses.
                    values[lane as usize] = unsafe {
                        match w.bank {
                            Bank::R32 => (*banks.r32.add(slot)).0[lane as usize] as u64,
                            Bank::R64 => (*banks.r64.add(slot)).0[lane as usize],
                            Bank::Pred => (*banks.preds.add(slot) >> lane & 1) as u64,
                        }
                    };
                }
                let bits = match w.bank {
                    Bank::R32 => 32,
                    Bank::R64 => 64,
                    Bank::Pred => 1,
                };
                Write { register: w.name.clone(), bits, values }
            })
            .collect()
    }
}
