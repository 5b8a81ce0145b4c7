//! Memory through the driver: pools, pinned and managed memory, copies and fills in two dimensions, pointers.

mod common;

use std::ffi::c_void;

use cudarc::driver::sys::{self, cudaError_enum as E};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const BASIC: &str = include_str!("../../tests/ptx/basic.ptx");

/// One test at a time: any synchronisation of the device trims every pool.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn ok(code: sys::CUresult) {
    assert_eq!(code, E::CUDA_SUCCESS);
}

fn pool_value(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute) -> u64 {
    let mut value = 0u64;
    // SAFETY: the attributes asked for here are 64-bit numbers.
    ok(unsafe { sys::cuMemPoolGetAttribute(pool, attribute, &mut value as *mut u64 as *mut c_void) });
    value
}

/// A pool of its own, so that other tests do not use it.
fn new_pool() -> sys::CUmemoryPool {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the structure is the API's: zero but for what is set.
    unsafe {
        let mut props = std::mem::MaybeUninit::<sys::CUmemPoolProps>::zeroed();
        let p = props.as_mut_ptr();
        (*p).allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        (*p).location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        ok(sys::cuMemPoolCreate(&mut pool, p));
    }
    pool
}

#[test]
fn a_pool_keeps_freed_memory_up_to_its_threshold() {
    let _alone = alone();
    use sys::CUmemPool_attribute as A;
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let pool = new_pool();
    let mib = 1u64 << 20;
    // SAFETY: addresses are those that the pool gave.
    unsafe {
        let mut keep = 8 * mib;
        let threshold = A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        ok(sys::cuMemPoolSetAttribute(pool, threshold, &mut keep as *mut u64 as *mut c_void));
        assert_eq!(pool_value(pool, threshold), 8 * mib);
        let (mut a, mut b) = (0, 0);
        ok(sys::cuMemAllocFromPoolAsync(&mut a, 5 << 20, pool, stream.cu_stream()));
        ok(sys::cuMemAllocFromPoolAsync(&mut b, 7 << 20, pool, stream.cu_stream()));
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 12 * mib);
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 12 * mib);
        ok(sys::cuMemFreeAsync(a, stream.cu_stream()));
        ok(sys::cuMemFreeAsync(b, stream.cu_stream()));
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        assert_eq!(
            pool_value(pool, A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT),
            12 * mib,
            "until it is synchronised"
        );
        stream.synchronize().unwrap();
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 8 * mib, "the threshold");
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 12 * mib);
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 12 * mib);
        let mut zero = 0u64;
        let high = A::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        ok(sys::cuMemPoolSetAttribute(pool, high, &mut zero as *mut u64 as *mut c_void));
        assert_eq!(pool_value(pool, high), 0);
        ok(sys::cuMemPoolTrimTo(pool, 0));
        assert_eq!(pool_value(pool, A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0);
        ok(sys::cuMemPoolDestroy(pool));
    }
}

#[test]
fn the_default_pool_serves_asynchronous_allocations() {
    let _alone = alone();
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let mut pool = std::ptr::null_mut();
    // SAFETY: room for a handle; the address is asked about while it is alive.
    unsafe {
        ok(sys::cuDeviceGetDefaultMemPool(&mut pool, 0));
        let mut address = 0;
        ok(sys::cuMemAllocAsync(&mut address, 1 << 20, stream.cu_stream()));
        let mut of = std::ptr::null_mut::<c_void>();
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE;
        ok(sys::cuPointerGetAttribute(&mut of as *mut _ as *mut c_void, attribute, address));
        assert_eq!(of, pool as *mut c_void);
        ok(sys::cuMemFreeAsync(address, stream.cu_stream()));
        assert_eq!(sys::cuMemFreeAsync(address, stream.cu_stream()), E::CUDA_ERROR_INVALID_VALUE, "freed");
    }
}

/// One buffer of the host, written by the host, read and written by a kernel, with no copy.
#[test]
fn kernels_reach_pinned_registered_and_managed_memory() {
    let _alone = alone();
    let context = common::context();
    let stream = context.new_stream().unwrap();
    let add = context.load_module(Ptx::from_src(BASIC)).unwrap().load_function("vector_add").unwrap();
    let mut own = vec![3.0f32; 64];
    // SAFETY: addresses come from the driver and are used for as many elements as were asked for; the kernel's
    // arguments are its own; the vector outlives its registration.
    unsafe {
        let (mut pinned, mut managed, mut device) = (std::ptr::null_mut(), 0, 0);
        ok(sys::cuMemHostAlloc(&mut pinned, 256, 0));
        ok(sys::cuMemAllocManaged(&mut managed, 256, 1));
        ok(sys::cuMemHostRegister_v2(own.as_mut_ptr() as *mut c_void, 256, 0));
        ok(sys::cuMemHostGetDevicePointer_v2(&mut device, pinned, 0));
        assert_eq!(device, pinned as u64, "one address for both");
        std::slice::from_raw_parts_mut(pinned as *mut f32, 64).fill(2.0);
        let (out, a, b, n) = (managed, device, own.as_ptr() as u64, 64i32);
        let mut launch = stream.launch_builder(&add);
        launch.arg(&out).arg(&a).arg(&b).arg(&n);
        launch.launch(LaunchConfig::for_num_elems(64)).unwrap();
        assert_eq!(std::slice::from_raw_parts(managed as *const f32, 64), [5.0; 64]);
        let mut is_managed = false;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED;
        ok(sys::cuPointerGetAttribute(&mut is_managed as *mut bool as *mut c_void, attribute, managed));
        assert!(is_managed);
        let mut kind = 0u32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        ok(sys::cuPointerGetAttribute(&mut kind as *mut u32 as *mut c_void, attribute, pinned as u64 + 8));
        assert_eq!(kind, 1, "host memory");
        let local = 0u64;
        let refused = sys::cuPointerGetAttribute(
            &mut kind as *mut u32 as *mut c_void,
            attribute,
            &local as *const u64 as u64,
        );
        assert_eq!(refused, E::CUDA_ERROR_INVALID_VALUE, "the driver does not know this address");
        ok(sys::cuMemHostUnregister(own.as_mut_ptr() as *mut c_void));
        let again = sys::cuMemHostUnregister(own.as_mut_ptr() as *mut c_void);
        assert_eq!(again, E::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        assert_eq!(
            sys::cuMemFree_v2(pinned as u64),
            E::CUDA_ERROR_INVALID_VALUE,
            "cuMemFreeHost is for that"
        );
        ok(sys::cuMemFreeHost(pinned));
        ok(sys::cuMemFree_v2(managed));
    }
}

#[test]
fn copies_and_fills_in_two_dimensions_keep_the_padding() {
    let _alone = alone();
    let _context = common::context();
    let (width, height) = (5usize, 3usize);
    let source: Vec<u8> = (0..15).collect();
    let mut back = vec![0xaau8; 24];
    // SAFETY: the structures are the API's; rows lie within the buffers.
    unsafe {
        let (mut address, mut pitch) = (0, 0);
        ok(sys::cuMemAllocPitch_v2(&mut address, &mut pitch, width, height, 4));
        assert_eq!(pitch, 512);
        ok(sys::cuMemsetD2D8_v2(address, pitch, 9, pitch, height));
        let mut copy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY2D>::zeroed();
        let c = copy.as_mut_ptr();
        (*c).srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        ((*c).srcHost, (*c).srcPitch) = (source.as_ptr() as *const c_void, width);
        (*c).dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        ((*c).dstDevice, (*c).dstPitch, (*c).WidthInBytes, (*c).Height) = (address, pitch, width, height);
        ok(sys::cuMemcpy2D_v2(c));
        // Back, two columns further, into rows of 8.
        let mut copy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY2D>::zeroed();
        let c = copy.as_mut_ptr();
        (*c).srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED;
        ((*c).srcDevice, (*c).srcPitch, (*c).srcXInBytes) = (address, pitch, 1);
        (*c).dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        ((*c).dstHost, (*c).dstPitch, (*c).dstXInBytes) = (back.as_mut_ptr() as *mut c_void, 8, 2);
        ((*c).WidthInBytes, (*c).Height) = (5, height);
        ok(sys::cuMemcpy2DAsync_v2(c, std::ptr::null_mut()));
        for y in 0..3u8 {
            let row = &back[8 * y as usize..][..8];
            assert_eq!(row, [0xaa, 0xaa, 5 * y + 1, 5 * y + 2, 5 * y + 3, 5 * y + 4, 9, 0xaa], "row {y}");
        }
        // Past the end, and a pitch below the width.
        ((*c).srcY, (*c).Height) = (1, 3);
        (*c).WidthInBytes = 512;
        assert_eq!(sys::cuMemcpy2D_v2(c), E::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemsetD2D32_v2(address, 6, 0, 2, 2), E::CUDA_ERROR_INVALID_VALUE);
        let (mut base, mut size) = (0, 0);
        ok(sys::cuMemGetAddressRange_v2(&mut base, &mut size, address + 700));
        assert_eq!((base, size), (address, 3 * 512));
        // The same by unified addresses.
        ok(sys::cuMemcpy(back.as_mut_ptr() as u64, address + 512, 5));
        assert_eq!(back[..5], [5, 6, 7, 8, 9]);
        ok(sys::cuMemFree_v2(address));
    }
}
