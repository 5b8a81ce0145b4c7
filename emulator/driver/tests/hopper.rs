//! What sm_90a adds: clusters and tensor maps. A process of its own: the environment chooses the architecture.

mod common;

use cudarc::driver::sys::{self, cudaError_enum as E};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const HOPPER: &str = include_str!("../../tests/ptx/hopper.ptx");

#[test]
fn clusters_and_tensor_maps() {
    // SAFETY: the only test of this process; no other thread reads the environment yet.
    unsafe { std::env::set_var("HANDLOOM_EMULATOR", "arch=sm_90a") };
    let context = common::context();
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    let clusters = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH;
    assert_eq!(context.attribute(clusters).unwrap(), 1);
    let stream = context.new_stream().unwrap();
    // Eight blocks in clusters of four, as the kernel was compiled for.
    let kernel = context.load_module(Ptx::from_src(HOPPER)).unwrap().load_function("cluster_sum").unwrap();
    let n = 1000i32;
    let a = stream.clone_htod(&vec![0.5f32; n as usize]).unwrap();
    let mut sums = stream.alloc_zeros::<f32>(2).unwrap();
    let config = LaunchConfig { grid_dim: (8, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&a).arg(&mut sums).arg(&n);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config) }.unwrap();
    let total: f32 = stream.clone_dtoh(&sums).unwrap().iter().sum();
    assert_eq!(total, 500.0, "1000 halves, between two clusters");
    // A grid that the clusters do not divide.
    let odd = LaunchConfig { grid_dim: (6, 1, 1), ..config };
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&a).arg(&mut sums).arg(&n);
    // SAFETY: refused before it runs.
    assert!(unsafe { launch.launch(odd) }.is_err());
    tensor_maps();
}

fn tensor_maps() {
    #[repr(align(128))]
    struct Map([u8; 128]);
    let mut map = Map([0; 128]);
    let encode = |map: &mut Map, box_dims: [u32; 2]| {
        let (dims, strides, steps) = ([256u64, 100], [512u64], [1u32; 2]);
        // SAFETY: arrays are as long as the rank says; the map is aligned.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.0.as_mut_ptr().cast(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                0x1000_0000_0000u64 as *mut _,
                dims.as_ptr(),
                strides.as_ptr(),
                box_dims.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    };
    assert_eq!(encode(&mut map, [64, 32]), E::CUDA_SUCCESS);
    assert!(map.0.iter().any(|&b| b != 0));
    assert_eq!(encode(&mut map, [128, 32]), E::CUDA_ERROR_INVALID_VALUE, "256 B of a row exceed the swizzle");
}
