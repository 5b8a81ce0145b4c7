//! Kernels through the driver: cooperative launches, extended launches, attributes, occupancy, linking, logs, streams.

mod common;

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use cudarc::driver::sys::{self, CUfunction_attribute as A, cudaError_enum as E};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const BASIC: &str = include_str!("../../tests/ptx/basic.ptx");
const SHARED: &str = include_str!("../../tests/ptx/shared.ptx");
const GRID: &str = include_str!("../../tests/ptx/grid.ptx");

fn ok(code: sys::CUresult) {
    assert_eq!(code, E::CUDA_SUCCESS);
}

#[test]
fn a_cooperative_launch_waits_for_the_whole_grid() {
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let kernel = context.load_module(Ptx::from_src(GRID)).unwrap().load_function("grid_sum").unwrap();
    let blocks = 37;
    let mut out = stream.alloc_zeros::<i32>(blocks as usize).unwrap();
    let mut part = stream.alloc_zeros::<i32>(blocks as usize).unwrap();
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&mut out).arg(&mut part);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch_cooperative(config) }.unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [37 * 38 / 2; 37], "the sum of 1 to 37 in every block");
    // More blocks than the device holds at once: sm_80 has 108 SMs with 32 blocks each.
    let big = LaunchConfig { grid_dim: (108 * 32 + 1, 1, 1), ..config };
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&mut out).arg(&mut part);
    // SAFETY: refused before it runs.
    let refused = unsafe { launch.launch_cooperative(big) }.unwrap_err();
    assert_eq!(refused.0, E::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

#[test]
fn an_extended_launch_reads_its_attributes() {
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let kernel = context.load_module(Ptx::from_src(BASIC)).unwrap().load_function("vector_add").unwrap();
    let a = stream.clone_htod(&[1.5f32; 64]).unwrap();
    let out = stream.alloc_zeros::<f32>(64).unwrap();
    // SAFETY: the structures are the API's; parameters are those of the kernel.
    unsafe {
        use cudarc::driver::DevicePtr;
        let (mut to, mut from, mut n) = (out.device_ptr(&stream).0, a.device_ptr(&stream).0, 64i32);
        let mut params = [
            &mut to as *mut u64 as *mut c_void,
            &mut from as *mut u64 as *mut c_void,
            &mut from as *mut u64 as *mut c_void,
            &mut n as *mut i32 as *mut c_void,
        ];
        let mut attribute = std::mem::MaybeUninit::<sys::CUlaunchAttribute>::zeroed();
        let at = attribute.as_mut_ptr();
        (*at).id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        (*at).value.programmaticStreamSerializationAllowed = 1;
        let mut config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 64,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: at,
            numAttrs: 1,
        };
        let f = kernel.cu_function();
        ok(sys::cuLaunchKernelEx(&config, f, params.as_mut_ptr(), std::ptr::null_mut()));
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [3.0; 64]);
        // Clusters need sm_90.
        (*at).id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        (*at).value = std::mem::zeroed();
        (*at).value.clusterDim.x = 2;
        (*at).value.clusterDim.y = 1;
        (*at).value.clusterDim.z = 1;
        config.gridDimX = 2;
        let refused = sys::cuLaunchKernelEx(&config, f, params.as_mut_ptr(), std::ptr::null_mut());
        assert_eq!(refused, E::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        (*at).id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT;
        let refused = sys::cuLaunchKernelEx(&config, f, params.as_mut_ptr(), std::ptr::null_mut());
        assert_eq!(refused, E::CUDA_ERROR_NOT_SUPPORTED);
    }
}

#[test]
fn kernels_tell_their_attributes_and_parameters() {
    let context = common::context();
    let module = context.load_module(Ptx::from_src(SHARED)).unwrap();
    let kernel = module.load_function("softmax_row").unwrap();
    let get = |a| kernel.get_attribute(a).unwrap();
    assert_eq!(get(A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
    assert_eq!(get(A::CU_FUNC_ATTRIBUTE_PTX_VERSION), 80);
    assert!((16..=255).contains(&get(A::CU_FUNC_ATTRIBUTE_NUM_REGS)));
    assert_eq!(get(A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), 48 << 10);
    let set = |bytes| kernel.set_attribute(A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
    set(163 << 10).unwrap();
    assert_eq!(set((163 << 10) + 1).unwrap_err().0, E::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(get(A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), 163 << 10);
    let f = kernel.cu_function();
    // SAFETY: a function, and room for what is asked.
    unsafe {
        let (mut offset, mut size) = (0, 0);
        ok(sys::cuFuncGetParamInfo(f, 2, &mut offset, &mut size));
        assert_eq!((offset, size), (16, 4), "two pointers before an int");
        assert_eq!(sys::cuFuncGetParamInfo(f, 3, &mut offset, &mut size), E::CUDA_ERROR_INVALID_VALUE);
        let mut name = std::ptr::null();
        ok(sys::cuFuncGetName(&mut name, f));
        assert_eq!(std::ffi::CStr::from_ptr(name), c"softmax_row");
        // Occupancy by shared memory: 164 KiB, 1 KiB of which goes to each block.
        let mut blocks = 0;
        ok(sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, f, 128, 40 << 10));
        assert_eq!(blocks, 4);
        let (mut grid, mut block) = (0, 0);
        ok(sys::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, f, None, 0, 0));
        assert!(block >= 512 && grid % 108 == 0, "{grid} x {block}");
        let mut free = 0;
        ok(sys::cuOccupancyAvailableDynamicSMemPerBlock(&mut free, f, 2, 128));
        assert_eq!(free, (82 - 1) << 10);
    }
}

#[test]
fn several_texts_link_into_one_module() {
    let context = common::context();
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let main = format!(
        "{head}.extern .global .align 4 .b32 answer;
.visible .entry k(.param .u64 out) {{
    .reg .b32 %r<2>; .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    ld.global.u32 %r1, [answer];
    st.global.u32 [%rd1], %r1;
    ret;
}}"
    );
    let other = format!("{head}.visible .global .align 4 .b32 answer = 42;");
    let mut log = [0u8; 200];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr() as *mut c_void, log.len() as *mut c_void];
    // SAFETY: texts end with a zero and outlive the link; the log is as long as it says.
    unsafe {
        let mut link = std::ptr::null_mut();
        ok(sys::cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &mut link));
        let add = |text: &str, name: &std::ffi::CStr| {
            let text = CString::new(text).unwrap();
            let (data, size) = (text.as_ptr() as *mut c_void, text.as_bytes_with_nul().len());
            let kind = sys::CUjitInputType::CU_JIT_INPUT_PTX;
            let none = std::ptr::null_mut();
            sys::cuLinkAddData_v2(link, kind, data, size, name.as_ptr(), 0, none, std::ptr::null_mut())
        };
        ok(add(&main, c"main.ptx"));
        assert_eq!(add("nonsense", c"bad.ptx"), E::CUDA_ERROR_INVALID_PTX);
        assert!(std::str::from_utf8(&log).unwrap().starts_with("bad.ptx: PTX line 1"));
        ok(add(&other, c"other.ptx"));
        let (mut image, mut size) = (std::ptr::null_mut(), 0);
        ok(sys::cuLinkComplete(link, &mut image, &mut size));
        let mut module = std::ptr::null_mut();
        ok(sys::cuModuleLoadData(&mut module, image));
        ok(sys::cuLinkDestroy(link));
        let (mut address, mut bytes) = (0, 0);
        ok(sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"answer".as_ptr()));
        assert_eq!(bytes, 4);
        ok(sys::cuModuleUnload(module));
        // A library is the same without a context.
        let mut library = std::ptr::null_mut();
        let text = CString::new(other).unwrap();
        let none = std::ptr::null_mut();
        let data = text.as_ptr() as *const c_void;
        ok(sys::cuLibraryLoadData(
            &mut library,
            data,
            none,
            std::ptr::null_mut(),
            0,
            none.cast(),
            std::ptr::null_mut(),
            0,
        ));
        ok(sys::cuLibraryGetGlobal(&mut address, &mut bytes, library, c"answer".as_ptr()));
        let mut value = 0u32;
        ok(sys::cuMemcpyDtoH_v2(&mut value as *mut u32 as *mut c_void, address, 4));
        assert_eq!(value, 42);
        ok(sys::cuLibraryUnload(library));
    }
    drop(context);
}

#[test]
fn streams_have_priorities_and_call_the_host_in_order() {
    static CALLED: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn call(data: *mut c_void) {
        CALLED.fetch_add(data as usize as u32, SeqCst);
    }
    let context = common::context();
    let _bound = context.new_stream().unwrap();
    // SAFETY: handles are those that the driver gave; the callback reads no memory.
    unsafe {
        let (mut least, mut greatest) = (0, 0);
        ok(sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
        assert!(greatest < least);
        let (mut stream, mut priority) = (std::ptr::null_mut(), 0);
        ok(sys::cuStreamCreateWithPriority(&mut stream, 1, greatest - 3));
        ok(sys::cuStreamGetPriority(stream, &mut priority));
        assert_eq!(priority, greatest, "clamped");
        ok(sys::cuLaunchHostFunc(stream, Some(call), 5 as *mut c_void));
        assert_eq!(CALLED.load(SeqCst), 5);
        ok(sys::cuStreamQuery(stream));
        ok(sys::cuStreamDestroy_v2(stream));
        assert_eq!(sys::cuStreamQuery(stream), E::CUDA_ERROR_INVALID_HANDLE);
    }
}

/// An event without timing has no time, and every code of the header has a name.
#[test]
fn errors_have_names_and_events_their_flags() {
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let (a, b) = (context.new_event(None).unwrap(), context.new_event(None).unwrap());
    a.record(&stream).unwrap();
    b.record(&stream).unwrap();
    assert_eq!(a.elapsed_ms(&b).unwrap_err().0, E::CUDA_ERROR_INVALID_HANDLE);
    for code in
        [E::CUDA_ERROR_STREAM_CAPTURE_MERGE, E::CUDA_ERROR_UNKNOWN, E::CUDA_ERROR_INVALID_CLUSTER_SIZE]
    {
        let mut name = std::ptr::null();
        // SAFETY: room for a pointer to a constant text.
        let name = unsafe {
            ok(sys::cuGetErrorName(code, &mut name));
            std::ffi::CStr::from_ptr(name).to_str().unwrap()
        };
        assert_eq!(name, format!("{code:?}"));
    }
}
