//! What a stream, or a node of a graph, can be asked to do; and doing it. Work is done when it is submitted, unless the
//! stream is being captured: then it becomes a node.

use std::ffi::c_void;
use std::sync::MutexGuard;
use std::time::Instant;

use crate::copy::Copy3;
use crate::errors::*;
use crate::fills::Fill;
use crate::launch::Launch;
use crate::state::*;

/// A function of the host, to be called with `data`.
#[derive(Clone, Copy)]
pub struct HostCall {
    pub function: unsafe extern "C" fn(*mut c_void),
    pub data: usize,
}

/// An allocation made by a node, at an address that is known when the node is made.
#[derive(Clone, Copy)]
pub struct GraphAllocation {
    pub address: u64,
    pub bytes: u64,
}

#[derive(Clone)]
pub enum Op {
    Launch(Launch),
    Copy(Copy3),
    Fill(Fill),
    Host(HostCall),
    Empty,
    /// An event, by its handle.
    Record(usize),
    Wait(usize),
    Allocate(GraphAllocation),
    Free(u64),
    /// A graph inside a graph, by its handle.
    Child(usize),
}

impl Op {
    /// CUgraphNodeType.
    pub fn node_type(&self) -> i32 {
        match self {
            Op::Launch(_) => 0,
            Op::Copy(_) => 1,
            Op::Fill(_) => 2,
            Op::Host(_) => 3,
            Op::Child(_) => 4,
            Op::Empty => 5,
            Op::Wait(_) => 6,
            Op::Record(_) => 7,
            Op::Allocate(_) => 10,
            Op::Free(_) => 11,
        }
    }

    /// A word for people.
    pub fn name(&self, s: &State) -> String {
        match self {
            Op::Launch(l) => match s.kernel(l.function as Handle) {
                Ok((kernel, ..)) => format!("kernel {}", kernel.name),
                Err(_) => "kernel".to_string(),
            },
            Op::Copy(_) => "memcpy".to_string(),
            Op::Fill(_) => "memset".to_string(),
            Op::Host(_) => "host function".to_string(),
            Op::Child(_) => "child graph".to_string(),
            Op::Empty => "empty".to_string(),
            Op::Wait(_) => "event wait".to_string(),
            Op::Record(_) => "event record".to_string(),
            Op::Allocate(_) => "memory allocation".to_string(),
            Op::Free(_) => "memory free".to_string(),
        }
    }

    /// What can be wrong before it runs, as far as the API looks.
    pub fn check(&self, s: &State) -> Result<(), Code> {
        match self {
            Op::Launch(launch) => launch.check(s),
            Op::Copy(copy) => copy.check(s),
            Op::Fill(fill) => fill.check(s),
            Op::Record(event) | Op::Wait(event) if !s.events.contains_key(event) => Err(ERROR_INVALID_HANDLE),
            Op::Child(graph) if !s.graphs.contains_key(graph) => Err(ERROR_INVALID_HANDLE),
            _ => Ok(()),
        }
    }

    fn run_on(&self, s: &mut State) -> Result<(), Code> {
        match self {
            Op::Launch(launch) => launch.run(s),
            Op::Copy(copy) => copy.run(s),
            Op::Fill(fill) => fill.run(s),
            Op::Record(event) => {
                let event = s.events.get_mut(event).ok_or(ERROR_INVALID_HANDLE)?;
                (event.recorded, event.captured) = (Some(Instant::now()), None);
                Ok(())
            }
            Op::Allocate(a) => s
                .device
                .memory_mut()
                .allocate_at(a.address, a.bytes, "allocation of a graph")
                .map_err(|e| refuse(ERROR_INVALID_VALUE, e)),
            Op::Free(address) => s.free(*address),
            // Work before it is done; a child is run node by node; a host function is called without the lock.
            Op::Wait(_) | Op::Empty | Op::Child(_) | Op::Host(_) => Ok(()),
        }
    }
}

/// Does it now. The state is not locked while a function of the host runs, which may call the driver.
pub fn run(op: &Op) -> Result<(), Code> {
    let mut s = working()?;
    if let Op::Host(call) = op {
        drop(s);
        // SAFETY: a function that takes `data`, by the API's contract.
        unsafe { (call.function)(call.data as *mut c_void) };
        return Ok(());
    }
    op.run_on(&mut s)
}

/// Gives an operation to a stream: done at once, or captured.
pub fn submit(mut s: MutexGuard<State>, stream: Handle, op: Op) -> Result<(), Code> {
    let key = s.stream(stream)?;
    if s.capturing(key)?.is_some() {
        let checked = op.check(&s);
        return match checked {
            Ok(()) => s.capture(key, op).map(|_| ()),
            Err(code) => Err(s.spoil(key, code)),
        };
    }
    s.legacy_is_free(key)?;
    op.check(&s)?;
    drop(s);
    run(&op)
}

/// Does an operation that the caller waits for.
pub fn run_and_wait(op: Op) -> Result<(), Code> {
    let mut s = working()?;
    s.may_wait()?;
    op.check(&s)?;
    op.run_on(&mut s)
}
