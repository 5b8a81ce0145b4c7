//! What a graph consists of, and its picture.

use std::ffi::{c_int, c_uint};

use super::*;
use crate::ffi::{Out, Text};

/// The API's way to give a list: `count` is the room and then the number; without a list, only the number is given.
fn give(list: &[usize], out: Out<usize>, count: Out<usize>) -> Result<(), Code> {
    if out.is_null() {
        return count.put(list.len());
    }
    let room = count.get()?;
    for i in 0..room {
        out.put_at(i, list.get(i).copied().unwrap_or(0))?;
    }
    count.put(room.min(list.len()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetNodes(graph: Handle, nodes: Out<usize>, count: Out<usize>) -> Code {
    code(working().and_then(|s| {
        let list: Vec<usize> = s.graph(graph)?.nodes.iter().map(|n| n.id).collect();
        give(&list, nodes, count)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetRootNodes(graph: Handle, nodes: Out<usize>, count: Out<usize>) -> Code {
    code(working().and_then(|s| {
        let roots = s.graph(graph)?.nodes.iter().filter(|n| n.after.is_empty());
        give(&roots.map(|n| n.id).collect::<Vec<_>>(), nodes, count)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetEdges(
    graph: Handle,
    from: Out<usize>,
    to: Out<usize>,
    count: Out<usize>,
) -> Code {
    code(working().and_then(|s| {
        let nodes = &s.graph(graph)?.nodes;
        let pairs = nodes.iter().flat_map(|n| n.after.iter().map(|&a| (a, n.id)));
        let (sources, targets): (Vec<usize>, Vec<usize>) = pairs.unzip();
        if from.is_null() != to.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        if !from.is_null() {
            let room = count.get()?;
            give(&sources, from, count)?;
            count.put(room)?;
        }
        give(&targets, to, count)
    }))
}

/// Writes data of edges: all zeros, for plain order.
fn plain_edges(data: Out<u64>, count: Out<usize>) -> Result<(), Code> {
    if data.is_null() {
        return Ok(());
    }
    (0..count.get()?).try_for_each(|i| data.put_at(i, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetEdges_v2(
    graph: Handle,
    from: Out<usize>,
    to: Out<usize>,
    data: Out<u64>,
    count: Out<usize>,
) -> Code {
    match cuGraphGetEdges(graph, from, to, count) {
        SUCCESS => code(plain_edges(data, count)),
        failed => failed,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetDependencies(node: Handle, nodes: Out<usize>, count: Out<usize>) -> Code {
    code(working().and_then(|s| give(&s.node(node)?.after, nodes, count)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetDependencies_v2(
    node: Handle,
    nodes: Out<usize>,
    data: Out<u64>,
    count: Out<usize>,
) -> Code {
    match cuGraphNodeGetDependencies(node, nodes, count) {
        SUCCESS => code(plain_edges(data, count)),
        failed => failed,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetDependentNodes(node: Handle, nodes: Out<usize>, count: Out<usize>) -> Code {
    code(working().and_then(|s| {
        s.node(node)?;
        let id = node as usize;
        let graph = &s.graphs[&s.graph_of_node[&id]];
        let followers = graph.nodes.iter().filter(|n| n.after.contains(&id));
        give(&followers.map(|n| n.id).collect::<Vec<_>>(), nodes, count)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetDependentNodes_v2(
    node: Handle,
    nodes: Out<usize>,
    data: Out<u64>,
    count: Out<usize>,
) -> Code {
    match cuGraphNodeGetDependentNodes(node, nodes, count) {
        SUCCESS => code(plain_edges(data, count)),
        failed => failed,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphNodeGetType(node: Handle, out: Out<c_int>) -> Code {
    code(working().and_then(|s| out.put(s.node(node)?.op.node_type())))
}

/// The graph in the DOT language: nodes by number in the order they were made, and what they do.
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDebugDotPrint(graph: Handle, path: Text, _flags: c_uint) -> Code {
    code(working().and_then(|s| {
        let nodes = &s.graph(graph)?.nodes;
        let number = |id: usize| nodes.iter().position(|n| n.id == id).unwrap_or(0);
        let mut dot = String::from("digraph graph_1 {\n");
        for (i, node) in nodes.iter().enumerate() {
            dot += &format!("  node_{i} [shape=box, label=\"{i}: {}\"];\n", node.op.name(&s));
            for &before in &node.after {
                dot += &format!("  node_{} -> node_{i};\n", number(before));
            }
        }
        dot += "}\n";
        let path = path.get()?;
        std::fs::write(&path, dot).map_err(|e| refuse(ERROR_OPERATING_SYSTEM, format!("{path}: {e}")))
    }))
}
