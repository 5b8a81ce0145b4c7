//! Virtual memory management, words that streams write and wait for, and batches of copies, as programs use them.

mod common;

use std::ffi::c_void;

use cudarc::driver::sys::{self, cudaError_enum as E};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const PAGE: usize = 2 << 20;

/// Adds 1 to n words.
const INCREMENT: &str = ".version 7.0
.target sm_80
.address_size 64
.visible .entry increment(.param .u64 words, .param .u32 n) {
    .reg .b32 %r<6>; .reg .b64 %rd<4>; .reg .pred %p;
    ld.param.u64 %rd1, [words];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.u32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p ret;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.u32 %r5, [%rd1];
    add.u32 %r5, %r5, 1;
    st.global.u32 [%rd1], %r5;
    ret;
}";

fn ok(code: sys::CUresult) {
    assert_eq!(code, E::CUDA_SUCCESS);
}

fn properties() -> sys::CUmemAllocationProp {
    // SAFETY: a structure of numbers, for which zeros are valid.
    let mut p: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    p.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    p.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    p
}

#[test]
fn segments_that_grow_are_one_range_for_kernels_and_copies() {
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let kernel = context.load_module(Ptx::from_src(INCREMENT)).unwrap().load_function("increment").unwrap();
    // SAFETY: the API's calls with valid pointers, in the order that it asks for.
    unsafe {
        let p = properties();
        let (mut range, mut granularity) = (0, 0);
        let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        ok(sys::cuMemGetAllocationGranularity(&mut granularity, &p, minimum));
        assert_eq!(granularity, PAGE);
        assert_eq!(sys::cuMemAddressReserve(&mut range, 4096, 0, 0, 0), E::CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuMemAddressReserve(&mut range, 8 * PAGE, 0, 0, 0));
        let mut handles = [0; 2];
        let access = sys::CUmemAccessDesc {
            location: p.location,
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        for (i, handle) in handles.iter_mut().enumerate() {
            let at = range + (i * PAGE) as u64;
            ok(sys::cuMemCreate(handle, PAGE, &p, 0));
            ok(sys::cuMemMap(at, PAGE, 0, *handle, 0));
            assert_eq!(sys::cuMemMap(at, PAGE, 0, *handle, 0), E::CUDA_ERROR_INVALID_VALUE, "mapped");
            assert_eq!(sys::cuMemsetD32_v2(at, 1, 4), E::CUDA_ERROR_INVALID_VALUE, "not accessible yet");
            ok(sys::cuMemSetAccess(at, PAGE, &access, 1));
        }
        assert_eq!(
            sys::cuMemMap(range + 8 * PAGE as u64, PAGE, 0, handles[0], 0),
            E::CUDA_ERROR_INVALID_VALUE,
            "beyond the range"
        );
        // 100 words across the seam.
        let across = range + PAGE as u64 - 200;
        ok(sys::cuMemsetD32_v2(across, 41, 100));
        let n = 100u32;
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&across).arg(&n);
        launch.launch(LaunchConfig::for_num_elems(100)).unwrap();
        let mut words = [0u32; 100];
        ok(sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), across, 400));
        assert_eq!(words, [42; 100]);
        // The second page, mapped elsewhere too: the same bytes.
        let mut other = 0;
        ok(sys::cuMemAddressReserve(&mut other, PAGE, 0, 0, 0));
        ok(sys::cuMemMap(other, PAGE, 0, handles[1], 0));
        ok(sys::cuMemSetAccess(other, PAGE, &access, 1));
        ok(sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), other, 200));
        assert_eq!(words[..50], [42; 50]);
        let mut again = 0;
        ok(sys::cuMemRetainAllocationHandle(&mut again, other as *mut c_void));
        assert_eq!(again, handles[1]);
        ok(sys::cuMemRelease(again));
        // Released memory lives on while it is mapped.
        let (mut before, mut after, mut total) = (0, 0, 0);
        ok(sys::cuMemGetInfo_v2(&mut before, &mut total));
        handles.iter().for_each(|&h| ok(sys::cuMemRelease(h)));
        ok(sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), across, 400));
        assert_eq!(sys::cuMemAddressFree(range, 8 * PAGE), E::CUDA_ERROR_INVALID_VALUE, "still mapped");
        ok(sys::cuMemUnmap(range, 2 * PAGE));
        ok(sys::cuMemUnmap(other, PAGE));
        ok(sys::cuMemGetInfo_v2(&mut after, &mut total));
        assert_eq!(after - before, 2 * PAGE);
        ok(sys::cuMemAddressFree(range, 8 * PAGE));
        assert_eq!(sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), across, 4), E::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn streams_write_words_and_wait_for_those_that_are_there() {
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let words = stream.alloc_zeros::<u64>(4).unwrap();
    let s = stream.cu_stream();
    // SAFETY: addresses of live memory.
    unsafe {
        use cudarc::driver::DevicePtr;
        let at = words.device_ptr(&stream).0;
        ok(sys::cuStreamWriteValue32_v2(s, at, 7, 0));
        ok(sys::cuStreamWriteValue64_v2(s, at + 8, 1 << 40, 0));
        ok(sys::cuStreamWaitValue32_v2(s, at, 7, 1));
        ok(sys::cuStreamWaitValue64_v2(s, at + 8, 1 << 39, 0));
        assert_eq!(sys::cuStreamWaitValue32_v2(s, at, 8, 0), E::CUDA_ERROR_NOT_SUPPORTED, "nobody writes it");
        assert_eq!(sys::cuStreamWriteValue32_v2(s, at + 2, 7, 0), E::CUDA_ERROR_INVALID_VALUE, "misaligned");
    }
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [7, 1 << 40, 0, 0]);
}

#[test]
fn the_primary_context_is_active_while_it_is_held() {
    let _context = common::context();
    let (mut flags, mut active) = (0, 0);
    // SAFETY: two numbers.
    unsafe { ok(sys::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active)) };
    assert_eq!(active, 1);
}
