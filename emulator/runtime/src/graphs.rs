//! Graphs that programs build node by node, and copies in three dimensions: the runtime's structures, translated to the
//! driver's.

use std::ffi::{c_int, c_uint, c_void};

use crate::device;
use crate::driver::{self, Code, INVALID_VALUE};
use crate::errors::done;
use crate::launch::Dim3;
use crate::registry::function;

/// cudaKernelNodeParams.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNode {
    stub: *const c_void,
    grid: Dim3,
    block: Dim3,
    shared: c_uint,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

/// CUDA_KERNEL_NODE_PARAMS_v2.
#[repr(C)]
struct DriverKernelNode {
    function: usize,
    grid: Dim3,
    block: Dim3,
    shared: c_uint,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: usize,
    context: usize,
}

/// # Safety
/// A pointer to a node's parameters, or null.
unsafe fn kernel_node(node: *const KernelNode) -> Result<DriverKernelNode, Code> {
    // SAFETY: the caller's promise.
    let &KernelNode { stub, grid, block, shared, params, extra } =
        unsafe { node.as_ref() }.ok_or(INVALID_VALUE)?;
    let function = function(stub)?;
    Ok(DriverKernelNode { function, grid, block, shared, params, extra, kernel: 0, context: 0 })
}

/// # Safety
/// Pointers as the API asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphAddKernelNode(
    out: *mut usize,
    graph: usize,
    after: *const usize,
    count: usize,
    node: *const KernelNode,
) -> Code {
    // SAFETY: the caller's promise.
    done(match unsafe { kernel_node(node) } {
        // SAFETY: the caller's promise.
        Ok(p) => unsafe { driver::cuGraphAddKernelNode_v2(out, graph, after, count, (&raw const p).cast()) },
        Err(code) => code,
    })
}

/// # Safety
/// Pointers as the API asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphExecKernelNodeSetParams(
    exec: usize,
    node: usize,
    to: *const KernelNode,
) -> Code {
    // SAFETY: the caller's promise.
    done(match unsafe { kernel_node(to) } {
        // SAFETY: the caller's promise.
        Ok(p) => unsafe { driver::cuGraphExecKernelNodeSetParams_v2(exec, node, (&raw const p).cast()) },
        Err(code) => code,
    })
}

/// One end of CUDA_MEMCPY3D, at an address of either side.
#[repr(C)]
#[derive(Clone, Copy)]
struct Side {
    position: [usize; 3],
    lod: usize,
    memory: c_uint,
    host: usize,
    address: u64,
    array: usize,
    reserved: usize,
    pitch: usize,
    height: usize,
}

/// CUDA_MEMCPY3D.
#[repr(C)]
struct Copy3 {
    from: Side,
    to: Side,
    extent: [usize; 3],
}

/// cudaPitchedPtr: bytes of a row, and its length and the number of rows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pitched {
    address: u64,
    pitch: usize,
    width: usize,
    height: usize,
}

/// One end of cudaMemcpy3DParms.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct End {
    array: usize,
    position: [usize; 3],
    pointer: Pitched,
}

/// cudaMemcpy3DParms.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parameters3 {
    from: End,
    to: End,
    extent: [usize; 3],
    kind: c_int,
}

const UNIFIED: c_uint = 4;

fn side(address: u64, pitch: usize, height: usize, position: [usize; 3]) -> Side {
    Side { position, lod: 0, memory: UNIFIED, host: 0, address, array: 0, reserved: 0, pitch, height }
}

/// # Safety
/// A pointer to the parameters, or null.
unsafe fn copy3(p: *const Parameters3) -> Result<Copy3, Code> {
    device::ready()?;
    // SAFETY: the caller's promise.
    let p = unsafe { p.as_ref() }.ok_or(INVALID_VALUE)?;
    if p.from.array != 0 || p.to.array != 0 {
        const NOT_SUPPORTED: Code = 801;
        return Err(NOT_SUPPORTED);
    }
    let end = |e: &End| side(e.pointer.address, e.pointer.pitch, e.pointer.height, e.position);
    Ok(Copy3 { from: end(&p.from), to: end(&p.to), extent: p.extent })
}

/// # Safety
/// The ranges that the parameters describe are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpy3D(p: *const Parameters3) -> Code {
    // SAFETY: the caller's promise.
    done(match unsafe { copy3(p) } {
        // SAFETY: the caller's promise.
        Ok(copy) => unsafe { driver::cuMemcpy3D_v2((&raw const copy).cast()) },
        Err(code) => code,
    })
}

/// # Safety
/// As [`cudaMemcpy3D`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpy3DAsync(p: *const Parameters3, stream: usize) -> Code {
    // SAFETY: the caller's promise.
    done(match unsafe { copy3(p) } {
        // SAFETY: the caller's promise.
        Ok(copy) => unsafe { driver::cuMemcpy3DAsync_v2((&raw const copy).cast(), stream) },
        Err(code) => code,
    })
}

fn context() -> usize {
    let mut context = 0;
    // SAFETY: a pointer to one result; without a driver it stays 0.
    unsafe { driver::cuCtxGetCurrent(&mut context) };
    context
}

/// # Safety
/// Pointers as the API asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphAddMemcpyNode(
    out: *mut usize,
    graph: usize,
    after: *const usize,
    count: usize,
    p: *const Parameters3,
) -> Code {
    // SAFETY: the caller's promise.
    done(match unsafe { copy3(p) } {
        // SAFETY: the caller's promise.
        Ok(copy) => unsafe {
            driver::cuGraphAddMemcpyNode(out, graph, after, count, (&raw const copy).cast(), context())
        },
        Err(code) => code,
    })
}

/// # Safety
/// As [`cudaGraphAddMemcpyNode`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphAddMemcpyNode1D(
    out: *mut usize,
    graph: usize,
    after: *const usize,
    count: usize,
    to: u64,
    from: u64,
    bytes: usize,
    _kind: c_int,
) -> Code {
    let line = |address| side(address, bytes, 1, [0; 3]);
    let copy = Copy3 { from: line(from), to: line(to), extent: [bytes, 1, 1] };
    done(match device::ready() {
        // SAFETY: the caller's promise.
        Ok(()) => unsafe {
            driver::cuGraphAddMemcpyNode(out, graph, after, count, (&raw const copy).cast(), context())
        },
        Err(code) => code,
    })
}

/// cudaMemsetParams is CUDA_MEMSET_NODE_PARAMS.
///
/// # Safety
/// Pointers as the API asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphAddMemsetNode(
    out: *mut usize,
    graph: usize,
    after: *const usize,
    count: usize,
    params: *const c_void,
) -> Code {
    done(match device::ready() {
        // SAFETY: the caller's promise.
        Ok(()) => unsafe { driver::cuGraphAddMemsetNode(out, graph, after, count, params, context()) },
        Err(code) => code,
    })
}
