//! What kernels call that no file defines: `malloc` and `free`, and the grid's barrier as libcudadevrt has it.

mod common;

use std::ffi::{CString, c_void};

use cudarc::driver::sys::{self, cudaError_enum as E};

/// Each thread takes a block, fills it, reads it back, and frees it. `kind` breaks it: 1 overruns, 2 uses it after
/// `free`, 3 frees twice, 4 takes more than there is and says so.
const HEAP: &str = ".version 7.0
.target sm_80
.address_size 64
.extern .func (.param .b64 func_retval0) malloc (.param .b64 malloc_param_0);
.extern .func free (.param .b64 free_param_0);
.visible .entry heap(.param .u64 out, .param .u32 kind) {
    .reg .b32 %r<6>; .reg .b64 %rd<8>; .reg .pred %p<6>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [kind];
    mov.u32 %r2, %tid.x;
    mov.u64 %rd2, 8;
    setp.eq.u32 %p4, %r1, 4;
    @%p4 mov.u64 %rd2, 0x10000000;
    { .param .b64 param0; .param .b64 retval0;
      st.param.b64 [param0], %rd2;
      call.uni (retval0), malloc, (param0);
      ld.param.b64 %rd3, [retval0]; }
    setp.eq.u64 %p5, %rd3, 0;
    mov.u32 %r4, -1;
    @%p5 bra write;
    st.u32 [%rd3], %r2;
    setp.eq.u32 %p1, %r1, 1;
    @%p1 st.u32 [%rd3+8], %r2;
    ld.u32 %r4, [%rd3];
    { .param .b64 param0; st.param.b64 [param0], %rd3; call.uni free, (param0); }
    setp.eq.u32 %p2, %r1, 2;
    @%p2 ld.u32 %r4, [%rd3];
    setp.ne.u32 %p3, %r1, 3;
    @%p3 bra write;
    { .param .b64 param0; st.param.b64 [param0], %rd3; call.uni free, (param0); }
write:
    cvta.to.global.u64 %rd4, %rd1;
    mul.wide.u32 %rd5, %r2, 4;
    add.s64 %rd4, %rd4, %rd5;
    st.global.u32 [%rd4], %r4;
    ret;
}
";

/// Thread t of block b adds, after the barrier, what the same thread of the next block wrote before it.
const GRID: &str = ".version 7.0
.target sm_80
.address_size 64
.extern .func (.param .b64 func_retval0) cudaCGGetIntrinsicHandle (.param .b32 scope);
.extern .func (.param .b32 func_retval0) cudaCGSynchronize (.param .b64 handle, .param .b32 flags);
.visible .entry grid(.param .u64 out, .param .u64 in) {
    .reg .b32 %r<12>; .reg .b64 %rd<12>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [in];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %nctaid.x;
    mad.lo.u32 %r5, %r2, %r3, %r1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r5;
    mov.u32 %r6, 1;
    { .param .b32 param0; .param .b64 retval0; st.param.b32 [param0], %r6;
      call.uni (retval0), cudaCGGetIntrinsicHandle, (param0); ld.param.b64 %rd5, [retval0]; }
    mov.u32 %r7, 0;
    { .param .b64 param0; .param .b32 param1; .param .b32 retval0;
      st.param.b64 [param0], %rd5; st.param.b32 [param1], %r7;
      call.uni (retval0), cudaCGSynchronize, (param0, param1); ld.param.b32 %r8, [retval0]; }
    add.u32 %r9, %r2, 1;
    rem.u32 %r9, %r9, %r4;
    mad.lo.u32 %r9, %r9, %r3, %r1;
    mul.wide.u32 %rd6, %r9, 4;
    add.s64 %rd7, %rd2, %rd6;
    ld.global.u32 %r10, [%rd7];
    add.s64 %rd8, %rd1, %rd3;
    st.global.u32 [%rd8], %r10;
    ret;
}
";

fn ok(code: sys::CUresult) {
    assert_eq!(code, E::CUDA_SUCCESS);
}

/// Runs `heap` in a context of its own, so that its error stays there; gives the launch's code and what it wrote.
fn heap(kind: u32) -> (sys::CUresult, [i32; 40]) {
    common::driver();
    // SAFETY: the API's calls, with pointers to live values and parameters that are the kernel's.
    unsafe {
        ok(sys::cuInit(0));
        let (mut context, mut module) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut function, mut out) = (std::ptr::null_mut(), 0u64);
        ok(sys::cuCtxCreate_v2(&mut context, 0, 0));
        let text = CString::new(HEAP).unwrap();
        ok(sys::cuModuleLoadData(&mut module, text.as_ptr().cast()));
        ok(sys::cuModuleGetFunction(&mut function, module, c"heap".as_ptr()));
        ok(sys::cuMemAlloc_v2(&mut out, 160));
        let (mut o, mut k) = (out, kind);
        let mut params = [&raw mut o as *mut c_void, &raw mut k as *mut c_void];
        let code = sys::cuLaunchKernel(
            function,
            1,
            1,
            1,
            40,
            1,
            1,
            0,
            std::ptr::null_mut(),
            params.as_mut_ptr(),
            std::ptr::null_mut(),
        );
        let mut words = [0i32; 40];
        if code == E::CUDA_SUCCESS {
            ok(sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), out, 160));
        } else {
            assert_eq!(sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), out, 160), code, "it stays");
        }
        ok(sys::cuCtxDestroy_v2(context));
        (code, words)
    }
}

/// One test at a time: what one does to the device's primary context, its errors and its reset, the other would see.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[test]
fn blocks_of_malloc_belong_to_their_thread_and_wrong_use_is_found() {
    let _alone = alone();
    let (code, words) = heap(0);
    assert_eq!(code, E::CUDA_SUCCESS);
    assert_eq!(words, std::array::from_fn(|i| i as i32));
    assert_eq!(heap(1).0, E::CUDA_ERROR_ILLEGAL_ADDRESS, "past the end");
    assert_eq!(heap(2).0, E::CUDA_ERROR_ILLEGAL_ADDRESS, "after free");
    assert_eq!(heap(3).0, E::CUDA_ERROR_LAUNCH_FAILED, "freed twice");
    let (code, words) = heap(4);
    assert_eq!((code, words), (E::CUDA_SUCCESS, [-1; 40]), "more than the heap has gives a null pointer");
}

#[test]
fn the_grids_barrier_is_the_emulators_own() {
    let _alone = alone();
    let context = common::context();
    let stream = context.new_stream().unwrap();
    // SAFETY: the API's calls, with pointers to live values and parameters that are the kernel's.
    unsafe {
        let mut link = std::ptr::null_mut();
        let mut image = std::ptr::null_mut();
        let (mut size, mut module, mut function) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        let text = CString::new(GRID).unwrap();
        let none = std::ptr::null_mut();
        ok(sys::cuLinkCreate_v2(0, none, std::ptr::null_mut(), &mut link));
        let ptx = sys::CUjitInputType::CU_JIT_INPUT_PTX;
        let (data, length) = (text.as_ptr() as *mut c_void, GRID.len() + 1);
        ok(sys::cuLinkAddData_v2(link, ptx, data, length, c"grid".as_ptr(), 0, none, std::ptr::null_mut()));
        // The library that has these functions on hardware; any other is refused.
        let archive = CString::new("!<arch>\n").unwrap();
        let add = |name: &std::ffi::CStr| {
            let kind = sys::CUjitInputType::CU_JIT_INPUT_LIBRARY;
            let data = archive.as_ptr() as *mut c_void;
            sys::cuLinkAddData_v2(
                link,
                kind,
                data,
                8,
                name.as_ptr(),
                0,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        ok(add(c"/usr/lib/libcudadevrt.a"));
        assert_eq!(add(c"libother.a"), E::CUDA_ERROR_NOT_SUPPORTED);
        ok(sys::cuLinkComplete(link, &mut image, &mut size));
        ok(sys::cuModuleLoadData(&mut module, image));
        ok(sys::cuModuleGetFunction(&mut function, module, c"grid".as_ptr()));
        let out = stream.alloc_zeros::<u32>(320).unwrap();
        let numbers = stream.alloc_zeros::<u32>(320).unwrap();
        use cudarc::driver::DevicePtr;
        let (mut o, mut i) = (out.device_ptr(&stream).0, numbers.device_ptr(&stream).0);
        let mut params = [&raw mut o as *mut c_void, &raw mut i as *mut c_void];
        let s = stream.cu_stream();
        ok(sys::cuLaunchCooperativeKernel(function, 5, 1, 1, 64, 1, 1, 0, s, params.as_mut_ptr()));
        let seen = stream.clone_dtoh(&out).unwrap();
        assert_eq!(seen, (0..320).map(|t| (t + 64) % 320).collect::<Vec<u32>>());
        ok(sys::cuLinkDestroy(link));
    }
}
