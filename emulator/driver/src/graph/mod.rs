//! Graphs: operations and the order between them, made by hand or by capturing streams.

pub mod create;
pub mod exec;
pub mod params;
pub mod query;

use std::collections::{HashMap, HashSet};

use crate::errors::*;
use crate::ops::Op;
use crate::state::*;

pub use exec::Exec;

pub struct Node {
    pub id: usize,
    pub op: Op,
    /// Nodes that must be done before.
    pub after: Vec<usize>,
    /// The node this is a copy of, in a cloned graph.
    pub original: Option<usize>,
}

#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    /// Part of another graph, which owns it.
    pub embedded: bool,
    /// Objects of the caller that it keeps alive.
    pub objects: Vec<usize>,
}

impl Graph {
    pub fn has(&self, node: usize) -> bool {
        self.nodes.iter().any(|n| n.id == node)
    }

    /// `nodes` and all that come before them.
    pub fn ancestors(&self, nodes: &[usize]) -> HashSet<usize> {
        let by_id: HashMap<usize, &Node> = self.nodes.iter().map(|n| (n.id, n)).collect();
        let (mut seen, mut open) = (HashSet::new(), nodes.to_vec());
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(by_id.get(&id).iter().flat_map(|n| n.after.iter().copied()));
            }
        }
        seen
    }

    /// Positions of the nodes, each after those it depends on, otherwise as they were made.
    ///
    /// # Errors
    /// `ERROR_INVALID_VALUE` when the dependencies go round.
    pub fn order(&self) -> Result<Vec<usize>, Code> {
        let position: HashMap<usize, usize> = self.nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
        let mut missing: Vec<usize> = self.nodes.iter().map(|n| n.after.len()).collect();
        let mut followers = vec![Vec::new(); self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for before in &node.after {
                followers[*position.get(before).ok_or(ERROR_INVALID_VALUE)?].push(i);
            }
        }
        let mut ready: std::collections::BTreeSet<usize> =
            (0..missing.len()).filter(|&i| missing[i] == 0).collect();
        let mut order = Vec::with_capacity(missing.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &f in &followers[i] {
                missing[f] -= 1;
                if missing[f] == 0 {
                    ready.insert(f);
                }
            }
        }
        if order.len() == self.nodes.len() { Ok(order) } else { Err(ERROR_INVALID_VALUE) }
    }
}

impl State {
    pub fn add_graph(&mut self, graph: Graph) -> usize {
        let handle = self.new_handle();
        for node in &graph.nodes {
            self.graph_of_node.insert(node.id, handle);
        }
        self.graphs.insert(handle, graph);
        handle
    }

    pub fn graph(&self, graph: Handle) -> Result<&Graph, Code> {
        self.graphs.get(&(graph as usize)).ok_or(ERROR_INVALID_HANDLE)
    }

    /// Adds a node; the operation has been checked.
    pub fn add_node(&mut self, graph: usize, op: Op, mut after: Vec<usize>) -> Result<usize, Code> {
        after.dedup();
        let id = self.new_handle();
        let g = self.graphs.get_mut(&graph).ok_or(ERROR_INVALID_HANDLE)?;
        if after.iter().any(|&node| !g.has(node)) {
            return Err(ERROR_INVALID_VALUE);
        }
        g.nodes.push(Node { id, op, after, original: None });
        self.graph_of_node.insert(id, graph);
        Ok(id)
    }

    pub fn node(&self, node: Handle) -> Result<&Node, Code> {
        let id = node as usize;
        let graph =
            self.graph_of_node.get(&id).and_then(|g| self.graphs.get(g)).ok_or(ERROR_INVALID_HANDLE)?;
        graph.nodes.iter().find(|n| n.id == id).ok_or(ERROR_INVALID_HANDLE)
    }

    pub fn node_mut(&mut self, node: Handle) -> Result<&mut Node, Code> {
        let id = node as usize;
        let graph = self.graph_of_node.get(&id).and_then(|g| self.graphs.get_mut(g));
        graph.and_then(|g| g.nodes.iter_mut().find(|n| n.id == id)).ok_or(ERROR_INVALID_HANDLE)
    }

    /// Forgets a graph, its nodes, and the graphs inside it.
    pub fn drop_graph(&mut self, graph: usize) {
        let Some(graph) = self.graphs.remove(&graph) else { return };
        for node in graph.nodes {
            self.drop_node(&node);
        }
    }

    pub fn drop_node(&mut self, node: &Node) {
        self.graph_of_node.remove(&node.id);
        self.node_pointers.remove(&node.id);
        if let Op::Child(child) = node.op {
            self.drop_graph(child);
        }
    }

    /// A copy with nodes of its own.
    pub fn clone_graph(&mut self, graph: usize, embedded: bool) -> Result<usize, Code> {
        let source = self.graphs.get(&graph).ok_or(ERROR_INVALID_HANDLE)?;
        let parts: Vec<(usize, Op, Vec<usize>)> =
            source.nodes.iter().map(|n| (n.id, n.op.clone(), n.after.clone())).collect();
        let mut copies = HashMap::new();
        for (id, ..) in &parts {
            copies.insert(*id, self.new_handle());
        }
        let mut nodes = Vec::with_capacity(parts.len());
        for (id, op, after) in parts {
            let op = match op {
                Op::Child(child) => Op::Child(self.clone_graph(child, true)?),
                op => op,
            };
            let after = after.iter().map(|a| copies[a]).collect();
            nodes.push(Node { id: copies[&id], op, after, original: Some(id) });
        }
        Ok(self.add_graph(Graph { nodes, embedded, objects: Vec::new() }))
    }
}
