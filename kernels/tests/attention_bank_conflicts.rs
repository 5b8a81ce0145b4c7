//! No attention kernel on tensor cores has a bank conflict where the head fills its tile: the emulator counts the passes over shared
//! memory of every launch, and the least that the same bytes need. A test file of its own, because the report is asked for in the
//! environment.

use handloom_kernels::attention::{Attention, Gradients, Heads, Saved};
use handloom_kernels::device::{Driver, Gpu};
use handloom_kernels::elem::Elem;

#[test]
fn tiles_have_no_bank_conflicts() {
    let report = std::env::temp_dir().join(format!("attention-bank-conflicts-{}.json", std::process::id()));
    // SAFETY: this file's only test, and nothing has read the environment yet.
    unsafe { std::env::set_var("HANDLOOM_EMULATOR", format!("report={}", report.display())) };
    let gpu: &'static Gpu = Box::leak(Box::new(
        Gpu::open(Driver::Emulated, 0).expect("the emulated driver is built with the tests"),
    ));
    let zeros = |elem: Elem, len: usize| {
        let mut buffer = gpu.buffer(elem, len).expect("room");
        gpu.fill_zero(buffer.slice_mut()).expect("filled");
        buffer
    };
    let (heads, time) = (2, 130);
    for elem in [Elem::F16, Elem::BF16] {
        for head_size in [64, 128] {
            let cols = heads * head_size;
            let bias = zeros(Elem::F32, heads * time * time);
            let attention = Attention {
                batch: 1,
                heads,
                queries: time,
                keys: time,
                head_size,
                causal: true,
                scale: 0.125,
                dropout: None,
                key_mask: None,
                bias: Some(bias.slice()),
            };
            let qkv = zeros(elem, 3 * time * cols);
            let part = |i: usize| Heads {
                data: qkv.slice().offset(i * cols),
                batch_stride: 3 * time * cols,
                row_stride: 3 * cols,
            };
            let (mut out, mut lse) = (zeros(elem, time * cols), zeros(Elem::F32, heads * time));
            attention
                .forward(gpu, out.slice_mut(), lse.slice_mut(), part(0), part(1), part(2))
                .expect("launched");
            let (mut dqkv, mut dbias) = (zeros(elem, 3 * time * cols), zeros(Elem::F32, heads * time * time));
            let saved = Saved { out: out.slice(), lse: lse.slice(), dout: out.slice() };
            for accumulate in [false, true] {
                let to = Gradients::Packed(dqkv.slice_mut());
                let dbias = Some((dbias.slice_mut(), accumulate));
                attention
                    .backward(gpu, to, dbias, saved, part(0), part(1), part(2), accumulate)
                    .expect("launched");
            }
        }
    }
    gpu.synchronize().expect("ran");
    let text = std::fs::read_to_string(&report).expect("the emulator's report");
    std::fs::remove_file(&report).expect("removed");
    let (mut kernels, mut conflicts) = (0, Vec::new());
    for line in text.lines() {
        let launch: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let classes = &launch["counters"]["total"]["classes"];
        // ldmatrix counts with the tensor instructions; cp.async is counted by its global side.
        for class in ["LoadShared", "StoreShared", "Tensor"] {
            let count = |field: &str| classes[class][field].as_u64().unwrap_or(0);
            let (passes, least) = (count("transfers"), count("ideal"));
            if passes != least {
                conflicts.push(format!("{} {class}: {passes} passes, least {least}", launch["kernel"]));
            }
        }
        kernels += 1;
    }
    assert!(conflicts.is_empty(), "passes over shared memory:\n{}", conflicts.join("\n"));
    assert_eq!(kernels, 2 * 2 * 7, "forward, and three kernels of backward twice");
}
