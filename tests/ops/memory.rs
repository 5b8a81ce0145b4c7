//! What the tape keeps and frees. A test program of its own: the pool's counters are those of the whole process.

use handloom_engine::dtype::DType;
use handloom_engine::ops::gelu::{Gelu, gelu};
use handloom_engine::storage::{memory, reset_peak};
use handloom_engine::tape::Tape;
use handloom_engine::tensor::Tensor;

const N: usize = 1 << 16;
const BYTES: usize = N * 4;
const LAYERS: usize = 16;

/// Peak above the start, of forward alone and of the whole step, of a chain of gelus checkpointed in groups.
fn peaks(group: usize) -> (usize, usize) {
    let x = Tensor::from_slice(&vec![0.5f32; N], &[N]).unwrap();
    let start = memory().live;
    reset_peak();
    let tape = Tape::new();
    let mut y = tape.leaf(&x, DType::F32);
    for _ in 0..LAYERS / group {
        let layers = move |x: &Tensor| (0..group).try_fold(x.clone(), |x, _| gelu(&x, Gelu::Tanh));
        y = if group == 1 { layers(&y).unwrap() } else { tape.checkpoint(&y, layers).unwrap() };
    }
    let forward = memory().peak - start;
    let mut grads = tape.gradients();
    tape.backward(&y, Tensor::from_slice(&vec![1.0f32; N], &[N]).unwrap(), &mut grads).unwrap();
    let whole = memory().peak - start;
    drop((y, tape, grads, x));
    assert_eq!(memory().live, start - BYTES, "a step leaves nothing behind");
    (forward, whole)
}

#[test]
fn buffers_are_freed_at_their_last_use() {
    let (forward, whole) = peaks(1);
    assert_eq!(forward, LAYERS * BYTES, "each gelu keeps its input, the last its output");
    // Beside what forward kept: the gradient that arrives and the one being made; each layer's input goes as they come.
    assert!(whole <= forward + 2 * BYTES, "{whole} bytes, {forward} after forward");

    let (forward, whole) = peaks(4);
    assert!(forward <= (LAYERS / 4 + 2) * BYTES, "{forward} bytes: a checkpoint keeps its input only");
    assert!(
        whole <= (LAYERS / 4 + 4 + 3) * BYTES,
        "{whole} bytes: and one group more while it is recomputed"
    );
}
