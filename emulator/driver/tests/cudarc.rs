//! cudarc (dynamic loading) on the emulated driver: what a Rust program sees.
//!
//! The library is opened by its path first; its soname makes cudarc find it under the name libcuda.so.

mod common;

use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

use common::{context, driver};

const BASIC: &str = include_str!("../../tests/ptx/basic.ptx");
const SHARED: &str = include_str!("../../tests/ptx/shared.ptx");

#[test]
fn launches_copies_and_events() -> Result<(), DriverError> {
    let context = context();
    assert!(context.name()?.contains("emulated"));
    assert_eq!(context.compute_capability()?, (8, 0));
    let stream = context.new_stream()?;
    let module = context.load_module(Ptx::from_src(BASIC))?;
    let function = module.load_function("vector_add")?;
    let n = 1000usize;
    let (a, b): (Vec<f32>, Vec<f32>) = (0..n).map(|i| (i as f32, 0.5 * i as f32)).unzip();
    let (da, db) = (stream.clone_htod(&a)?, stream.clone_htod(&b)?);
    let mut out = stream.alloc_zeros::<f32>(n)?;
    let start = stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
    let n32 = n as i32;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut out).arg(&da).arg(&db).arg(&n32);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32)) }?;
    let end = stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
    stream.synchronize()?;
    assert!(start.elapsed_ms(&end)? > 0.0);
    let found = stream.clone_dtoh(&out)?;
    assert!(found.iter().enumerate().all(|(i, &v)| v == 1.5 * i as f32));
    Ok(())
}

#[test]
fn dynamic_shared_memory_and_occupancy() -> Result<(), DriverError> {
    let context = context();
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(SHARED))?;
    let function = module.load_function("softmax_row")?;
    assert!(function.occupancy_max_active_blocks_per_multiprocessor(128, 512, None)? > 0);
    let x = stream.clone_htod(&vec![1.0f32; 3 * 64])?;
    let mut y = stream.alloc_zeros::<f32>(3 * 64)?;
    let columns = 64i32;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut y).arg(&x).arg(&columns);
    let config = LaunchConfig { grid_dim: (3, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 512 };
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config) }?;
    assert!(stream.clone_dtoh(&y)?.iter().all(|&v| (v - 1.0 / 64.0).abs() < 1e-8));
    // More than 48 KiB needs the attribute.
    let big = LaunchConfig { shared_mem_bytes: 100 << 10, ..config };
    // SAFETY: the arguments are those of the kernel.
    let refused = unsafe { stream.launch_builder(&function).arg(&mut y).arg(&x).arg(&columns).launch(big) };
    assert_eq!(refused.unwrap_err().0, sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE);
    function.set_attribute(
        sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        100 << 10,
    )?;
    // SAFETY: the arguments are those of the kernel.
    unsafe { stream.launch_builder(&function).arg(&mut y).arg(&x).arg(&columns).launch(big) }?;
    Ok(())
}

#[test]
fn errors_are_the_apis() {
    let context = context();
    let broken = context
        .load_module(Ptx::from_src(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { frob; }"));
    assert_eq!(broken.err().unwrap().0, sys::cudaError_enum::CUDA_ERROR_INVALID_PTX);
    let module = context.load_module(Ptx::from_src(BASIC)).unwrap();
    assert_eq!(module.load_function("nothing").err().unwrap().0, sys::cudaError_enum::CUDA_ERROR_NOT_FOUND);
    assert!(CudaContext::new(1).is_err());
}

/// Unsupported functions fail and say so; cuGetProcAddress knows the newest versions.
#[test]
fn raw_entry_points() {
    type GetProc = unsafe extern "C" fn(*const i8, *mut *mut (), i32, u64, *mut i32) -> i32;
    let library = driver();
    // SAFETY: the signatures are the API's.
    unsafe {
        let unsupported = library.get::<unsafe extern "C" fn() -> i32>(b"cuTexObjectCreate").unwrap();
        assert_eq!(unsupported(), 801);
        let get = library.get::<GetProc>(b"cuGetProcAddress_v2").unwrap();
        let (mut p, mut status) = (std::ptr::null_mut(), -1);
        assert_eq!(get(c"cuMemAlloc".as_ptr(), &mut p, 13000, 0, &mut status), 0);
        let direct = library.get::<unsafe extern "C" fn()>(b"cuMemAlloc_v2").unwrap();
        assert_eq!((p as usize, status), (*direct as usize, 0));
        assert_eq!(get(c"cuNothing".as_ptr(), &mut p, 13000, 0, &mut status), 500);
    }
}
