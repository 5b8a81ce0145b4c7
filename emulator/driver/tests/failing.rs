//! A launch that goes wrong gives hardware's error and keeps it. A process of its own: the context stays failed.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

#[test]
fn an_access_past_the_end_is_an_illegal_address_and_stays() {
    let report = std::env::temp_dir().join(format!("emulator-report-{}.json", std::process::id()));
    // SAFETY: the only test of this process; no other thread reads the environment yet.
    unsafe { std::env::set_var("HANDLOOM_EMULATOR", format!("arch=sm_80,report={}", report.display())) };
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().skip(1).take(2).map(|p| p.join("libcuda.so")).find(|p| p.exists()).unwrap();
    // SAFETY: our own library, whose initialisation does nothing.
    let _library = unsafe { libloading::Library::new(path) }.unwrap();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(include_str!("../../tests/ptx/basic.ptx"))).unwrap();
    let function = module.load_function("vector_add").unwrap();
    let a = stream.clone_htod(&vec![1.0f32; 100]).unwrap();
    let mut out = stream.alloc_zeros::<f32>(100).unwrap();
    let n = 101i32;
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut out).arg(&a).arg(&a).arg(&n);
    // SAFETY: the emulator catches the access past the end, which is what is tested.
    let error = unsafe { launch.launch(LaunchConfig::for_num_elems(128)) }.unwrap_err();
    assert_eq!(error.0, sys::cudaError_enum::CUDA_ERROR_ILLEGAL_ADDRESS);
    let later = stream.clone_dtoh(&a).unwrap_err();
    assert_eq!(later.0, sys::cudaError_enum::CUDA_ERROR_ILLEGAL_ADDRESS);
    let line = std::fs::read_to_string(&report).unwrap();
    std::fs::remove_file(&report).unwrap();
    assert!(
        line.starts_with("{\"kernel\":\"vector_add\",\"findings\":[\"vector_add: thread (100,0,0)"),
        "{line}"
    );
    assert!(line.contains("\"counters\":{\"total\":{\"warp_instructions\":"), "{line}");
}
