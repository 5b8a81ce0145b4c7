//! Stream capture: the operations given to a stream become the nodes of a graph, in the order that the stream and its
//! events prescribe; and the rules of what is illegal meanwhile.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_uint};
use std::thread::ThreadId;

use crate::errors::*;
use crate::ffi::{In, Out};
use crate::graph::Graph;
use crate::ops::Op;
use crate::state::*;

/// CUstreamCaptureMode.
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

pub struct Capture {
    pub graph: usize,
    /// False when the caller gave the graph: it stays when the capture fails.
    owned: bool,
    /// The stream where it began.
    origin: usize,
    mode: u32,
    thread: ThreadId,
    /// An operation was illegal: only ending the capture is possible.
    invalid: bool,
    /// The last nodes of streams that had joined it and are gone.
    gone: Vec<usize>,
}

thread_local! {
    /// How strictly this thread is kept from unsafe calls.
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
    /// Dependencies given out by cuStreamGetCaptureInfo: valid until the next call.
    static GIVEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl State {
    /// The capture a stream takes part in.
    ///
    /// # Errors
    /// `ERROR_STREAM_CAPTURE_INVALIDATED` when something has gone wrong in it.
    pub fn capturing(&self, key: usize) -> Result<Option<u64>, Code> {
        let Some(id) = self.streams.get(&key).and_then(|s| s.capture) else { return Ok(None) };
        if self.captures[&id].invalid { Err(ERROR_STREAM_CAPTURE_INVALIDATED) } else { Ok(Some(id)) }
    }

    /// Adds a node after what the stream has captured so far.
    pub fn capture(&mut self, key: usize, op: Op) -> Result<usize, Code> {
        let id = self.capturing(key)?.ok_or(ERROR_ILLEGAL_STATE)?;
        let graph = self.captures[&id].graph;
        let after = self.streams[&key].last.clone();
        let node = self.add_node(graph, op, after)?;
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.last = vec![node];
        }
        Ok(node)
    }

    /// Invalidates the capture that a stream takes part in; gives back `code`.
    pub fn spoil(&mut self, key: usize, code: Code) -> Code {
        if let Some(capture) =
            self.streams.get(&key).and_then(|s| s.capture).and_then(|id| self.captures.get_mut(&id))
        {
            capture.invalid = true;
        }
        code
    }

    /// A stream goes: the capture that began in it ends without a graph; one that it has joined must have its work
    /// joined when it ends.
    pub fn abandon(&mut self, key: usize) {
        let Some(id) = self.streams.get(&key).and_then(|s| s.capture) else { return };
        let last = self.streams[&key].last.clone();
        match self.captures.get_mut(&id) {
            Some(capture) if capture.origin != key => return capture.gone.extend(last),
            _ => {}
        }
        for stream in self.streams.values_mut().filter(|s| s.capture == Some(id)) {
            stream.capture = None;
            stream.last.clear();
        }
        if let Some(capture) = self.captures.remove(&id).filter(|c| c.owned) {
            self.drop_graph(capture.graph);
        }
    }

    /// Work in the legacy stream waits for all blocking streams, so none of them may be in a capture.
    pub fn legacy_is_free(&mut self, key: usize) -> Result<(), Code> {
        if key != LEGACY {
            return Ok(());
        }
        let blocking = |s: &Stream| s.flags & NON_BLOCKING == 0 && s.capture.is_some();
        match self.streams.iter().find(|(_, s)| blocking(s)).map(|(&k, _)| k) {
            Some(k) => Err(self.spoil(k, ERROR_STREAM_CAPTURE_IMPLICIT)),
            None => Ok(()),
        }
    }

    /// For calls that may wait for work of any stream, or change what captured work uses: illegal for a thread that
    /// captures, and for all threads while one captures in global mode.
    pub fn may_wait(&mut self) -> Result<(), Code> {
        self.legacy_is_free(LEGACY)?;
        self.is_safe()
    }

    /// As [`State::may_wait`], for calls that do not touch the legacy stream.
    pub fn is_safe(&mut self) -> Result<(), Code> {
        let (mode, own) = (MODE.get(), std::thread::current().id());
        let mut illegal = false;
        for capture in self.captures.values_mut() {
            let conflicts = match (mode, capture.mode) {
                (RELAXED, _) | (_, RELAXED) => false,
                (GLOBAL, GLOBAL) => true,
                _ => capture.thread == own,
            };
            capture.invalid |= conflicts;
            illegal |= conflicts;
        }
        if illegal { Err(ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// A call that waits for, or asks about, one stream.
    pub fn may_wait_for(&mut self, key: usize) -> Result<(), Code> {
        if self.streams.get(&key).is_some_and(|s| s.capture.is_some()) {
            return Err(self.spoil(key, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        self.legacy_is_free(key)?;
        self.is_safe()
    }

    /// An event that was recorded in a capture stands for nodes, not for work: it cannot be waited for.
    pub fn event_is_outside(&mut self, event: usize) -> Result<(), Code> {
        let captured = self.events.get(&event).ok_or(ERROR_INVALID_HANDLE)?.captured.as_ref();
        let Some(&(id, _)) = captured else { return Ok(()) };
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.invalid = true;
        }
        Err(ERROR_CAPTURED_EVENT)
    }

    /// cuStreamWaitEvent where a capture is concerned; true when that was so.
    pub fn wait_in_capture(&mut self, key: usize, event: usize) -> Result<bool, Code> {
        let capturing = self.capturing(key)?;
        let captured = self.events.get(&event).ok_or(ERROR_INVALID_HANDLE)?.captured.clone();
        match (capturing, captured) {
            (None, None) => return Ok(false),
            (Some(_), None) => return Err(self.spoil(key, ERROR_STREAM_CAPTURE_ISOLATION)),
            (own, Some((id, nodes))) => {
                match self.captures.get(&id) {
                    None => return Err(ERROR_CAPTURED_EVENT),
                    Some(c) if c.invalid => return Err(ERROR_STREAM_CAPTURE_INVALIDATED),
                    Some(_) => {}
                }
                if own.is_some_and(|own| own != id) {
                    return Err(self.spoil(key, ERROR_STREAM_CAPTURE_MERGE));
                }
                if key == LEGACY {
                    return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
                }
                let Some(stream) = self.streams.get_mut(&key) else { return Err(ERROR_INVALID_HANDLE) };
                stream.capture = Some(id);
                for node in nodes {
                    if !stream.last.contains(&node) {
                        stream.last.push(node);
                    }
                }
            }
        }
        Ok(true)
    }

    fn begin(
        &mut self,
        stream: Handle,
        graph: Option<usize>,
        last: Vec<usize>,
        mode: u32,
    ) -> Result<(), Code> {
        if mode > RELAXED {
            return Err(ERROR_INVALID_VALUE);
        }
        let key = self.stream(stream)?;
        if key == LEGACY {
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if self.streams[&key].capture.is_some() {
            return Err(self.spoil(key, ERROR_ILLEGAL_STATE));
        }
        let owned = graph.is_none();
        let graph = graph.unwrap_or_else(|| self.add_graph(Graph::default()));
        let id = self.new_handle() as u64;
        let thread = std::thread::current().id();
        self.captures.insert(
            id,
            Capture { graph, owned, origin: key, mode, thread, invalid: false, gone: Vec::new() },
        );
        if let Some(stream) = self.streams.get_mut(&key) {
            (stream.capture, stream.last) = (Some(id), last);
        }
        Ok(())
    }

    /// Ends a capture: its graph, or why there is none.
    fn end(&mut self, key: usize) -> Result<usize, Code> {
        let id = self.streams[&key].capture.ok_or(ERROR_ILLEGAL_STATE)?;
        let capture = &self.captures[&id];
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != key {
            return Err(self.spoil(key, ERROR_STREAM_CAPTURE_UNMATCHED));
        }
        let (graph, owned, invalid) = (capture.graph, capture.owned, capture.invalid);
        let joined =
            self.graphs.get(&graph).map(|g| g.ancestors(&self.streams[&key].last)).unwrap_or_default();
        let mut unjoined = self.captures[&id].gone.iter().any(|node| !joined.contains(node));
        for stream in self.streams.values_mut().filter(|s| s.capture == Some(id)) {
            unjoined |= stream.last.iter().any(|node| !joined.contains(node));
            stream.capture = None;
            stream.last.clear();
        }
        self.captures.remove(&id);
        if invalid || unjoined {
            if owned {
                self.drop_graph(graph);
            }
            return Err(if invalid {
                ERROR_STREAM_CAPTURE_INVALIDATED
            } else {
                ERROR_STREAM_CAPTURE_UNJOINED
            });
        }
        Ok(graph)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> Code {
    code(working().and_then(|mut s| s.begin(stream, None, Vec::new(), mode)))
}

/// The first form of it had no mode: it was global.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture(stream: Handle) -> Code {
    cuStreamBeginCapture_v2(stream, GLOBAL)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCaptureToGraph(
    stream: Handle,
    graph: Handle,
    dependencies: In<usize>,
    _edges: In<u64>,
    count: usize,
    mode: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        let last = dependencies.list(count)?;
        let g = s.graphs.get(&(graph as usize)).ok_or(ERROR_INVALID_HANDLE)?;
        if last.iter().any(|&node| !g.has(node)) {
            return Err(ERROR_INVALID_VALUE);
        }
        s.begin(stream, Some(graph as usize), last, mode)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Handle, graph: Out<usize>) -> Code {
    code(working().and_then(|mut s| {
        graph.required()?;
        let key = s.stream(stream)?;
        let result = s.end(key);
        graph.put(result.unwrap_or(0))?;
        result.map(|_| ())
    }))
}

/// CUstreamCaptureStatus: none, active, invalidated.
fn status(s: &State, key: usize) -> c_int {
    match s.capturing(key) {
        Ok(None) => 0,
        Ok(Some(_)) => 1,
        Err(_) => 2,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Handle, out: Out<c_int>) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        s.legacy_is_free(key)?;
        out.put(status(&s, key))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    status_out: Out<c_int>,
    id: Out<u64>,
    graph: Out<usize>,
    dependencies: Out<*const usize>,
    count: Out<usize>,
) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        s.legacy_is_free(key)?;
        status_out.put(status(&s, key))?;
        let stream = &s.streams[&key];
        let Some(capture) = stream.capture else { return Ok(()) };
        id.put_if_wanted(capture);
        graph.put_if_wanted(s.captures[&capture].graph);
        count.put_if_wanted(stream.last.len());
        dependencies.put_if_wanted(GIVEN.with_borrow_mut(|given| {
            given.clone_from(&stream.last);
            given.as_ptr()
        }));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo(stream: Handle, status: Out<c_int>, id: Out<u64>) -> Code {
    cuStreamGetCaptureInfo_v2(stream, status, id, Out::NULL, Out::NULL, Out::NULL)
}

/// As the form before it, with data of the edges, of which there is none.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: Handle,
    status: Out<c_int>,
    id: Out<u64>,
    graph: Out<usize>,
    dependencies: Out<*const usize>,
    edges: Out<*const u64>,
    count: Out<usize>,
) -> Code {
    edges.put_if_wanted(std::ptr::null());
    cuStreamGetCaptureInfo_v2(stream, status, id, graph, dependencies, count)
}

/// Flags 0 adds to the stream's dependencies, 1 replaces them.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamUpdateCaptureDependencies(
    stream: Handle,
    nodes: In<usize>,
    count: usize,
    flags: c_uint,
) -> Code {
    code(working().and_then(|mut s| {
        let key = s.stream(stream)?;
        let id = s.capturing(key)?.ok_or(ERROR_ILLEGAL_STATE)?;
        let nodes = nodes.list(count)?;
        let graph = s.graphs.get(&s.captures[&id].graph).ok_or(ERROR_INVALID_HANDLE)?;
        if flags > 1 || nodes.iter().any(|&node| !graph.has(node)) {
            return Err(ERROR_INVALID_VALUE);
        }
        let stream = s.streams.get_mut(&key).ok_or(ERROR_INVALID_HANDLE)?;
        if flags == 1 {
            stream.last.clear();
        }
        for node in nodes {
            if !stream.last.contains(&node) {
                stream.last.push(node);
            }
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamUpdateCaptureDependencies_v2(
    stream: Handle,
    nodes: In<usize>,
    _edges: In<u64>,
    count: usize,
    flags: c_uint,
) -> Code {
    cuStreamUpdateCaptureDependencies(stream, nodes, count, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) -> Code {
    code((|| {
        let wanted = mode.get()?;
        if !matches!(wanted, GLOBAL | THREAD_LOCAL | RELAXED) {
            return Err(ERROR_INVALID_VALUE);
        }
        mode.put(MODE.replace(wanted))
    })())
}
