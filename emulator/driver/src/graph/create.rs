//! Graphs by hand: nodes of each kind, dependencies, copies.

use std::ffi::c_uint;

use super::params::*;
use super::*;
use crate::copy::Memcpy3;
use crate::ffi::{In, Out};
use crate::ops::GraphAllocation;

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphCreate(out: Out<usize>, flags: c_uint) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        out.put(s.add_graph(Graph::default()))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> Code {
    code(state().and_then(|mut s| {
        let handle = graph as usize;
        if s.graph(graph)?.embedded || s.captures.values().any(|c| c.graph == handle) {
            return Err(ERROR_INVALID_VALUE);
        }
        let objects = s.graphs.get_mut(&handle).map(|g| std::mem::take(&mut g.objects)).unwrap_or_default();
        s.drop_graph(handle);
        drop(s);
        crate::hints::release(objects);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphClone(out: Out<usize>, graph: Handle) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        let clone = s.clone_graph(graph as usize, false)?;
        out.put(clone)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeFindInClone(out: Out<usize>, original: Handle, clone: Handle) -> Code {
    code(working().and_then(|s| {
        let graph = s.graph(clone)?;
        let found = graph.nodes.iter().find(|n| n.original == Some(original as usize));
        out.put(found.ok_or(ERROR_INVALID_VALUE)?.id)
    }))
}

/// Adds a node made by `op`.
fn add(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    op: impl FnOnce(&mut State) -> Result<Op, Code>,
) -> Code {
    code(working().and_then(|mut s| {
        out.required()?;
        s.graph(graph)?;
        let after = if count == 0 { Vec::new() } else { dependencies.list(count)? };
        let op = op(&mut s)?;
        op.check(&s)?;
        let node = s.add_node(graph as usize, op, after)?;
        out.put(node)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddKernelNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: In<KernelParams>,
) -> Code {
    add(out, graph, dependencies, count, |s| params.get()?.op(s, None))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddKernelNode_v2(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: In<KernelParams2>,
) -> Code {
    add(out, graph, dependencies, count, |s| params.get()?.op(s, None))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemcpyNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: In<Memcpy3>,
    _context: Handle,
) -> Code {
    add(out, graph, dependencies, count, |s| Ok(Op::Copy(params.get()?.copy(s)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemsetNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: In<MemsetParams>,
    _context: Handle,
) -> Code {
    add(out, graph, dependencies, count, |_| Ok(Op::Fill(params.get()?.fill())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddHostNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: In<HostParams>,
) -> Code {
    add(out, graph, dependencies, count, |_| params.get()?.op())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddEmptyNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
) -> Code {
    add(out, graph, dependencies, count, |_| Ok(Op::Empty))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddEventRecordNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    event: Handle,
) -> Code {
    add(out, graph, dependencies, count, |_| Ok(Op::Record(event as usize)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddEventWaitNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    event: Handle,
) -> Code {
    add(out, graph, dependencies, count, |_| Ok(Op::Wait(event as usize)))
}

/// The child is copied into the graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddChildGraphNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    child: Handle,
) -> Code {
    add(out, graph, dependencies, count, |s| Ok(Op::Child(s.clone_graph(child as usize, true)?)))
}

fn allocation(s: &mut State, bytes: u64) -> Result<GraphAllocation, Code> {
    if bytes == 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    let reserved = s.device.memory_mut().reserve(bytes);
    let address = reserved.map_err(|e| refuse(ERROR_OUT_OF_MEMORY, e))?;
    s.graph_allocations.insert(address, bytes);
    Ok(GraphAllocation { address, bytes })
}

impl State {
    /// True for a range of memory that a node allocates when its graph runs.
    pub fn will_be_allocated(&self, address: u64, bytes: u64) -> bool {
        let inside =
            |(&start, &size): (&u64, &u64)| address >= start && address - start <= size.saturating_sub(bytes);
        self.graph_allocations.iter().any(|a| bytes <= *a.1 && inside(a))
    }

    /// cuMemAllocAsync in a capture: the address is known now, the memory there when the graph runs.
    pub fn capture_allocation(&mut self, key: usize, bytes: u64) -> Result<u64, Code> {
        let allocation = allocation(self, bytes)?;
        self.capture(key, Op::Allocate(allocation))?;
        Ok(allocation.address)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemAllocNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: Out<AllocParams>,
) -> Code {
    add(out, graph, dependencies, count, |s| {
        let mut p = params.get()?;
        let made = allocation(s, p.bytes as u64)?;
        p.address = made.address;
        params.put(p)?;
        Ok(Op::Allocate(made))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddMemFreeNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    address: u64,
) -> Code {
    add(out, graph, dependencies, count, |s| match s.graph_allocations.contains_key(&address) {
        true => Ok(Op::Free(address)),
        false => Err(ERROR_INVALID_VALUE),
    })
}

/// A node of any kind, by the type in its parameters.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddNode(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    count: usize,
    params: Out<NodeParams>,
) -> Code {
    let kind = match params.get() {
        Ok(p) => p.kind,
        Err(code) => return code,
    };
    match kind {
        4 => match params.body::<usize>().get() {
            Ok(child) => cuGraphAddChildGraphNode(out, graph, dependencies, count, child as Handle),
            Err(code) => code,
        },
        10 => cuGraphAddMemAllocNode(out, graph, dependencies, count, params.body()),
        11 => match params.body::<u64>().get() {
            Ok(address) => cuGraphAddMemFreeNode(out, graph, dependencies, count, address),
            Err(code) => code,
        },
        _ => add(out, graph, dependencies, count, |s| node_op(s, params, None)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddNode_v2(
    out: Out<usize>,
    graph: Handle,
    dependencies: In<usize>,
    _edges: In<u64>,
    count: usize,
    params: Out<NodeParams>,
) -> Code {
    cuGraphAddNode(out, graph, dependencies, count, params)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroyNode(node: Handle) -> Code {
    code(working().and_then(|mut s| {
        let id = node as usize;
        s.node(node)?;
        let graph = s.graph_of_node[&id];
        let g = s.graphs.get_mut(&graph).ok_or(ERROR_INVALID_HANDLE)?;
        for n in &mut g.nodes {
            n.after.retain(|&a| a != id);
        }
        let i = g.nodes.iter().position(|n| n.id == id).ok_or(ERROR_INVALID_HANDLE)?;
        let removed = g.nodes.remove(i);
        s.drop_node(&removed);
        Ok(())
    }))
}

/// Edges from `from[i]` to `to[i]`.
fn edges(graph: Handle, from: In<usize>, to: In<usize>, count: usize, add: bool) -> Code {
    code(working().and_then(|mut s| {
        let pairs: Vec<(usize, usize)> = match count {
            0 => Vec::new(),
            _ => from.list(count)?.into_iter().zip(to.list(count)?).collect(),
        };
        let g = s.graphs.get_mut(&(graph as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        for (from, to) in pairs {
            if from == to || !g.has(from) {
                return Err(ERROR_INVALID_VALUE);
            }
            let node = g.nodes.iter_mut().find(|n| n.id == to).ok_or(ERROR_INVALID_VALUE)?;
            let there = node.after.contains(&from);
            match add {
                true if !there => node.after.push(from),
                false if there => node.after.retain(|&a| a != from),
                _ => return Err(ERROR_INVALID_VALUE),
            }
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddDependencies(
    graph: Handle,
    from: In<usize>,
    to: In<usize>,
    count: usize,
) -> Code {
    edges(graph, from, to, count, true)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphAddDependencies_v2(
    graph: Handle,
    from: In<usize>,
    to: In<usize>,
    _edges: In<u64>,
    count: usize,
) -> Code {
    edges(graph, from, to, count, true)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphRemoveDependencies(
    graph: Handle,
    from: In<usize>,
    to: In<usize>,
    count: usize,
) -> Code {
    edges(graph, from, to, count, false)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphRemoveDependencies_v2(
    graph: Handle,
    from: In<usize>,
    to: In<usize>,
    _edges: In<u64>,
    count: usize,
) -> Code {
    edges(graph, from, to, count, false)
}
