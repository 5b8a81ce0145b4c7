//! Softmax cross-entropy over logits.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::grid::{self, WARP};
use crate::ids::Site;
use crate::slice::{Arg, Slice, SliceMut};

const FORWARD: [&str; 3] =
    ["cross_entropy_forward_f32", "cross_entropy_forward_f16", "cross_entropy_forward_bf16"];
const BACKWARD: [&str; 3] =
    ["cross_entropy_backward_f32", "cross_entropy_backward_f16", "cross_entropy_backward_bf16"];
const FUSED: [&str; 3] = ["cross_entropy_fused_f32", "cross_entropy_fused_f16", "cross_entropy_fused_bf16"];

/// As which targets outside the vocabulary are reported ([`crate::ids`]).
pub(crate) const OP: &str = "cross_entropy";

/// Threads of a row: enough for two accesses each, at most 1024.
fn threads(vocab: usize, each: usize) -> u32 {
    vocab.div_ceil(2 * each).next_multiple_of(WARP).clamp(WARP, 1024) as u32
}

/// lse, loss and hit of each row of logits (N, V); ignored rows have loss and hit 0, a target outside 0..V loss NaN.
///
/// # Shapes
/// lse, loss (N) f32; hit (N) i32; targets (N) i32.
///
/// # Errors
/// [`Error::Argument`] when an array is too short or of another dtype.
pub fn forward(
    gpu: &Gpu,
    lse: SliceMut,
    loss: SliceMut,
    hit: SliceMut,
    logits: Slice,
    targets: Slice,
    rows: usize,
    vocab: usize,
    ignore_index: i32,
) -> Result<()> {
    const OP: &str = "cross_entropy_forward";
    lse.expect(OP, "lse", Elem::F32, rows)?;
    check_rows(OP, &loss, &hit, targets, rows)?;
    logits.expect(OP, "logits", logits.elem(), rows * vocab)?;
    let entry = logits.elem().pick(OP, FORWARD)?;
    if rows == 0 {
        return Ok(());
    }
    let args = [
        Arg::from(&lse),
        (&loss).into(),
        (&hit).into(),
        logits.into(),
        targets.into(),
        Arg::U32(grid::word(OP, "V", vocab)?),
        Arg::I32(ignore_index),
    ];
    let block = [threads(vocab, grid::VECTOR / logits.elem().size()), 1, 1];
    gpu.launch(entry, [grid::blocks(OP, "rows", rows)?, 1, 1], block, 0, &args)
}

fn check_rows(op: &'static str, loss: &SliceMut, hit: &SliceMut, targets: Slice, rows: usize) -> Result<()> {
    loss.expect(op, "loss", Elem::F32, rows)?;
    hit.expect(op, "hit", Elem::I32, rows)?;
    targets.expect(op, "targets", Elem::I32, rows)
}

/// Replaces logits (N, V) by *dout * *factor * (softmax - onehot), and by 0 in ignored rows.
///
/// # Shapes
/// lse (N) f32 as [`forward`] left it; targets (N) i32; dout, factor: one f32 each.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    gpu: &Gpu,
    logits: SliceMut,
    lse: Slice,
    targets: Slice,
    dout: Slice,
    factor: Slice,
    rows: usize,
    vocab: usize,
    ignore_index: i32,
) -> Result<()> {
    const OP: &str = "cross_entropy_backward";
    lse.expect(OP, "lse", Elem::F32, rows)?;
    targets.expect(OP, "targets", Elem::I32, rows)?;
    dout.expect(OP, "dout", Elem::F32, 1)?;
    factor.expect(OP, "factor", Elem::F32, 1)?;
    logits.expect(OP, "logits", logits.elem(), rows * vocab)?;
    let entry = logits.elem().pick(OP, BACKWARD)?;
    if rows * vocab == 0 {
        return Ok(());
    }
    let args = [
        Arg::from(&logits),
        lse.into(),
        targets.into(),
        dout.into(),
        factor.into(),
        Arg::U32(grid::word(OP, "V", vocab)?),
        Arg::I32(ignore_index),
    ];
    let block = [threads(vocab, grid::VECTOR / logits.elem().size()), 1, 1];
    gpu.launch(entry, [grid::blocks(OP, "rows", rows)?, 1, 1], block, 0, &args)
}

/// Columns that separate the rows of logits for a vocabulary: whole 16-byte vectors in every dtype.
pub fn padded(vocab: usize) -> usize {
    vocab.next_multiple_of(8)
}

/// loss and hit of each row as [`forward`], of logits + bias; and dlogits = scale * (softmax - onehot), 0 in ignored rows and in the
/// columns that pad the vocabulary.
///
/// # Shapes
/// logits (N, padded(V)) f32, dlogits the same of the dtype that the products take; bias (V) of that dtype; loss (N) f32; hit,
/// targets (N) i32. Without dlogits, `elem` is the dtype of bias.
///
/// # Errors
/// As [`forward`].
pub fn fused(
    gpu: &Gpu,
    elem: Elem,
    dlogits: Option<SliceMut>,
    loss: SliceMut,
    hit: SliceMut,
    logits: Slice,
    bias: Option<Slice>,
    targets: Slice,
    rows: usize,
    vocab: usize,
    ignore_index: i32,
    scale: f32,
) -> Result<()> {
    const OP: &str = "cross_entropy_fused";
    let stride = padded(vocab);
    check_rows(OP, &loss, &hit, targets, rows)?;
    logits.expect(OP, "logits", Elem::F32, rows * stride)?;
    let entry = elem.pick(OP, FUSED)?;
    if let Some(bias) = bias {
        bias.expect(OP, "bias", elem, vocab)?;
    }
    let mut aligned = logits.is_aligned(16);
    let mut out = Arg::NULL;
    if let Some(dlogits) = &dlogits {
        dlogits.expect(OP, "dlogits", elem, rows * stride)?;
        aligned &= dlogits.is_aligned(16);
        out = dlogits.into();
    }
    if !aligned {
        return Err(Error::argument(OP, "logits and dlogits must start at a multiple of 16 bytes".into()));
    }
    if rows == 0 {
        return Ok(());
    }
    let args = [
        out,
        (&loss).into(),
        (&hit).into(),
        logits.into(),
        Arg::optional(bias),
        targets.into(),
        Arg::U32(grid::word(OP, "V", vocab)?),
        Arg::U32(grid::word(OP, "V", stride)?),
        Arg::I32(ignore_index),
        Arg::F32(scale),
    ];
    gpu.launch(entry, [grid::blocks(OP, "rows", rows)?, 1, 1], [threads(vocab, 4), 1, 1], 0, &args)
}

/// out = factor * sum of loss and hits = sum of hit, where factor = 1/divisor; without a divisor, one over the counted targets (0 when
/// there are none). Targets outside the vocabulary are reported ([`crate::ids`]).
///
/// # Shapes
/// out, factor: one f32 each; hits: one i32; loss (N) f32, hit and targets (N) i32.
///
/// # Errors
/// As [`forward`].
pub fn finish(
    gpu: &Gpu,
    out: SliceMut,
    factor: SliceMut,
    hits: SliceMut,
    loss: Slice,
    hit: Slice,
    targets: Slice,
    rows: usize,
    vocab: usize,
    ignore_index: i32,
    divisor: Option<f64>,
) -> Result<()> {
    const ENTRY: &str = "cross_entropy_finish";
    out.expect(ENTRY, "out", Elem::F32, 1)?;
    factor.expect(ENTRY, "factor", Elem::F32, 1)?;
    hits.expect(ENTRY, "hits", Elem::I32, 1)?;
    loss.expect(ENTRY, "loss", Elem::F32, rows)?;
    hit.expect(ENTRY, "hit", Elem::I32, rows)?;
    targets.expect(ENTRY, "targets", Elem::I32, rows)?;
    let args = [
        Arg::from(&out),
        (&factor).into(),
        (&hits).into(),
        loss.into(),
        hit.into(),
        targets.into(),
        gpu.id_word(Site { op: OP, limit: vocab }),
        Arg::U32(grid::word(ENTRY, "N", rows)?),
        Arg::U32(grid::word(ENTRY, "V", vocab)?),
        Arg::I32(ignore_index),
        Arg::F32(divisor.unwrap_or(-1.0) as f32),
    ];
    gpu.launch(ENTRY, [1, 1, 1], [1024, 1, 1], 0, &args)
}
