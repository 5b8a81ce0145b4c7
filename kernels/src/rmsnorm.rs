//! Root-mean-square normalisation, and residual + rmsnorm.

use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::Result;
use crate::grid::{self, Rows};
use crate::layernorm::{ParameterGrad, Residual};
use crate::norm_rows::{self, FORWARD_BLOCK, FORWARD_VECTORS, is_wide};
use crate::slice::{Arg, Slice, SliceMut};

const FORWARD: [&str; 3] = ["rmsnorm_forward_f32", "rmsnorm_forward_f16", "rmsnorm_forward_bf16"];
const FORWARD_ANY: [&str; 3] =
    ["rmsnorm_forward_any_f32", "rmsnorm_forward_any_f16", "rmsnorm_forward_any_bf16"];
const BACKWARD: [&str; 3] = ["rmsnorm_backward_f32", "rmsnorm_backward_f16", "rmsnorm_backward_bf16"];
const BACKWARD_ANY: [&str; 3] =
    ["rmsnorm_backward_any_f32", "rmsnorm_backward_any_f16", "rmsnorm_backward_any_bf16"];
const BACKWARD_PARAMETERS_ANY: [&str; 3] = [
    "rmsnorm_backward_parameters_any_f32",
    "rmsnorm_backward_parameters_any_f16",
    "rmsnorm_backward_parameters_any_bf16",
];

/// out = rmsnorm(inp), or with a residual h = inp + branch, out = rmsnorm(h). Saves rstd.
///
/// # Shapes
/// out, inp (N, C); weight (C), all of one float dtype; rstd (N) f32.
///
/// # Errors
/// [`Error::Argument`](crate::error::Error::Argument) when an array is too short or of another dtype.
pub fn forward(
    gpu: &Gpu,
    out: SliceMut,
    rstd: SliceMut,
    inp: Slice,
    residual: Option<Residual>,
    weight: Slice,
    rows: usize,
    cols: usize,
    eps: f32,
) -> Result<()> {
    const OP: &str = "rmsnorm_forward";
    let elem = out.elem();
    let mut arrays =
        vec![("out", out.as_slice(), rows * cols), ("inp", inp, rows * cols), ("weight", weight, cols)];
    if let Some(Residual { h, branch }) = &residual {
        arrays.extend([("h", h.as_slice(), rows * cols), ("branch", *branch, rows * cols)]);
    }
    let width = norm_rows::check(OP, elem, rows, cols, &arrays)?;
    rstd.expect(OP, "rstd", Elem::F32, rows)?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let addresses: Vec<u64> = arrays.iter().map(|(_, slice, _)| slice.address()).collect();
    let layout = Rows::new(cols * elem.size() / grid::VECTOR, FORWARD_VECTORS, FORWARD_BLOCK)
        .filter(|_| is_wide(elem, cols, &addresses));
    let (h, branch) = match &residual {
        Some(Residual { h, branch }) => (Arg::from(h), Arg::from(*branch)),
        None => (Arg::NULL, Arg::NULL),
    };
    let mut args = vec![Arg::from(&out), h, (&rstd).into(), inp.into(), branch, weight.into()];
    let scalars = [Arg::U32(width), Arg::F32(1.0 / cols as f32), Arg::F32(eps)];
    match layout {
        Some(layout) => {
            args.push(Arg::U64(rows as u64));
            args.extend(scalars);
            let blocks = grid::blocks(OP, "row blocks", rows.div_ceil(layout.rows))?;
            gpu.launch(elem.pick(OP, FORWARD)?, [blocks, 1, 1], layout.block(), 0, &args)
        }
        None => {
            args.extend(scalars);
            gpu.launch(
                elem.pick(OP, FORWARD_ANY)?,
                [grid::blocks(OP, "rows", rows)?, 1, 1],
                grid::BLOCK,
                0,
                &args,
            )
        }
    }
}

/// The gradients of inp and weight; dinp is overwritten, or added to when `accumulate`.
///
/// # Shapes
/// dinp, dout, inp (N, C); weight (C); rstd (N) f32 as forward left it; dweight (C) f32.
///
/// # Errors
/// As [`forward`]; out of memory for the partial sums.
pub fn backward(
    gpu: &'static Gpu,
    dinp: SliceMut,
    dweight: ParameterGrad,
    dout: Slice,
    inp: Slice,
    weight: Slice,
    rstd: Slice,
    rows: usize,
    cols: usize,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "rmsnorm_backward";
    let elem = dinp.elem();
    let arrays = [
        ("dinp", dinp.as_slice(), rows * cols),
        ("dout", dout, rows * cols),
        ("inp", inp, rows * cols),
        ("weight", weight, cols),
    ];
    let width = norm_rows::check(OP, elem, rows, cols, &arrays)?;
    rstd.expect(OP, "rstd", Elem::F32, rows)?;
    if let Some((grad, _)) = &dweight {
        grad.expect(OP, "dweight", Elem::F32, cols)?;
    }
    if rows == 0 || cols == 0 {
        return norm_rows::clear(gpu, dweight);
    }
    let plan = norm_rows::backward(
        elem,
        rows,
        cols,
        is_wide(elem, cols, &arrays.map(|(_, slice, _)| slice.address())),
    );
    let mut partial = if dweight.is_some() { Some(gpu.buffer(Elem::F32, plan.blocks * cols)?) } else { None };
    let part = partial.as_mut().map_or(Arg::NULL, |partial| Arg::from(&partial.slice_mut()));
    let scalars = [Arg::U32(width), Arg::F32(1.0 / cols as f32), Arg::U32(accumulate as u32)];
    match plan.rows {
        Some(layout) => {
            let mut args = vec![Arg::from(&dinp), part, dout.into(), inp.into(), weight.into(), rstd.into()];
            args.push(Arg::U32(rows as u32));
            args.extend(scalars);
            gpu.launch(elem.pick(OP, BACKWARD)?, [plan.blocks as u32, 1, 1], layout.block(), 0, &args)?;
        }
        None => {
            let mut args = vec![Arg::from(&dinp), dout.into(), inp.into(), weight.into(), rstd.into()];
            args.extend(scalars);
            let blocks = grid::blocks(OP, "rows", rows)?;
            gpu.launch(elem.pick(OP, BACKWARD_ANY)?, [blocks, 1, 1], grid::BLOCK, 0, &args)?;
            if dweight.is_some() {
                let args =
                    [part, dout.into(), inp.into(), rstd.into(), Arg::U64(rows as u64), Arg::U32(width)];
                let grid = [plan.blocks as u32, cols.div_ceil(grid::THREADS as usize) as u32, 1];
                gpu.launch(elem.pick(OP, BACKWARD_PARAMETERS_ANY)?, grid, grid::BLOCK, 0, &args)?;
            }
        }
    }
    let (Some(partial), Some((dweight, accumulate_weight))) = (partial, dweight) else { return Ok(()) };
    let args = [
        Arg::from(&dweight),
        partial.slice().into(),
        Arg::U32(plan.blocks as u32),
        Arg::U32(width),
        Arg::U32(accumulate_weight as u32),
    ];
    gpu.launch("rmsnorm_parameters", [width.div_ceil(32), 1, 1], [32, 32, 1], 0, &args)
}
