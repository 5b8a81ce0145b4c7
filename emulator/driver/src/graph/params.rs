//! Parameters of nodes as C passes them, and reading and changing those of a graph's nodes.

use std::ffi::c_void;

use super::*;
use crate::copy::Memcpy3;
use crate::ffi::{In, Out};
use crate::fills::Fill;
use crate::launch::{Launch, Shape};
use crate::ops::HostCall;

/// CUDA_KERNEL_NODE_PARAMS_v1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: In<usize>,
    extra: In<usize>,
}

/// CUDA_KERNEL_NODE_PARAMS_v2, and _v3: a kernel instead of a function, and a context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelParams2 {
    v1: KernelParams,
    kernel: usize,
    context: usize,
}

impl KernelParams {
    /// `old` is the launch that these parameters change: what they do not say stays.
    pub fn op(&self, s: &State, old: Option<&Launch>) -> Result<Op, Code> {
        let shape = Shape {
            grid: self.grid,
            block: self.block,
            cluster: old.map_or([1; 3], |l| l.shape.cluster),
            shared: self.shared,
            cooperative: old.is_some_and(|l| l.shape.cooperative),
        };
        Ok(Op::Launch(Launch::new(s, self.function as Handle, shape, self.params, self.extra)?))
    }

    fn of(launch: &Launch, params: usize) -> KernelParams {
        KernelParams {
            function: launch.function,
            grid: launch.shape.grid,
            block: launch.shape.block,
            shared: launch.shape.shared,
            params: In::at(params),
            extra: In::NULL,
        }
    }
}

impl KernelParams2 {
    pub fn op(&self, s: &State, old: Option<&Launch>) -> Result<Op, Code> {
        let function = if self.v1.function != 0 { self.v1.function } else { self.kernel };
        KernelParams { function, ..self.v1 }.op(s, old)
    }
}

/// CUDA_MEMSET_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemsetParams {
    address: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

impl MemsetParams {
    pub fn fill(&self) -> Fill {
        let MemsetParams { address, pitch, value, element, width, height } = *self;
        Fill { address, pitch, value, element: element as usize, width, height }
    }

    fn of(fill: &Fill) -> MemsetParams {
        let Fill { address, pitch, value, element, width, height } = *fill;
        MemsetParams { address, pitch, value, element: element as u32, width, height }
    }
}

/// CUDA_HOST_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostParams {
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: usize,
}

impl HostParams {
    pub fn op(&self) -> Result<Op, Code> {
        let function = self.function.ok_or(ERROR_INVALID_VALUE)?;
        Ok(Op::Host(HostCall { function, data: self.data }))
    }
}

/// CUDA_MEM_ALLOC_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AllocParams {
    pool: [u64; 11],
    access: usize,
    access_count: usize,
    pub bytes: usize,
    pub address: u64,
}

/// CUDA_MEMCPY_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemcpyParams {
    flags: i32,
    reserved: i32,
    context: usize,
    copy: Memcpy3,
}

/// CUgraphNodeParams: the kind, then the parameters of that kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NodeParams {
    pub kind: i32,
    reserved: [i32; 3],
    body: [u64; 29],
    reserved2: u64,
}

impl Out<NodeParams> {
    /// The parameters behind the kind.
    pub fn body<T>(self) -> Out<T> {
        Out::at(self.address() + std::mem::offset_of!(NodeParams, body))
    }
}

/// The operation that parameters of any kind describe, for kinds that may change.
pub fn node_op(s: &State, params: Out<NodeParams>, old: Option<&Op>) -> Result<Op, Code> {
    let launch = match old {
        Some(Op::Launch(launch)) => Some(launch),
        _ => None,
    };
    match params.get()?.kind {
        0 => params.body::<KernelParams2>().get()?.op(s, launch),
        1 => Ok(Op::Copy(params.body::<MemcpyParams>().get()?.copy.copy(s)?)),
        2 => Ok(Op::Fill(params.body::<MemsetParams>().get()?.fill())),
        3 => params.body::<HostParams>().get()?.op(),
        5 => Ok(Op::Empty),
        6 => Ok(Op::Wait(params.body::<usize>().get()?)),
        7 => Ok(Op::Record(params.body::<usize>().get()?)),
        kind => {
            say_once("node kind", &format!("graph nodes of type {kind} are not supported"));
            Err(ERROR_NOT_SUPPORTED)
        }
    }
}

/// What is in a node, or the error for a node of another kind.
fn read<T>(node: Handle, part: impl FnOnce(&State, &Op) -> Option<T>) -> Result<T, Code> {
    let s = working()?;
    part(&s, &s.node(node)?.op).ok_or(ERROR_INVALID_VALUE)
}

/// Changes a node to an operation of the same kind.
fn change(node: Handle, op: impl FnOnce(&State, &Op) -> Result<Op, Code>) -> Code {
    code(working().and_then(|mut s| {
        let old = &s.node(node)?.op;
        let new = op(&s, old)?;
        if new.node_type() != old.node_type() {
            return Err(ERROR_INVALID_VALUE);
        }
        new.check(&s)?;
        s.node_mut(node)?.op = new;
        Ok(())
    }))
}

pub fn launch_of(op: &Op) -> Option<&Launch> {
    match op {
        Op::Launch(launch) => Some(launch),
        _ => None,
    }
}

/// The pointers to parameters stay valid until the node changes.
fn kernel_params(node: Handle) -> Result<KernelParams, Code> {
    let mut s = working()?;
    let launch = launch_of(&s.node(node)?.op).ok_or(ERROR_INVALID_VALUE)?;
    let (kernel, ..) = s.kernel(launch.function as Handle)?;
    let start = launch.params.as_ptr() as usize;
    let pointers: Box<[usize]> = kernel.params.iter().map(|p| start + p.offset as usize).collect();
    let params = KernelParams::of(launch, pointers.as_ptr() as usize);
    s.node_pointers.insert(node as usize, pointers);
    Ok(params)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeGetParams(node: Handle, out: Out<KernelParams>) -> Code {
    code(kernel_params(node).and_then(|p| out.put(p)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeGetParams_v2(node: Handle, out: Out<KernelParams2>) -> Code {
    code(kernel_params(node).and_then(|v1| out.put(KernelParams2 { v1, kernel: 0, context: current() })))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelParams>) -> Code {
    change(node, |s, old| params.get()?.op(s, launch_of(old)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelParams2>) -> Code {
    change(node, |s, old| params.get()?.op(s, launch_of(old)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphMemcpyNodeGetParams(node: Handle, out: Out<Memcpy3>) -> Code {
    let copy = read(node, |_, op| match op {
        Op::Copy(copy) => Some(Memcpy3::of(copy)),
        _ => None,
    });
    code(copy.and_then(|c| out.put(c)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphMemcpyNodeSetParams(node: Handle, params: In<Memcpy3>) -> Code {
    change(node, |s, _| Ok(Op::Copy(params.get()?.copy(s)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphMemsetNodeGetParams(node: Handle, out: Out<MemsetParams>) -> Code {
    let fill = read(node, |_, op| match op {
        Op::Fill(fill) => Some(MemsetParams::of(fill)),
        _ => None,
    });
    code(fill.and_then(|f| out.put(f)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphMemsetNodeSetParams(node: Handle, params: In<MemsetParams>) -> Code {
    change(node, |_, _| Ok(Op::Fill(params.get()?.fill())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphHostNodeGetParams(node: Handle, out: Out<HostParams>) -> Code {
    let host = read(node, |_, op| match op {
        Op::Host(call) => Some(HostParams { function: Some(call.function), data: call.data }),
        _ => None,
    });
    code(host.and_then(|h| out.put(h)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphHostNodeSetParams(node: Handle, params: In<HostParams>) -> Code {
    change(node, |_, _| params.get()?.op())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphEventRecordNodeGetEvent(node: Handle, out: Out<usize>) -> Code {
    let event = read(node, |_, op| match op {
        Op::Record(event) => Some(*event),
        _ => None,
    });
    code(event.and_then(|e| out.put(e)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) -> Code {
    change(node, |_, _| Ok(Op::Record(event as usize)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphEventWaitNodeGetEvent(node: Handle, out: Out<usize>) -> Code {
    let event = read(node, |_, op| match op {
        Op::Wait(event) => Some(*event),
        _ => None,
    });
    code(event.and_then(|e| out.put(e)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) -> Code {
    change(node, |_, _| Ok(Op::Wait(event as usize)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphChildGraphNodeGetGraph(node: Handle, out: Out<usize>) -> Code {
    let child = read(node, |_, op| match op {
        Op::Child(child) => Some(*child),
        _ => None,
    });
    code(child.and_then(|c| out.put(c)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphMemAllocNodeGetParams(node: Handle, out: Out<AllocParams>) -> Code {
    let made = read(node, |_, op| match op {
        Op::Allocate(a) => Some(*a),
        _ => None,
    });
    code(made.and_then(|a| {
        // Pinned memory of device 0: allocation type 1, location type 1.
        let mut pool = [0; 11];
        (pool[0], pool[1]) = (1, 1);
        let (bytes, address) = (a.bytes as usize, a.address);
        out.put(AllocParams { pool, access: 0, access_count: 0, bytes, address })
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphMemFreeNodeGetParams(node: Handle, out: Out<u64>) -> Code {
    let address = read(node, |_, op| match op {
        Op::Free(address) => Some(*address),
        _ => None,
    });
    code(address.and_then(|a| out.put(a)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeSetParams(node: Handle, params: Out<NodeParams>) -> Code {
    change(node, |s, old| node_op(s, params, Some(old)))
}
