//! Runs a product on a device between guards, and judges it.

use super::reference::{Place, Random, bytes, gelu, product, round, tf32, values};
use crate::arena::Buffer;
use crate::device::Gpu;
use crate::elem::Elem;
use crate::error::Result;
use crate::gelu::Form;
use crate::matmul::plan::{Math, Plan, Tile};
use crate::matmul::{Activation, Epilogue, Matmul, Matrix, Output, matmul, matmul_with};
use crate::slice::{Slice, SliceMut};

/// Elements of poison before and after every array: 64 bytes or more, and a multiple of 16 bytes.
const GUARD: usize = 32;

/// Device memory with GUARD elements of 0xff bytes (NaN) on both sides.
pub struct Guarded {
    gpu: &'static Gpu,
    buffer: Buffer,
    len: usize,
}

impl Guarded {
    /// An array that holds `data`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(gpu: &'static Gpu, data: &[f64], elem: Elem) -> Result<Guarded> {
        let mut buffer = gpu.buffer(elem, data.len() + 2 * GUARD)?;
        let guard = vec![0xff; GUARD * elem.size()];
        let all = [guard.clone(), bytes(data, elem), guard].concat();
        gpu.upload(buffer.slice_mut(), &all)?;
        Ok(Guarded { gpu, buffer, len: data.len() })
    }

    pub fn slice(&self) -> Slice<'_> {
        self.buffer.slice().range(GUARD..GUARD + self.len)
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        let range = GUARD..GUARD + self.len;
        self.buffer.slice_mut().range(range)
    }

    /// The values, after a look at the guards.
    ///
    /// # Errors
    /// When a kernel failed, or something was written outside the array.
    pub fn read(&self) -> std::result::Result<Vec<f64>, String> {
        let elem = self.buffer.elem();
        let mut all = vec![0; self.buffer.len() * elem.size()];
        self.gpu.download(&mut all, self.buffer.slice()).map_err(|error| error.to_string())?;
        let (first, rest) = all.split_at(GUARD * elem.size());
        let (data, last) = rest.split_at(self.len * elem.size());
        match first.iter().chain(last).all(|byte| *byte == 0xff) {
            true => Ok(values(data, elem)),
            false => Err("wrote outside its array".into()),
        }
    }
}

/// What is fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    Nothing,
    Bias,
    Gelu(Form),
    /// Without an array for gelu's argument.
    GeluAlone(Form),
    Residual,
    GeluBackward(Form),
}

/// A product to test.
#[derive(Clone, Debug)]
pub struct Case {
    pub elem: Elem,
    pub out_elem: Elem,
    pub tf32: bool,
    pub lhs: Place,
    pub rhs: Place,
    pub out: Place,
    pub fused: Fused,
    pub accumulate: bool,
    pub plan: Option<Plan>,
}

impl Case {
    /// Aligned operands of a layout (lhs and rhs K-contiguous or not), nothing fused.
    pub fn new(math: Math, [m, n, k]: [usize; 3], lhs_k: bool, rhs_k: bool) -> Case {
        let elem = match math {
            Math::F32 | Math::Tf32 => Elem::F32,
            Math::F16 => Elem::F16,
            Math::Bf16 => Elem::BF16,
        };
        let lhs = if lhs_k { Place::aligned(1, m, k, elem) } else { Place::aligned(1, k, m, elem).t() };
        let rhs = if rhs_k { Place::aligned(1, n, k, elem).t() } else { Place::aligned(1, k, n, elem) };
        Case {
            elem,
            out_elem: elem,
            tf32: math == Math::Tf32,
            lhs,
            rhs,
            out: Place::aligned(1, m, n, elem),
            fused: Fused::Nothing,
            accumulate: false,
            plan: None,
        }
    }

    /// Runs and compares with f64: every error at most twice the largest of the same computation done plainly in the same
    /// dtype (f32 accumulation in order, one rounding per stored value), or half a unit of the largest value's f32 rounding.
    ///
    /// # Errors
    /// What is wrong, with the case.
    pub fn check(&self, gpu: &'static Gpu) -> std::result::Result<(), String> {
        let bits = |run: &Run| -> Vec<u64> {
            run.out.iter().chain(run.pre.iter().flatten()).map(|x| x.to_bits()).collect()
        };
        let verdict = || {
            let first = self.run(gpu)?;
            self.judge(&first)?;
            match bits(&first) == bits(&self.run(gpu)?) {
                true => Ok(()),
                false => Err("other bits the second time".to_string()),
            }
        };
        verdict().map_err(|message| format!("{self:?}: {message}"))
    }

    fn matrix<'a>(place: &Place, array: &'a Guarded) -> Matrix<'a> {
        let Place { row_stride, col_stride, batch_stride, start, .. } = *place;
        Matrix { data: array.slice().offset(start), row_stride, col_stride, batch_stride }
    }

    fn inputs(&self) -> Inputs {
        let mut random = Random((self.out.rows * 31 + self.out.cols * 7 + self.lhs.cols) as u64);
        let bias = Place::aligned(1, 1, self.out.cols, self.elem);
        Inputs {
            lhs: self.lhs.draw(self.elem, &mut random),
            rhs: self.rhs.draw(self.elem, &mut random),
            bias: bias.draw(self.elem, &mut random),
            // Where nothing is accumulated, out starts as poison.
            out: if self.accumulate {
                self.out.draw(self.out_elem, &mut random)
            } else {
                vec![f64::NAN; self.out.len()]
            },
            // Residual, or the argument of gelu that backward reads.
            other: self.out.draw(self.out_elem, &mut random),
        }
    }

    /// The launch alone.
    ///
    /// # Errors
    /// The launcher's.
    pub fn launch(&self, gpu: &'static Gpu) -> Result<()> {
        self.launch_on(gpu, &self.inputs()).map(|_| ())
    }

    fn launch_on(&self, gpu: &'static Gpu, inputs: &Inputs) -> Result<(Guarded, Guarded)> {
        let array = |data: &[f64], elem| Guarded::new(gpu, data, elem);
        let (lhs, rhs) = (array(&inputs.lhs, self.elem)?, array(&inputs.rhs, self.elem)?);
        let bias = array(&inputs.bias, self.elem)?;
        let mut out = array(&inputs.out, self.out_elem)?;
        let poison = vec![f64::NAN; self.out.len()];
        let gelu = matches!(self.fused, Fused::Gelu(_));
        let mut other = array(if gelu { &poison } else { &inputs.other }, self.out_elem)?;
        let (m, n, k) = (self.out.rows, self.out.cols, self.lhs.cols);
        let bias = Some(bias.slice().range(0..n));
        let start = self.out.start;
        let epilogue = match self.fused {
            Fused::Nothing => Epilogue::default(),
            Fused::Bias => Epilogue { bias, ..Epilogue::default() },
            Fused::Gelu(form) => {
                let pre = Some(other.slice_mut().offset(start));
                Epilogue { bias, activation: Activation::Gelu { form, pre }, residual: None }
            }
            Fused::GeluAlone(form) => {
                Epilogue { bias, activation: Activation::Gelu { form, pre: None }, residual: None }
            }
            Fused::Residual => {
                Epilogue { bias, residual: Some(other.slice().offset(start)), ..Epilogue::default() }
            }
            Fused::GeluBackward(form) => {
                let pre = other.slice().offset(start);
                Epilogue { activation: Activation::GeluBackward { form, pre }, ..Epilogue::default() }
            }
        };
        let problem = Matmul {
            out: Output {
                data: out.slice_mut().offset(start),
                row_stride: self.out.row_stride,
                batch_stride: self.out.batch_stride,
            },
            lhs: Case::matrix(&self.lhs, &lhs),
            rhs: Case::matrix(&self.rhs, &rhs),
            m,
            n,
            k,
            batches: self.out.batches,
            accumulate: self.accumulate,
            epilogue,
            tf32: self.tf32,
        };
        match self.plan {
            Some(plan) => matmul_with(gpu, problem, plan)?,
            None => matmul(gpu, problem)?,
        }
        Ok((out, other))
    }

    fn run(&self, gpu: &'static Gpu) -> std::result::Result<Run, String> {
        let inputs = self.inputs();
        let (out, other) = self.launch_on(gpu, &inputs).map_err(|error| error.to_string())?;
        let out = out.read().map_err(|message| format!("out: {message}"))?;
        let other = other.read().map_err(|message| format!("pre or residual: {message}"))?;
        let pre = matches!(self.fused, Fused::Gelu(_)).then_some(other);
        Ok(Run { inputs, out, pre })
    }

    fn judge(&self, run: &Run) -> std::result::Result<(), String> {
        let Inputs { lhs, rhs, bias, out: before, other } = &run.inputs;
        let stored = |x: f64| round(x, self.out_elem);
        let mut outs = Judge::default();
        let mut pres = Judge::default();
        let mut written = vec![false; self.out.len()];
        for b in 0..self.out.batches {
            for i in 0..self.out.rows {
                for j in 0..self.out.cols {
                    let at = self.out.at(b, i, j);
                    written[at] = true;
                    let operand = |x| if self.tf32 { tf32(x) } else { x };
                    let (mut exact, plain) = product((&self.lhs, lhs), (&self.rhs, rhs), [b, i, j], operand);
                    let mut plain = plain as f64;
                    let biased = !matches!(self.fused, Fused::Nothing | Fused::GeluBackward(_));
                    if biased {
                        let bias = bias.get(j).expect("a bias for every column");
                        (exact, plain) = (exact + bias, (plain + bias) as f32 as f64);
                    }
                    let tanh = |form| form == Form::Tanh;
                    match self.fused {
                        Fused::Nothing | Fused::Bias => {}
                        Fused::Gelu(form) => {
                            pres.add(run.pre.as_ref().expect("gelu has pre")[at], exact, stored(plain));
                            exact = gelu(exact, tanh(form)).0;
                            plain = gelu(plain, tanh(form)).0 as f32 as f64;
                        }
                        Fused::GeluAlone(form) => {
                            exact = gelu(exact, tanh(form)).0;
                            plain = gelu(plain, tanh(form)).0 as f32 as f64;
                        }
                        Fused::Residual => {
                            (exact, plain) = (exact + other[at], (plain + other[at]) as f32 as f64);
                        }
                        Fused::GeluBackward(form) => {
                            let slope = gelu(other[at], tanh(form)).1;
                            (exact, plain) = (exact * slope, (plain * slope) as f32 as f64);
                        }
                    }
                    if self.accumulate {
                        (exact, plain) = (exact + before[at], plain + before[at]);
                    }
                    outs.add(run.out[at], exact, stored(plain));
                }
            }
        }
        outs.verdict("out")?;
        pres.verdict("pre")?;
        let mut gaps = written.iter().zip(&run.out).filter(|(written, _)| !**written);
        match gaps.all(|(_, x)| x.is_nan()) {
            true => Ok(()),
            false => Err("wrote between the rows of out".into()),
        }
    }
}

struct Inputs {
    lhs: Vec<f64>,
    rhs: Vec<f64>,
    bias: Vec<f64>,
    out: Vec<f64>,
    other: Vec<f64>,
}

struct Run {
    inputs: Inputs,
    out: Vec<f64>,
    pre: Option<Vec<f64>>,
}

/// Collects errors of the kernel and of the plain computation.
#[derive(Default)]
pub struct Judge {
    worst: f64,
    plain: f64,
    largest: f64,
    nan: bool,
}

impl Judge {
    pub fn add(&mut self, got: f64, exact: f64, plain: f64) {
        self.nan |= got.is_nan();
        self.worst = self.worst.max((got - exact).abs());
        self.plain = self.plain.max((plain - exact).abs());
        self.largest = self.largest.max(exact.abs());
    }

    /// # Errors
    /// When a value is NaN, or the largest error more than twice the plain computation's.
    pub fn verdict(&self, what: &str) -> std::result::Result<(), String> {
        if self.nan {
            return Err(format!("{what}: NaN"));
        }
        let allowed = 2.0 * self.plain + self.largest * f32::EPSILON as f64;
        match self.worst <= allowed {
            true => Ok(()),
            false => Err(format!("{what}: error {:e}, plain {:e}", self.worst, self.plain)),
        }
    }
}

/// (lhs, rhs) K-contiguous: nn, nt, tn.
pub const LAYOUTS: [(bool, bool); 3] = [(true, false), (true, true), (false, false)];

/// The tiles of all kernels for `math` that run on this device, whatever the plan would choose.
pub fn tiles(gpu: &Gpu, math: Math) -> impl Iterator<Item = &'static Tile> {
    let wgmma = if gpu.has_hopper_kernels() { math.wgmma_tiles() } else { &[] };
    wgmma.iter().chain(math.tiles())
}

/// A tile at its edges in every layout: one more and one less than it, one element, a ring that goes round, ends between two passes of
/// a tile's copy.
pub fn edges(math: Math, tile: &'static Tile) -> impl Iterator<Item = Case> {
    let (bm, bn, bk) = (tile.bm, tile.bn, tile.bk);
    let sizes = [
        [bm - 1, bn + 1, 2 * bk + 1],
        [bm + 1, bn - 1, 5 * bk - 1],
        [bm, bn, bk],
        [1, bn + 3, 7],
        [bm + 2, 1, bk + 1],
        [1, 1, 1],
        [bm / 2, bn / 4, bk / 2],
        [bm / 4, bn / 2, bk + bk / 4],
        [bm / 2 + 1, bn / 4, 10 * bk + 16],
    ];
    LAYOUTS.into_iter().flat_map(move |(lhs_k, rhs_k)| {
        sizes.into_iter().map(move |sizes| {
            let plan = Some(Plan::new(*tile, sizes[2], 1));
            Case { plan, ..Case::new(math, sizes, lhs_k, rhs_k) }
        })
    })
}
