//! Graphs, captured and made by hand, through cudarc's safe interface and its raw functions.

mod common;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, cudaError_enum as E};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

const BASIC: &str = include_str!("../../tests/ptx/basic.ptx");
const N: usize = 100;
const MODE: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

struct Setup {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    add: CudaFunction,
}

/// A stream, and the kernel `vector_add(out, a, b, n)`. Events of cudarc's own would count as work outside a capture.
fn setup() -> Setup {
    let context = common::context();
    // SAFETY: each slice is used by one stream at a time.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let add = context.load_module(Ptx::from_src(BASIC)).unwrap().load_function("vector_add").unwrap();
    Setup { context, stream, add }
}

impl Setup {
    fn add(
        &self,
        stream: &Arc<CudaStream>,
        out: &mut CudaSlice<f32>,
        a: &CudaSlice<f32>,
        b: &CudaSlice<f32>,
    ) -> Result<(), DriverError> {
        let n = N as i32;
        let mut launch = stream.launch_builder(&self.add);
        launch.arg(out).arg(a).arg(b).arg(&n);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(LaunchConfig::for_num_elems(N as u32)) }.map(|_| ())
    }
}

fn ok(code: sys::CUresult) {
    assert_eq!(code, E::CUDA_SUCCESS);
}

fn capture_begin(stream: &CudaStream) {
    stream.begin_capture(MODE).unwrap();
}

fn capture_end(stream: &CudaStream) -> (sys::CUresult, sys::CUgraph) {
    let mut graph = std::ptr::null_mut();
    // SAFETY: a stream, and room for a graph.
    let code = unsafe { sys::cuStreamEndCapture(stream.cu_stream(), &mut graph) };
    (code, graph)
}

#[test]
fn a_captured_graph_runs_when_it_is_launched_and_only_then() {
    let s = setup();
    let a = s.stream.clone_htod(&[1.0f32; N]).unwrap();
    let mut sum = s.stream.alloc_zeros::<f32>(N).unwrap();
    let copy = s.stream.clone_htod(&[2.0f32; N]).unwrap();
    capture_begin(&s.stream);
    assert_eq!(
        s.stream.capture_status().unwrap(),
        sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
    );
    // sum = a + copy, twice by way of a copy: the nodes keep their order.
    s.add(&s.stream, &mut sum, &a, &copy).unwrap();
    let mut copy = copy;
    s.stream.memcpy_dtod(&sum, &mut copy).unwrap();
    let graph = s.stream.end_capture(NO_FLAGS).unwrap().unwrap();
    assert!(s.stream.clone_dtoh(&sum).unwrap().iter().all(|&v| v == 0.0), "nothing has run");
    graph.upload().unwrap();
    for launches in 1..=3 {
        graph.launch().unwrap();
        let expected = 2.0 + launches as f32; // 2 + 1 per launch
        assert!(s.stream.clone_dtoh(&sum).unwrap().iter().all(|&v| v == expected), "launch {launches}");
    }
}

#[test]
fn streams_join_a_capture_by_events() {
    let s = setup();
    let side = s.context.new_stream().unwrap();
    let (fork, join) = (s.context.new_event(None).unwrap(), s.context.new_event(None).unwrap());
    let a = s.stream.clone_htod(&[1.0f32; N]).unwrap();
    let [mut left, mut right, mut both] = [0; 3].map(|_| s.stream.alloc_zeros::<f32>(N).unwrap());
    capture_begin(&s.stream);
    fork.record(&s.stream).unwrap();
    side.wait(&fork).unwrap();
    s.add(&s.stream, &mut left, &a, &a).unwrap();
    s.add(&side, &mut right, &a, &a).unwrap();
    join.record(&side).unwrap();
    s.stream.wait(&join).unwrap();
    s.add(&s.stream, &mut both, &left, &right).unwrap();
    let graph = s.stream.end_capture(NO_FLAGS).unwrap().unwrap();
    // Two roots; the last node has both before it.
    let mut count = 0;
    // SAFETY: the graph is alive; a null list asks for the count.
    unsafe {
        ok(sys::cuGraphGetRootNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count));
        assert_eq!(count, 2);
        let mut nodes = [std::ptr::null_mut(); 3];
        count = 3;
        ok(sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &mut count));
        let none = std::ptr::null_mut();
        ok(sys::cuGraphNodeGetDependencies_v2(nodes[2], none, std::ptr::null_mut(), &mut count));
        assert_eq!(count, 2);
    }
    graph.launch().unwrap();
    assert!(s.stream.clone_dtoh(&both).unwrap().iter().all(|&v| v == 4.0));
}

#[test]
fn work_that_is_not_joined_ends_the_capture_with_an_error() {
    let s = setup();
    let side = s.context.new_stream().unwrap();
    let fork = s.context.new_event(None).unwrap();
    let a = s.stream.clone_htod(&[1.0f32; N]).unwrap();
    let mut out = s.stream.alloc_zeros::<f32>(N).unwrap();
    capture_begin(&s.stream);
    fork.record(&s.stream).unwrap();
    side.wait(&fork).unwrap();
    s.add(&side, &mut out, &a, &a).unwrap();
    assert_eq!(capture_end(&s.stream), (E::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, std::ptr::null_mut()));
    // Both streams work again.
    s.add(&side, &mut out, &a, &a).unwrap();
    assert!(s.stream.clone_dtoh(&out).unwrap().iter().all(|&v| v == 2.0));
}

#[test]
fn what_is_illegal_in_a_capture_gives_its_error_and_invalidates_it() {
    let s = setup();
    let other = s.context.new_stream().unwrap();
    let a = s.stream.clone_htod(&[1.0f32; N]).unwrap();
    let event = s.context.new_event(None).unwrap();
    event.record(&other).unwrap();
    let invalidated = (E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, std::ptr::null_mut());

    capture_begin(&s.stream);
    assert_eq!(s.stream.synchronize().unwrap_err().0, E::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    let mut more = s.stream.clone_dtoh(&a);
    assert_eq!(more.unwrap_err().0, E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_eq!(capture_end(&s.stream), invalidated);

    // A dependency on work that is not part of the capture.
    capture_begin(&s.stream);
    assert_eq!(s.stream.wait(&event).unwrap_err().0, E::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(capture_end(&s.stream), invalidated);

    // A synchronous allocation, and a synchronous copy.
    capture_begin(&s.stream);
    let mut address = 0;
    // SAFETY: room for an address.
    let code = unsafe { sys::cuMemAlloc_v2(&mut address, 16) };
    assert_eq!(code, E::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(capture_end(&s.stream), invalidated);

    // Two captures may not merge.
    capture_begin(&s.stream);
    capture_begin(&other);
    event.record(&s.stream).unwrap();
    assert_eq!(other.wait(&event).unwrap_err().0, E::CUDA_ERROR_STREAM_CAPTURE_MERGE);
    assert_eq!(capture_end(&other), invalidated);
    // The event stands for nodes now: nobody can ask whether it is done.
    // SAFETY: an event.
    let code = unsafe { sys::cuEventQuery(event.cu_event()) };
    assert_eq!(code, E::CUDA_ERROR_CAPTURED_EVENT);
    assert_eq!(capture_end(&s.stream), invalidated);

    assert_eq!(capture_end(&s.stream).0, E::CUDA_ERROR_ILLEGAL_STATE, "nothing is captured");
    let legacy = s.context.default_stream();
    assert_eq!(legacy.begin_capture(MODE).unwrap_err().0, E::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    more = s.stream.clone_dtoh(&a);
    assert_eq!(more.unwrap(), [1.0; N]);
}

/// A program that drops a stream in a capture goes on: the capture is gone.
#[test]
fn a_capture_ends_with_its_stream() {
    let s = setup();
    let fork = s.context.new_event(None).unwrap();
    // SAFETY: handles are those that the driver gave; the address is freed once.
    unsafe {
        let (mut stream, mut address) = (std::ptr::null_mut(), 0);
        ok(sys::cuStreamCreate(&mut stream, 1));
        ok(sys::cuStreamBeginCapture_v2(stream, MODE));
        ok(sys::cuEventRecord(fork.cu_event(), stream));
        ok(sys::cuStreamWaitEvent(s.stream.cu_stream(), fork.cu_event(), 0));
        ok(sys::cuStreamDestroy_v2(stream));
        ok(sys::cuStreamSynchronize(s.stream.cu_stream()));
        ok(sys::cuMemAlloc_v2(&mut address, 16));
        ok(sys::cuMemFree_v2(address));
    }
}

#[test]
fn a_stream_other_than_the_first_cannot_end_a_capture() {
    let s = setup();
    let side = s.context.new_stream().unwrap();
    let fork = s.context.new_event(None).unwrap();
    capture_begin(&s.stream);
    fork.record(&s.stream).unwrap();
    side.wait(&fork).unwrap();
    assert_eq!(capture_end(&side).0, E::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    assert_eq!(capture_end(&s.stream).0, E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn an_update_takes_new_parameters_and_refuses_another_shape() {
    let s = setup();
    let (a, b) = (s.stream.clone_htod(&[1.0f32; N]).unwrap(), s.stream.clone_htod(&[5.0f32; N]).unwrap());
    let mut out = s.stream.alloc_zeros::<f32>(N).unwrap();
    capture_begin(&s.stream);
    s.add(&s.stream, &mut out, &a, &a).unwrap();
    let graph = s.stream.end_capture(NO_FLAGS).unwrap().unwrap();
    capture_begin(&s.stream);
    s.add(&s.stream, &mut out, &b, &b).unwrap();
    let (code, second) = capture_end(&s.stream);
    ok(code);
    capture_begin(&s.stream);
    s.add(&s.stream, &mut out, &b, &b).unwrap();
    s.stream.memset_zeros(&mut out).unwrap();
    let (code, longer) = capture_end(&s.stream);
    ok(code);
    capture_begin(&s.stream);
    s.stream.memset_zeros(&mut out).unwrap();
    let (code, other) = capture_end(&s.stream);
    ok(code);
    // SAFETY: graphs and nodes are alive; the structures are the API's.
    unsafe {
        let mut info: sys::CUgraphExecUpdateResultInfo = std::mem::zeroed();
        for (changed, why) in [
            (longer, sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED),
            (other, sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED),
        ] {
            let code = sys::cuGraphExecUpdate_v2(graph.cu_graph_exec(), changed, &mut info);
            assert_eq!((code, info.result), (E::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, why));
        }
        graph.launch().unwrap();
        assert_eq!(s.stream.clone_dtoh(&out).unwrap()[0], 2.0);
        ok(sys::cuGraphExecUpdate_v2(graph.cu_graph_exec(), second, &mut info));
        graph.launch().unwrap();
        assert_eq!(s.stream.clone_dtoh(&out).unwrap()[0], 10.0);
        // One node alone: n = 1 instead of 100.
        let (mut node, mut count) = (std::ptr::null_mut(), 1);
        ok(sys::cuGraphGetNodes(graph.cu_graph(), &mut node, &mut count));
        let mut params: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
        ok(sys::cuGraphKernelNodeGetParams_v2(node, &mut params));
        assert_eq!((params.func, params.blockDimX), (s.add.cu_function(), 1024));
        let n = *params.kernelParams.add(3) as *mut i32;
        assert_eq!(*n, N as i32);
        let mut one = 1i32;
        let mut pointers: Vec<*mut c_void> = (0..4).map(|i| *params.kernelParams.add(i)).collect();
        pointers[3] = &mut one as *mut i32 as *mut c_void;
        params.kernelParams = pointers.as_mut_ptr();
        ok(sys::cuGraphExecKernelNodeSetParams_v2(graph.cu_graph_exec(), node, &params));
        graph.launch().unwrap();
        let seen = s.stream.clone_dtoh(&out).unwrap();
        assert_eq!((seen[0], seen[1]), (2.0, 10.0), "only the first element, of a again");
        for g in [second, longer, other] {
            ok(sys::cuGraphDestroy(g));
        }
    }
}

unsafe extern "C" fn count_call(data: *mut c_void) {
    // SAFETY: the test passes the address of a number that outlives the graph.
    unsafe { *(data as *mut u32) += 1 };
}

#[test]
fn a_graph_by_hand_has_nodes_of_every_kind() {
    let s = setup();
    let mut out = s.stream.alloc_zeros::<u32>(8).unwrap();
    let mut host = [0u32; 8];
    let mut calls = 0u32;
    let address = {
        use cudarc::driver::DevicePtrMut;
        out.device_ptr_mut(&s.stream).0
    };
    // SAFETY: the structures are the API's; buffers outlive the graph.
    unsafe {
        let mut graph = std::ptr::null_mut();
        ok(sys::cuGraphCreate(&mut graph, 0));
        let [mut fill, mut copy, mut call, mut end, mut free] = [std::ptr::null_mut(); 5];
        let mut memset: sys::CUDA_MEMSET_NODE_PARAMS = std::mem::zeroed();
        (memset.dst, memset.value, memset.elementSize, memset.width, memset.height) = (address, 7, 4, 8, 1);
        let context = s.context.cu_ctx();
        ok(sys::cuGraphAddMemsetNode(&mut fill, graph, std::ptr::null(), 0, &memset, context));
        let mut memcpy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
        let m = memcpy.as_mut_ptr();
        (*m).srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        (*m).srcDevice = address;
        (*m).dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        (*m).dstHost = host.as_mut_ptr() as *mut c_void;
        ((*m).WidthInBytes, (*m).Height, (*m).Depth) = (32, 1, 1);
        ok(sys::cuGraphAddMemcpyNode(&mut copy, graph, std::ptr::null(), 0, m, context));
        let params = sys::CUDA_HOST_NODE_PARAMS {
            fn_: Some(count_call),
            userData: &mut calls as *mut u32 as *mut c_void,
        };
        ok(sys::cuGraphAddHostNode(&mut call, graph, &copy, 1, &params));
        ok(sys::cuGraphAddEmptyNode(&mut end, graph, [call, fill].as_ptr(), 2));
        // The copy was made before its dependency was: order follows the edge.
        ok(sys::cuGraphAddDependencies_v2(graph, &fill, &copy, std::ptr::null(), 1));
        let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL;
        ok(sys::cuGraphNodeGetType(end, &mut kind));
        assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY);
        // Memory of the graph's own: allocated, freed, and the graph can run again.
        let mut alloc: sys::CUDA_MEM_ALLOC_NODE_PARAMS = std::mem::zeroed();
        alloc.bytesize = 64;
        let mut memory = std::ptr::null_mut();
        ok(sys::cuGraphAddMemAllocNode(&mut memory, graph, &end, 1, &mut alloc));
        ok(sys::cuGraphAddMemFreeNode(&mut free, graph, &memory, 1, alloc.dptr));
        assert_ne!(alloc.dptr, 0);

        let path = std::env::temp_dir().join(format!("emulator-graph-{}.dot", std::process::id()));
        let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        ok(sys::cuGraphDebugDotPrint(graph, text.as_ptr(), 0));
        let dot = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(dot.contains("node_0 -> node_1;") && dot.contains("host function"), "{dot}");

        let mut exec = std::ptr::null_mut();
        ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        for _ in 0..2 {
            host = [0; 8];
            ok(sys::cuGraphLaunch(exec, s.stream.cu_stream()));
            assert_eq!(host, [7; 8]);
        }
        assert_eq!(calls, 2);
        // A graph inside a graph, and a clone.
        let (mut outer, mut child, mut twice) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        ok(sys::cuGraphCreate(&mut outer, 0));
        ok(sys::cuGraphAddChildGraphNode(&mut child, outer, std::ptr::null(), 0, graph));
        ok(sys::cuGraphClone(&mut twice, outer));
        ok(sys::cuGraphInstantiateWithFlags(&mut exec, twice, 0));
        ok(sys::cuGraphLaunch(exec, s.stream.cu_stream()));
        assert_eq!(calls, 3);
        // Dependencies may not go round.
        ok(sys::cuGraphAddDependencies_v2(graph, &call, &fill, std::ptr::null(), 1));
        let refused = sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0);
        assert_eq!(refused, E::CUDA_ERROR_INVALID_VALUE);
        for g in [graph, outer, twice] {
            ok(sys::cuGraphDestroy(g));
        }
        assert_eq!(sys::cuGraphDestroy(graph), E::CUDA_ERROR_INVALID_HANDLE, "destroyed already");
    }
}

/// A stream may go as soon as its work has been joined, and not before.
#[test]
fn a_stream_that_has_been_joined_may_be_destroyed() {
    let s = setup();
    for joined in [true, false] {
        let (fork, join) = (s.context.new_event(None).unwrap(), s.context.new_event(None).unwrap());
        let a = s.stream.clone_htod(&[1.0f32; N]).unwrap();
        let mut out = s.stream.alloc_zeros::<f32>(N).unwrap();
        capture_begin(&s.stream);
        let side = s.context.new_stream().unwrap();
        fork.record(&s.stream).unwrap();
        side.wait(&fork).unwrap();
        s.add(&side, &mut out, &a, &a).unwrap();
        if joined {
            join.record(&side).unwrap();
            s.stream.wait(&join).unwrap();
        }
        drop(side);
        let (code, graph) = capture_end(&s.stream);
        let expected = if joined { E::CUDA_SUCCESS } else { E::CUDA_ERROR_STREAM_CAPTURE_UNJOINED };
        assert_eq!((code, graph.is_null()), (expected, !joined));
    }
}

/// Memory that a captured allocation will have can be copied to and from in the same capture.
#[test]
fn a_capture_may_copy_what_it_allocates() {
    let s = setup();
    let (stream, mut back) = (s.stream.cu_stream(), [0f32; 4]);
    let numbers = [1.0f32, 2.0, 3.0, 4.0];
    // SAFETY: the capture's copies use the host's buffers, which live to the end of the test.
    unsafe {
        let (mut address, mut exec) = (0, std::ptr::null_mut());
        capture_begin(&s.stream);
        ok(sys::cuMemAllocAsync(&mut address, 16, stream));
        ok(sys::cuMemcpyHtoDAsync_v2(address, numbers.as_ptr().cast(), 16, stream));
        ok(sys::cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), address, 16, stream));
        ok(sys::cuMemFreeAsync(address, stream));
        let (code, graph) = capture_end(&s.stream);
        ok(code);
        ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        ok(sys::cuGraphLaunch(exec, stream));
        ok(sys::cuStreamSynchronize(stream));
        ok(sys::cuGraphExecDestroy(exec));
    }
    assert_eq!(back, numbers);
}
