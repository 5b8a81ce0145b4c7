//! `errors=hardware`: a race is reported and the program goes on; an illegal address still fails. A process of its own,
//! for its options.

mod common;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

/// Every thread writes its number to `x`; the last one also writes past the end when `past` is not 0.
const RACE: &str = ".version 7.0
.target sm_80
.address_size 64
.visible .entry race(.param .u64 x, .param .u32 past) {
    .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .pred %p;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [past];
    mov.u32 %r2, %tid.x;
    st.global.u32 [%rd1], %r2;
    setp.eq.u32 %p, %r1, 0;
    @%p ret;
    st.global.u32 [%rd1+4], %r2;
    ret;
}";

#[test]
fn only_what_hardware_notices_fails_a_launch() {
    // SAFETY: the only test of this process; no other thread reads the environment yet.
    unsafe { std::env::set_var("HANDLOOM_EMULATOR", "arch=sm_80,errors=hardware,threads=1") };
    common::driver();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let kernel = context.load_module(Ptx::from_src(RACE)).unwrap().load_function("race").unwrap();
    let mut x = stream.alloc_zeros::<u32>(1).unwrap();
    for (past, expected) in [(0u32, None), (1, Some(sys::cudaError_enum::CUDA_ERROR_ILLEGAL_ADDRESS))] {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&mut x).arg(&past);
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the emulator catches the access past the end, which is what is tested.
        let code = unsafe { launch.launch(config) }.err().map(|e| e.0);
        assert_eq!(code, expected);
        if past == 0 {
            assert!(stream.clone_dtoh(&x).unwrap()[0] < 64);
        }
    }
}
