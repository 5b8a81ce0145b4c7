//! Matrix products: out (M, N) = lhs (M, K) rhs (K, N), batched, of any transposes, with what follows the product fused.
//!
//! [`matmul`] picks the kernel from strides, alignment and the [`plan`]; [`matmul_with`] runs a given plan. Kernels: matmul_f32.cu,
//! matmul_tf32.cu, matmul_f16.cu, matmul_bf16.cu for operands that can be copied 16 bytes at a time, matmul_any.cu for all others;
//! on Hopper sm_90a/matmul_wgmma_f16.cu and _bf16.cu.

pub mod plan;
mod wgmma;

use self::plan::{Layout, Math, Plan, Room, Shape};
use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::gelu::Form;
use crate::slice::{Arg, Slice, SliceMut};

const OP: &str = "matmul";

/// A batch of matrices to read. Strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub data: Slice<'a>,
    /// From a row to the next.
    pub row_stride: usize,
    /// From a column to the next.
    pub col_stride: usize,
    /// From a matrix of the batch to the next; 0 when all are the same one.
    pub batch_stride: usize,
}

impl<'a> Matrix<'a> {
    /// One row-major matrix without gaps.
    pub fn rows(data: Slice<'a>, cols: usize) -> Self {
        Matrix { data, row_stride: cols, col_stride: 1, batch_stride: 0 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The same matrices, `stride` elements apart.
    pub fn batched(self, stride: usize) -> Self {
        Matrix { batch_stride: stride, ..self }
    }
}

/// A batch of matrices to write; the columns of a row are adjacent.
#[derive(Debug)]
pub struct Output<'a> {
    pub data: SliceMut<'a>,
    pub row_stride: usize,
    pub batch_stride: usize,
}

impl<'a> Output<'a> {
    /// Matrices (rows, cols) without gaps, one after the other.
    pub fn rows(data: SliceMut<'a>, rows: usize, cols: usize) -> Self {
        Output { data, row_stride: cols, batch_stride: rows * cols }
    }
}

/// A function of the product (and bias). Its array lies as `out` does and has its dtype.
#[derive(Debug, Default)]
pub enum Activation<'a> {
    #[default]
    None,
    /// gelu(v); v itself goes to `pre`, which gelu's backward reads, where there will be one.
    Gelu { form: Form, pre: Option<SliceMut<'a>> },
    /// v gelu'(pre).
    GeluBackward { form: Form, pre: Slice<'a> },
}

/// What follows the product: out = residual + activation(product + bias).
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// (N), of the operands' dtype.
    pub bias: Option<Slice<'a>>,
    pub activation: Activation<'a>,
    /// As `out`, strides and dtype.
    pub residual: Option<Slice<'a>>,
}

/// A product to run.
#[derive(Debug)]
pub struct Matmul<'a> {
    /// Of the operands' dtype, or f32.
    pub out: Output<'a>,
    pub lhs: Matrix<'a>,
    pub rhs: Matrix<'a>,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batches: usize,
    /// out += the result instead of out =.
    pub accumulate: bool,
    pub epilogue: Epilogue<'a>,
    /// Whether f32 operands may be rounded to tf32 for tensor cores.
    pub tf32: bool,
}

impl<'a> Matmul<'a> {
    /// out = lhs rhs, one matrix, nothing else.
    pub fn new(out: Output<'a>, lhs: Matrix<'a>, rhs: Matrix<'a>, m: usize, n: usize, k: usize) -> Self {
        let epilogue = Epilogue::default();
        Matmul { out, lhs, rhs, m, n, k, batches: 1, accumulate: false, epilogue, tf32: false }
    }

    fn shape(&self) -> Shape {
        Shape { m: self.m, n: self.n, k: self.k, batches: self.batches }
    }
}

/// Entries by layout (nn, nt, tn), then by tile as in [`plan`].
type Entries = [[&'static str; 3]; 3];
const F16: Entries = [
    ["matmul_nn_128x256_f16", "matmul_nn_128x128_f16", "matmul_nn_64x64_f16"],
    ["matmul_nt_128x256_f16", "matmul_nt_128x128_f16", "matmul_nt_64x64_f16"],
    ["matmul_tn_128x256_f16", "matmul_tn_128x128_f16", "matmul_tn_64x64_f16"],
];
const BF16: Entries = [
    ["matmul_nn_128x256_bf16", "matmul_nn_128x128_bf16", "matmul_nn_64x64_bf16"],
    ["matmul_nt_128x256_bf16", "matmul_nt_128x128_bf16", "matmul_nt_64x64_bf16"],
    ["matmul_tn_128x256_bf16", "matmul_tn_128x128_bf16", "matmul_tn_64x64_bf16"],
];
const TF32: Entries = [
    ["matmul_nn_128x128_tf32", "matmul_nn_64x64_tf32", ""],
    ["matmul_nt_128x128_tf32", "matmul_nt_64x64_tf32", ""],
    ["matmul_tn_128x128_tf32", "matmul_tn_64x64_tf32", ""],
];
const F32: Entries = [
    ["matmul_nn_128x128_f32", "matmul_nn_64x64_f32", ""],
    ["matmul_nt_128x128_f32", "matmul_nt_64x64_f32", ""],
    ["matmul_tn_128x128_f32", "matmul_tn_64x64_f32", ""],
];
const ANY: [&str; 3] = ["matmul_any_f32", "matmul_any_f16", "matmul_any_bf16"];
const SPLIT_SUM: [&str; 3] = ["matmul_split_sum_f32", "matmul_split_sum_f16", "matmul_split_sum_bf16"];
const COLUMN_SUMS: [&str; 3] =
    ["matmul_column_sums_f32", "matmul_column_sums_f16", "matmul_column_sums_bf16"];

/// EPILOGUE_ bits of matmul_epilogue.cuh.
const ACCUMULATE: u32 = 1;
const OUT_F32: u32 = 2;
const VECTOR: u32 = 4;
const GELU: u32 = 8;
const GELU_BACKWARD: u32 = 16;
const TANH_FORM: u32 = 32;

/// Largest M, N and K: the kernels count in i32, up to one tile past the end.
const MOST: usize = (1 << 31) - 512;
/// Batches that one launch takes: the grid's third size.
const MOST_BATCHES: usize = 65_535;
const THREADS: u32 = 256;

/// Runs a product. With `accumulate` out is read and written, else it is overwritten, also when K is 0.
///
/// # Errors
/// [`Error::Argument`] when an array is too short for its strides, dtypes differ, a size is 2^31 - 511 or more, rows of `out` overlap, or
/// an f32 out of half-precision operands has an activation or residual.
pub fn matmul(gpu: &'static Gpu, problem: Matmul) -> Result<()> {
    let math = check(&problem)?;
    let layout = layout(&problem);
    let room = Room {
        multiprocessors: gpu.limits().multiprocessors as usize,
        shared_bytes: gpu.limits().shared_bytes_per_block,
        wgmma: wgmma::can_run(gpu, &problem, layout),
    };
    let may_split = may_split(&problem);
    let plan = match layout {
        Some(_) => plan::plan(problem.shape(), math, room, may_split),
        None => plan::plan_any(problem.shape(), room, may_split),
    };
    matmul_with(gpu, problem, plan)
}

/// Runs a product by this plan: for tuning and tests.
///
/// # Errors
/// As [`matmul`], and when the plan splits what cannot be split, or its tile has no kernel for this product.
pub fn matmul_with(gpu: &'static Gpu, problem: Matmul, plan: Plan) -> Result<()> {
    let math = check(&problem)?;
    let Matmul { m, n, k, batches, .. } = problem;
    if m == 0 || n == 0 || batches == 0 {
        return Ok(());
    }
    if plan.splits > 1 && !may_split(&problem) {
        return Err(Error::argument(OP, "the sum of splits has out's dtype, the bias another".into()));
    }
    let entry = entry(gpu, &problem, math, &plan)?;
    let tiles = u32::try_from(plan.tiles(problem.shape()))
        .ok()
        .filter(|tiles| *tiles < 1 << 31)
        .ok_or_else(|| Error::argument(OP, format!("out ({m}, {n}) has 2^31 tiles or more")))?;
    let flags = flags(&problem);
    let mut partials = match plan.splits {
        1 => None,
        splits => Some(gpu.buffer(Elem::F32, splits * batches.min(MOST_BATCHES) * m * n)?),
    };
    let arrays = Arrays::of(&problem);
    for first in (0..batches).step_by(MOST_BATCHES) {
        let count = MOST_BATCHES.min(batches - first) as u32;
        let at = arrays.batch(first, &problem);
        let partials = partials.as_mut().map_or(Arg::NULL, |buffer| Arg::from(&buffer.slice_mut()));
        let out_strides = [size(problem.out.row_stride), size(problem.out.batch_stride)];
        let mut args = Vec::with_capacity(21);
        match layout(&problem).filter(|_| plan.tile.wgmma) {
            Some(layout) => {
                let operands = [at.lhs, at.rhs];
                args.extend(wgmma::maps(gpu, &problem, layout, &plan.tile, operands, count as usize)?);
                args.extend([at.out, partials, at.bias, at.residual, at.pre]);
                args.extend(out_strides);
            }
            None => {
                args.extend([at.out, partials, at.lhs, at.rhs, at.bias, at.residual, at.pre]);
                args.extend(out_strides);
                for operand in [&problem.lhs, &problem.rhs] {
                    args.extend([operand.row_stride, operand.col_stride, operand.batch_stride].map(size));
                }
            }
        }
        args.extend([
            Arg::I32(m as i32),
            Arg::I32(n as i32),
            Arg::I32(k as i32),
            Arg::I32(plan.k_per_split.min(i32::MAX as usize) as i32),
            Arg::I32(plan.raster as i32),
            Arg::U32(flags),
        ]);
        let grid = [tiles, plan.splits as u32, count];
        gpu.launch(entry, grid, [plan.tile.threads, 1, 1], plan.tile.shared_bytes, &args)?;
        if plan.splits > 1 {
            let elem = problem.out.data.elem();
            let items = m * n.div_ceil(16 / elem.size());
            let args = [
                at.out,
                partials,
                at.bias,
                at.residual,
                at.pre,
                size(problem.out.row_stride),
                size(problem.out.batch_stride),
                Arg::I32(m as i32),
                Arg::I32(n as i32),
                Arg::I32(plan.splits as i32),
                // Rows of the partial sums are aligned only then.
                Arg::U32(if n.is_multiple_of(4) { flags } else { flags & !VECTOR }),
            ];
            let grid = [crate::grid::blocks(OP, "out", items.div_ceil(THREADS as usize))?, 1, count];
            gpu.launch(elem.pick(OP, SPLIT_SUM)?, grid, [THREADS, 1, 1], 0, &args)?;
        }
    }
    Ok(())
}

fn size(value: usize) -> Arg {
    Arg::U64(value as u64)
}

/// The kernels' pointers.
#[derive(Clone, Copy)]
struct Arrays {
    out: Arg,
    lhs: Arg,
    rhs: Arg,
    bias: Arg,
    residual: Arg,
    pre: Arg,
}

impl Arrays {
    fn of(problem: &Matmul) -> Arrays {
        let epilogue = &problem.epilogue;
        Arrays {
            out: (&problem.out.data).into(),
            lhs: problem.lhs.data.into(),
            rhs: problem.rhs.data.into(),
            bias: Arg::optional(epilogue.bias),
            residual: Arg::optional(epilogue.residual),
            pre: match &epilogue.activation {
                Activation::None => Arg::NULL,
                Activation::Gelu { pre, .. } => pre.as_ref().map_or(Arg::NULL, Arg::from),
                Activation::GeluBackward { pre, .. } => (*pre).into(),
            },
        }
    }

    /// The arrays from batch `first` on.
    fn batch(self, first: usize, problem: &Matmul) -> Arrays {
        let shift = |arg: Arg, stride: usize, elem: Elem| match arg {
            Arg::NULL => Arg::NULL,
            Arg::Pointer(address) => Arg::Pointer(address + (first * stride * elem.size()) as u64),
            other => other,
        };
        let (out_stride, out_elem) = (problem.out.batch_stride, problem.out.data.elem());
        Arrays {
            out: shift(self.out, out_stride, out_elem),
            lhs: shift(self.lhs, problem.lhs.batch_stride, problem.lhs.data.elem()),
            rhs: shift(self.rhs, problem.rhs.batch_stride, problem.rhs.data.elem()),
            bias: self.bias,
            residual: shift(self.residual, out_stride, out_elem),
            pre: shift(self.pre, out_stride, out_elem),
        }
    }
}

/// Checks dtypes, sizes and that every array holds what its strides reach.
fn check(problem: &Matmul) -> Result<Math> {
    let Matmul { out, lhs, rhs, m, n, k, batches, epilogue, .. } = problem;
    let (m, n, k, batches) = (*m, *n, *k, *batches);
    let (elem, out_elem) = (lhs.data.elem(), out.data.elem());
    let math = Math::of(elem, problem.tf32)
        .ok_or_else(|| Error::argument(OP, "lhs is i32, expected f32, f16 or bf16".into()))?;
    if let Some((name, size)) = [("M", m), ("N", n), ("K", k)].into_iter().find(|(_, size)| *size > MOST) {
        return Err(Error::argument(OP, format!("{name} is {size}, the kernels take at most {MOST}")));
    }
    if m > 1 && out.row_stride < n {
        let message = format!("rows of out overlap: {n} columns, {} from row to row", out.row_stride);
        return Err(Error::argument(OP, message));
    }
    if out_elem != elem && out_elem != Elem::F32 {
        let (got, want) = (out_elem.suffix(), elem.suffix());
        return Err(Error::argument(OP, format!("out is {got}, expected {want} as the operands, or f32")));
    }
    let plain = matches!(epilogue.activation, Activation::None) && epilogue.residual.is_none();
    if out_elem != elem && !plain {
        let message = format!("an f32 out of {} operands takes no activation or residual", elem.suffix());
        return Err(Error::argument(OP, message));
    }
    let span = |rows: usize, row: usize, cols: usize, col: usize, batch: usize| {
        if rows == 0 || cols == 0 || batches == 0 {
            0
        } else {
            (rows - 1) * row + (cols - 1) * col + (batches - 1) * batch + 1
        }
    };
    lhs.data.expect(OP, "lhs", elem, span(m, lhs.row_stride, k, lhs.col_stride, lhs.batch_stride))?;
    rhs.data.expect(OP, "rhs", elem, span(k, rhs.row_stride, n, rhs.col_stride, rhs.batch_stride))?;
    let out_span = span(m, out.row_stride, n, 1, out.batch_stride);
    out.data.expect(OP, "out", out_elem, out_span)?;
    if let Some(bias) = &epilogue.bias {
        bias.expect(OP, "bias", elem, n)?;
    }
    if let Some(residual) = &epilogue.residual {
        residual.expect(OP, "residual", out_elem, out_span)?;
    }
    match &epilogue.activation {
        Activation::None => {}
        Activation::Gelu { pre: None, .. } => {}
        Activation::Gelu { pre: Some(pre), .. } => pre.expect(OP, "pre", out_elem, out_span)?,
        Activation::GeluBackward { pre, .. } => pre.expect(OP, "pre", out_elem, out_span)?,
    }
    Ok(math)
}

/// The sum of splits reads a bias of out's dtype only.
fn may_split(problem: &Matmul) -> bool {
    problem.epilogue.bias.is_none_or(|bias| bias.elem() == problem.out.data.elem())
}

/// The layout of the tiled kernels that can run this product, if any.
fn layout(problem: &Matmul) -> Option<Layout> {
    let Matmul { lhs, rhs, m, n, k, batches, .. } = problem;
    let per_16_bytes = 16 / lhs.data.elem().size();
    // Whether lines can be copied 16 bytes at a time: neighbours `step` apart must be adjacent, lines `stride` apart aligned.
    let copies = |matrix: &Matrix, (length, step): (usize, usize), (lines, stride): (usize, usize)| {
        (length <= 1 || step == 1)
            && (lines <= 1 || stride.is_multiple_of(per_16_bytes))
            && (*batches <= 1 || matrix.batch_stride.is_multiple_of(per_16_bytes))
            && matrix.data.is_aligned(16)
    };
    let lhs_k = copies(lhs, (*k, lhs.col_stride), (*m, lhs.row_stride));
    let lhs_m = copies(lhs, (*m, lhs.row_stride), (*k, lhs.col_stride));
    let rhs_k = copies(rhs, (*k, rhs.row_stride), (*n, rhs.col_stride));
    let rhs_n = copies(rhs, (*n, rhs.col_stride), (*k, rhs.row_stride));
    // The tn kernels are for weight gradients: no activation, no residual.
    let epilogue = &problem.epilogue;
    let plain = matches!(epilogue.activation, Activation::None) && epilogue.residual.is_none();
    match (lhs_k, lhs_m, rhs_k, rhs_n) {
        (true, _, _, true) => Some(Layout::Nn),
        (true, _, true, _) => Some(Layout::Nt),
        (_, true, _, true) if plain => Some(Layout::Tn),
        _ => None,
    }
}

fn entry(gpu: &Gpu, problem: &Matmul, math: Math, plan: &Plan) -> Result<&'static str> {
    if plan.tile == plan::ANY_TILE {
        return problem.lhs.data.elem().pick(OP, ANY);
    }
    let Some(layout) = layout(problem) else {
        let message = "only matmul_any takes operands with these strides, alignment and epilogue".into();
        return Err(Error::argument(OP, message));
    };
    if plan.tile.wgmma {
        let found = wgmma::entry(math, layout, &plan.tile);
        return found.filter(|_| wgmma::can_run(gpu, problem, Some(layout))).ok_or_else(|| {
            let message =
                "wgmma takes f16 and bf16 operands that are not empty, one for each batch, on sm_90";
            Error::argument(OP, message.into())
        });
    }
    let entries = match math {
        Math::F32 => F32,
        Math::Tf32 => TF32,
        Math::F16 => F16,
        Math::Bf16 => BF16,
    };
    if !math.tiles().contains(&plan.tile) {
        return Err(Error::argument(OP, format!("{math:?} has no tile {:?}", plan.tile)));
    }
    Ok(entries[layout as usize][plan.tile.index])
}

fn flags(problem: &Matmul) -> u32 {
    let Matmul { out, epilogue, m, batches, .. } = problem;
    let elem = out.data.elem();
    let per_16_bytes = 16 / elem.size();
    let mut flags = 0;
    if problem.accumulate {
        flags |= ACCUMULATE;
    }
    if elem == Elem::F32 && problem.lhs.data.elem() != Elem::F32 {
        flags |= OUT_F32;
    }
    let form_bit = |form: Form| if form == Form::Tanh { TANH_FORM } else { 0 };
    let pre_aligned = match &epilogue.activation {
        Activation::None => true,
        Activation::Gelu { form, pre } => {
            flags |= GELU | form_bit(*form);
            pre.as_ref().is_none_or(|pre| pre.is_aligned(16))
        }
        Activation::GeluBackward { form, pre } => {
            flags |= GELU_BACKWARD | form_bit(*form);
            pre.is_aligned(16)
        }
    };
    let aligned = out.data.is_aligned(16)
        && pre_aligned
        && epilogue.residual.is_none_or(|residual| residual.is_aligned(16))
        && epilogue.bias.is_none_or(|bias| bias.is_aligned(16))
        && (*m <= 1 || out.row_stride.is_multiple_of(per_16_bytes))
        && (*batches <= 1 || out.batch_stride.is_multiple_of(per_16_bytes));
    if aligned { flags | VECTOR } else { flags }
}

/// Rows that one block sums; more go to further blocks, whose sums are added in a second launch.
const SUM_ROWS: usize = 512;
/// Columns of a block.
const SUM_COLS: usize = 256;

/// out[c] (+)= sum over r of inp[r, c]: the gradient of a bias. Overwrites or, with `accumulate`, adds.
///
/// # Shapes
/// inp (rows, cols) without gaps, f32, f16 or bf16; out (cols) f32.
///
/// # Errors
/// [`Error::Argument`] when an array is too short, has another dtype, or a size is 2^31 or more.
pub fn column_sums(
    gpu: &'static Gpu,
    mut out: SliceMut,
    inp: Slice,
    rows: usize,
    cols: usize,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "matmul_column_sums";
    out.expect(OP, "out", Elem::F32, cols)?;
    inp.expect(OP, "inp", inp.elem(), rows * cols)?;
    let entry = inp.elem().pick(OP, COLUMN_SUMS)?;
    if rows.max(cols) > i32::MAX as usize {
        return Err(Error::argument(OP, format!("inp ({rows}, {cols}): the kernel takes less than 2^31")));
    }
    if cols == 0 {
        return Ok(());
    }
    let launch = |entry, out: &SliceMut, inp: Slice, rows: usize, blocks: usize, accumulate: bool| {
        let per_16_bytes = 16 / inp.elem().size();
        let aligned = cols.is_multiple_of(per_16_bytes) && inp.is_aligned(16);
        let args = [
            out.into(),
            inp.into(),
            Arg::I32(rows as i32),
            Arg::I32(cols as i32),
            Arg::I32(rows.div_ceil(blocks) as i32),
            Arg::U32(aligned as u32),
            Arg::U32(accumulate as u32),
        ];
        gpu.launch(entry, [cols.div_ceil(SUM_COLS) as u32, blocks as u32, 1], [32, 8, 1], 0, &args)
    };
    // At most as many row blocks as one block of the second launch sums.
    let blocks = rows.div_ceil(SUM_ROWS).clamp(1, SUM_ROWS);
    if blocks == 1 {
        return launch(entry, &out.reborrow(), inp, rows, 1, accumulate);
    }
    // Equal parts may need fewer blocks than asked for; every block has a row.
    let blocks = rows.div_ceil(rows.div_ceil(blocks));
    let mut partials = gpu.buffer(Elem::F32, blocks * cols)?;
    launch(entry, &partials.slice_mut(), inp, rows, blocks, false)?;
    launch(COLUMN_SUMS[0], &out, partials.slice(), blocks, 1, accumulate)
}
