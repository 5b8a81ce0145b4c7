//! Executable graphs: instantiating, changing, launching.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::Arc;

use super::params::*;
use super::*;
use crate::copy::Memcpy3;
use crate::ffi::{In, Out};
use crate::ops::{run, submit};

/// CUgraphInstantiate_flags: memory of an earlier launch is given back by the next; and all there are.
const AUTO_FREE: u64 = 1;
const ALL_FLAGS: u64 = 15;

struct ExecNode {
    /// The node of the graph it came from, by which callers name it.
    id: usize,
    op: Arc<Op>,
    /// Positions of the nodes before it.
    after: Vec<usize>,
    enabled: bool,
}

/// A graph ready to run: its nodes in order, those of inner graphs in their place.
pub struct Exec {
    nodes: Vec<ExecNode>,
    flags: u64,
}

/// Appends the nodes of a graph; the first of them come after position `parent`.
fn flatten(s: &State, graph: &Graph, parent: Option<usize>, out: &mut Vec<ExecNode>) -> Result<(), Code> {
    let mut position = HashMap::new();
    for i in graph.order()? {
        let node = &graph.nodes[i];
        node.op.check(s)?;
        let mut after: Vec<usize> = node.after.iter().map(|a| position[a]).collect();
        after.sort_unstable();
        if after.is_empty() {
            after.extend(parent);
        }
        let at = out.len();
        position.insert(node.id, at);
        out.push(ExecNode { id: node.id, op: Arc::new(node.op.clone()), after, enabled: true });
        if let Op::Child(child) = node.op {
            flatten(s, s.graphs.get(&child).ok_or(ERROR_INVALID_HANDLE)?, Some(at), out)?;
        }
    }
    Ok(())
}

fn instantiate(out: Out<usize>, graph: Handle, flags: u64) -> Result<(), Code> {
    let mut s = working()?;
    out.required()?;
    if flags & !ALL_FLAGS != 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    if flags & 4 != 0 {
        say_once("device launch", "graphs launched from the device are not supported");
        return Err(ERROR_NOT_SUPPORTED);
    }
    let mut nodes = Vec::new();
    flatten(&s, s.graph(graph)?, None, &mut nodes)?;
    let handle = s.new_handle();
    s.execs.insert(handle, Exec { nodes, flags });
    out.put(handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(out: Out<usize>, graph: Handle, flags: u64) -> Code {
    code(instantiate(out, graph, flags))
}

/// The oldest form: an error node and a log instead of flags.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiate_v2(
    out: Out<usize>,
    graph: Handle,
    error_node: Out<usize>,
    log: Out<c_char>,
    log_size: usize,
) -> Code {
    error_node.put_if_wanted(0);
    if !log.is_null() && log_size > 0 {
        log.put_if_wanted(0);
    }
    code(instantiate(out, graph, 0))
}

/// CUDA_GRAPH_INSTANTIATE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParams {
    flags: u64,
    upload_stream: usize,
    error_node: usize,
    result: c_int,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithParams(
    out: Out<usize>,
    graph: Handle,
    params: Out<InstantiateParams>,
) -> Code {
    code(params.get().and_then(|mut p| {
        let result = instantiate(out, graph, p.flags);
        // CUDA_GRAPH_INSTANTIATE_SUCCESS, or _ERROR.
        (p.result, p.error_node) = (result.is_err() as c_int, 0);
        params.put(p)?;
        result
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(exec: Handle) -> Code {
    code(state().and_then(|mut s| s.execs.remove(&(exec as usize)).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecGetFlags(exec: Handle, out: Out<u64>) -> Code {
    code(working().and_then(|s| out.put(s.execs.get(&(exec as usize)).ok_or(ERROR_INVALID_HANDLE)?.flags)))
}

/// There is nothing to prepare.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(exec: Handle, stream: Handle) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        if s.capturing(key)?.is_some() {
            return Err(s.spoil(key, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        s.execs.get(&(exec as usize)).map(|_| ()).ok_or(ERROR_INVALID_HANDLE)
    }))
}

/// Runs the nodes in order; in a capture it becomes a graph inside the captured one.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(exec: Handle, stream: Handle) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        let exec = s.execs.get(&(exec as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        let (flags, ops): (u64, Vec<Arc<Op>>) =
            (exec.flags, exec.nodes.iter().filter(|n| n.enabled).map(|n| n.op.clone()).collect());
        if s.capturing(key)?.is_some() {
            let child = child_graph(&mut s, &ops)?;
            return submit(s, stream, Op::Child(child));
        }
        s.legacy_is_free(key)?;
        if flags & AUTO_FREE != 0 {
            for op in &ops {
                if let Op::Allocate(a) = &**op
                    && s.device.memory().find(a.address).is_some()
                {
                    s.free(a.address)?;
                }
            }
        }
        drop(s);
        ops.iter().try_for_each(|op| run(op))
    }))
}

/// A graph of the operations, one after the other.
fn child_graph(s: &mut State, ops: &[Arc<Op>]) -> Result<usize, Code> {
    let graph = s.add_graph(Graph { embedded: true, ..Graph::default() });
    let mut last = Vec::new();
    for op in ops.iter().filter(|op| !matches!(***op, Op::Child(_))) {
        last = vec![s.add_node(graph, (**op).clone(), last)?];
    }
    Ok(graph)
}

// changes ---------------------------------------------------------------------------------------------------------

/// CUgraphExecUpdateResult.
const UPDATED: c_int = 0;
const TOPOLOGY_CHANGED: c_int = 2;
const TYPE_CHANGED: c_int = 3;
const PARAMETERS_CHANGED: c_int = 5;

/// CUgraphExecUpdateResultInfo.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateResult {
    result: c_int,
    error_node: usize,
    error_from: usize,
}

/// What the update may not change: memory nodes keep their allocations.
fn fixed(old: &Op, new: &Op) -> bool {
    match (old, new) {
        (Op::Allocate(a), Op::Allocate(b)) => a.bytes == b.bytes,
        _ => true,
    }
}

/// Takes over the parameters of a graph of the same shape.
fn update(exec: Handle, graph: Handle) -> Result<UpdateResult, Code> {
    let mut s = working()?;
    let mut new = Vec::new();
    flatten(&s, s.graph(graph)?, None, &mut new)?;
    let exec = s.execs.get_mut(&(exec as usize)).ok_or(ERROR_INVALID_HANDLE)?;
    let failed = |result, node: usize| Ok(UpdateResult { result, error_node: node, error_from: 0 });
    if new.len() != exec.nodes.len() {
        return failed(TOPOLOGY_CHANGED, 0);
    }
    for (old, new) in exec.nodes.iter().zip(&new) {
        if old.op.node_type() != new.op.node_type() {
            return failed(TYPE_CHANGED, new.id);
        }
        if old.after != new.after {
            return failed(TOPOLOGY_CHANGED, new.id);
        }
        if !fixed(&old.op, &new.op) {
            return failed(PARAMETERS_CHANGED, new.id);
        }
    }
    for (old, new) in exec.nodes.iter_mut().zip(new) {
        if !matches!(*new.op, Op::Allocate(_) | Op::Free(_)) {
            old.op = new.op;
        }
    }
    failed(UPDATED, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecUpdate_v2(exec: Handle, graph: Handle, out: Out<UpdateResult>) -> Code {
    code(update(exec, graph).and_then(|result| {
        out.put(result)?;
        if result.result == UPDATED { Ok(()) } else { Err(ERROR_GRAPH_EXEC_UPDATE_FAILURE) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecUpdate(
    exec: Handle,
    graph: Handle,
    error_node: Out<usize>,
    out: Out<c_int>,
) -> Code {
    code(update(exec, graph).and_then(|result| {
        error_node.put_if_wanted(result.error_node);
        out.put(result.result)?;
        if result.result == UPDATED { Ok(()) } else { Err(ERROR_GRAPH_EXEC_UPDATE_FAILURE) }
    }))
}

/// The node of an executable graph that came from `node`.
fn exec_node(s: &mut State, exec: Handle, node: Handle) -> Result<&mut ExecNode, Code> {
    let exec = s.execs.get_mut(&(exec as usize)).ok_or(ERROR_INVALID_HANDLE)?;
    exec.nodes.iter_mut().find(|n| n.id == node as usize).ok_or(ERROR_INVALID_VALUE)
}

/// Changes a node of an executable graph to an operation of the same kind.
fn change(exec: Handle, node: Handle, op: impl FnOnce(&State, &Op) -> Result<Op, Code>) -> Code {
    code(working().and_then(|mut s| {
        let old = exec_node(&mut s, exec, node)?.op.clone();
        let new = op(&s, &old)?;
        if new.node_type() != old.node_type() {
            return Err(ERROR_INVALID_VALUE);
        }
        new.check(&s)?;
        exec_node(&mut s, exec, node)?.op = Arc::new(new);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecKernelNodeSetParams(
    exec: Handle,
    node: Handle,
    params: In<KernelParams>,
) -> Code {
    change(exec, node, |s, old| params.get()?.op(s, launch_of(old)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    exec: Handle,
    node: Handle,
    params: In<KernelParams2>,
) -> Code {
    change(exec, node, |s, old| params.get()?.op(s, launch_of(old)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecMemcpyNodeSetParams(
    exec: Handle,
    node: Handle,
    params: In<Memcpy3>,
    _context: Handle,
) -> Code {
    change(exec, node, |s, _| Ok(Op::Copy(params.get()?.copy(s)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecMemsetNodeSetParams(
    exec: Handle,
    node: Handle,
    params: In<MemsetParams>,
    _context: Handle,
) -> Code {
    change(exec, node, |_, _| Ok(Op::Fill(params.get()?.fill())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecHostNodeSetParams(exec: Handle, node: Handle, params: In<HostParams>) -> Code {
    change(exec, node, |_, _| params.get()?.op())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecEventRecordNodeSetEvent(exec: Handle, node: Handle, event: Handle) -> Code {
    change(exec, node, |_, _| Ok(Op::Record(event as usize)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecEventWaitNodeSetEvent(exec: Handle, node: Handle, event: Handle) -> Code {
    change(exec, node, |_, _| Ok(Op::Wait(event as usize)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecNodeSetParams(exec: Handle, node: Handle, params: Out<NodeParams>) -> Code {
    change(exec, node, |s, old| node_op(s, params, Some(old)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeSetEnabled(exec: Handle, node: Handle, enabled: c_uint) -> Code {
    code(working().and_then(|mut s| {
        let node = exec_node(&mut s, exec, node)?;
        if !matches!(*node.op, Op::Launch(_) | Op::Copy(_) | Op::Fill(_)) {
            return Err(ERROR_INVALID_VALUE);
        }
        node.enabled = enabled != 0;
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetEnabled(exec: Handle, node: Handle, out: Out<c_uint>) -> Code {
    code(working().and_then(|mut s| out.put(exec_node(&mut s, exec, node)?.enabled as c_uint)))
}
