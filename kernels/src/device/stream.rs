//! The stream: waiting, events, and what is recorded as a graph. `event.rs` and `graph.rs` make something safe of these calls.

use std::sync::atomic::Ordering;

use cudarc::driver::{result, sys};

use super::call::Call;
use super::{Gpu, Handle};
use crate::error::{Error, Result};

/// An event of the driver, as `event.rs` holds it.
#[derive(Clone, Copy)]
pub(crate) struct RawEvent(Handle<sys::CUevent>);

/// An executable graph of the driver, as `graph.rs` holds it.
#[derive(Clone, Copy)]
pub(crate) struct RawGraph(Handle<sys::CUgraphExec>);

impl Gpu {
    /// Whether what is enqueued becomes part of a graph instead of running ([`Graph::capture`](crate::graph::Graph::capture)).
    pub fn is_capturing(&self) -> bool {
        self.capturing.load(Ordering::Relaxed)
    }

    /// A captured copy would read the host's memory again whenever the graph runs, and a wait would never end.
    pub(super) fn refuse_while_capturing(&self, op: &'static str) -> Result<()> {
        if self.is_capturing() || self.is_planning() {
            let message =
                "waits for the device or reads host memory, inside what is captured as a graph or planned";
            return Err(Error::argument(op, message.into()));
        }
        Ok(())
    }

    /// Waits until everything enqueued is done.
    ///
    /// # Errors
    /// [`Error::Driver`] when a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.refuse_while_capturing("synchronize")?;
        self.bind()?;
        // SAFETY: the stream lives as long as self.
        unsafe { result::stream::synchronize(self.stream) }.call("cuStreamSynchronize")
    }

    pub(crate) fn event_create(&self) -> Result<RawEvent> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).call("cuEventCreate")?;
        Ok(RawEvent(Handle(event)))
    }

    pub(crate) fn event_record(&self, event: RawEvent) -> Result<()> {
        self.bind()?;
        // SAFETY: `event.rs` passes events it created and has not destroyed.
        unsafe { result::event::record(event.0.0, self.stream) }.call("cuEventRecord")
    }

    pub(crate) fn event_wait(&self, event: RawEvent) -> Result<()> {
        self.refuse_while_capturing("event")?;
        self.bind()?;
        // SAFETY: as in `event_record`.
        unsafe { result::event::synchronize(event.0.0) }.call("cuEventSynchronize")
    }

    pub(crate) fn event_elapsed_ms(&self, start: RawEvent, end: RawEvent) -> Result<f32> {
        self.bind()?;
        // SAFETY: as in `event_record`.
        unsafe { result::event::elapsed(start.0.0, end.0.0) }.call("cuEventElapsedTime")
    }

    pub(crate) fn event_destroy(&self, event: RawEvent) -> Result<()> {
        self.bind()?;
        // SAFETY: `event.rs` destroys each event once.
        unsafe { result::event::destroy(event.0.0) }.call("cuEventDestroy")
    }

    /// From here on, what is enqueued is recorded and does not run. Relaxed: memory may be allocated and modules loaded meanwhile.
    pub(crate) fn capture_begin(&self) -> Result<()> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as self.
        unsafe { result::stream::begin_capture(self.stream, mode) }.call("cuStreamBeginCapture")?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the recording and makes it executable.
    pub(crate) fn capture_end(&self) -> Result<RawGraph> {
        self.capturing.store(false, Ordering::Relaxed);
        self.bind()?;
        // SAFETY: the stream is being captured.
        let graph = unsafe { result::stream::end_capture(self.stream) }.call("cuStreamEndCapture")?;
        // SAFETY: the graph was just made; without flags nothing is freed behind the arena's back.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }
            .call("cuGraphInstantiate");
        // SAFETY: the executable graph does not need the recording.
        unsafe { result::graph::destroy(graph) }.call("cuGraphDestroy")?;
        Ok(RawGraph(Handle(made?)))
    }

    pub(crate) fn graph_launch(&self, graph: RawGraph) -> Result<()> {
        self.refuse_while_capturing("graph")?;
        self.bind()?;
        // SAFETY: `graph.rs` passes graphs it has not destroyed, and keeps the memory that they use.
        unsafe { result::graph::launch(graph.0.0, self.stream) }.call("cuGraphLaunch")?;
        self.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn graph_destroy(&self, graph: RawGraph) -> Result<()> {
        self.bind()?;
        // SAFETY: `graph.rs` destroys each graph once.
        unsafe { result::graph::exec_destroy(graph.0.0) }.call("cuGraphExecDestroy")
    }
}
