//! A run of launches recorded once and started with one call (a CUDA graph).
//!
//! A graph holds addresses, so the memory that it uses must stay its own: while something is captured, buffers come from a pool of the
//! graph, which is given back when the graph is dropped ([`crate::arena`]). Buffers from before the capture must outlive the graph;
//! that is the caller's part.

use crate::device::{Gpu, RawGraph, lock};
use crate::error::{Error, Result};

/// Launches, fills and copies within the device, in the order in which they were captured.
pub struct Graph {
    gpu: &'static Gpu,
    raw: RawGraph,
    pool: u32,
    kernels: u64,
}

impl Graph {
    /// Records what `enqueue` gives to the device, without running it.
    ///
    /// # Errors
    /// What `enqueue` reports; [`Error::Argument`] when it waits for the device or copies from or to the host, which a graph cannot;
    /// [`Error::Driver`] when the driver does not take the graph.
    pub fn capture<T, E: From<Error>>(
        gpu: &'static Gpu,
        enqueue: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Graph, T), E> {
        let pool = lock(&gpu.arena).open_pool();
        let before = gpu.launches();
        let captured = gpu.capture_begin().map_err(E::from).and_then(|()| {
            let result = enqueue();
            let graph = gpu.capture_end();
            match (result, graph) {
                (Ok(value), Ok(raw)) => Ok((raw, value)),
                (Err(error), graph) => {
                    if let Ok(raw) = graph {
                        gpu.graph_destroy(raw)?;
                    }
                    Err(error)
                }
                (Ok(_), Err(error)) => Err(error.into()),
            }
        });
        lock(&gpu.arena).close_pool();
        match captured {
            Ok((raw, value)) => Ok((Graph { gpu, raw, pool, kernels: gpu.launches() - before }, value)),
            Err(error) => {
                lock(&gpu.arena).dissolve_pool(pool);
                Err(error)
            }
        }
    }

    /// Kernels in it.
    pub fn kernels(&self) -> u64 {
        self.kernels
    }

    /// Enqueues all of it.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver refuses or an earlier kernel failed.
    pub fn launch(&self) -> Result<()> {
        self.gpu.graph_launch(self.raw)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A graph that still runs is destroyed when it is done; its memory goes to later work of the same stream.
        let _ = self.gpu.graph_destroy(self.raw);
        lock(&self.gpu.arena).dissolve_pool(self.pool);
    }
}
