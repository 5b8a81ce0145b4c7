//! No kernel of matmul has a bank conflict: the emulator counts the passes over shared memory of every launch, and the least that the
//! same bytes need. A test file of its own, because the report is asked for in the environment.

use handloom_kernels::device::{Driver, Gpu};
use handloom_kernels::elem::Elem;
use handloom_kernels::matmul::plan::{Math, Plan};
use handloom_kernels::matmul::{Matmul, Matrix, Output, matmul_with};

#[test]
fn tiled_products_have_no_bank_conflicts() {
    let report = std::env::temp_dir().join(format!("bank-conflicts-{}.json", std::process::id()));
    // SAFETY: this file's only test, and nothing has read the environment yet.
    unsafe { std::env::set_var("HANDLOOM_EMULATOR", format!("report={}", report.display())) };
    let gpu: &'static Gpu = Box::leak(Box::new(
        Gpu::open(Driver::Emulated, 0).expect("the emulated driver is built with the tests"),
    ));
    let (m, n, k) = (256, 256, 192);
    for (math, elem) in
        [(Math::F32, Elem::F32), (Math::Tf32, Elem::F32), (Math::F16, Elem::F16), (Math::Bf16, Elem::BF16)]
    {
        let zeros = |len: usize| {
            let mut buffer = gpu.buffer(elem, len).expect("room");
            gpu.fill_zero(buffer.slice_mut()).expect("filled");
            buffer
        };
        let (lhs, rhs, mut out) = (zeros(m * k), zeros(k * n), zeros(m * n));
        for tile in math.tiles() {
            let [nn, nt, tn] = [(false, false), (false, true), (true, false)];
            for (lhs_t, rhs_t) in [nn, nt, tn] {
                let lhs = if lhs_t { Matrix::rows(lhs.slice(), m).t() } else { Matrix::rows(lhs.slice(), k) };
                let rhs = if rhs_t { Matrix::rows(rhs.slice(), k).t() } else { Matrix::rows(rhs.slice(), n) };
                let product = Matmul::new(Output::rows(out.slice_mut(), m, n), lhs, rhs, m, n, k);
                let product = Matmul { tf32: math == Math::Tf32, ..product };
                matmul_with(gpu, product, Plan::new(*tile, k, 1)).expect("launched");
            }
        }
    }
    gpu.synchronize().expect("ran");
    let text = std::fs::read_to_string(&report).expect("the emulator's report");
    std::fs::remove_file(&report).expect("removed");
    let mut kernels = 0;
    for line in text.lines() {
        let launch: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let classes = &launch["counters"]["total"]["classes"];
        // ldmatrix counts with the tensor instructions; cp.async is counted by its global side.
        for class in ["LoadShared", "StoreShared", "Tensor"] {
            let count = |field: &str| classes[class][field].as_u64().unwrap_or(0);
            let (passes, least) = (count("transfers"), count("ideal"));
            assert_eq!(
                passes, least,
                "{}, {class}: passes over shared memory, and the least",
                launch["kernel"]
            );
        }
        assert!(
            classes["StoreShared"]["transfers"].as_u64() > Some(0),
            "the epilogue goes through shared memory"
        );
        kernels += 1;
    }
    assert_eq!(kernels, 3 * (2 + 2 + 3 + 3), "every tile in every layout");
}
