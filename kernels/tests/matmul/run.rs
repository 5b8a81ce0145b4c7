//! Runs a product on the emulated GPU between guards, and judges it.

use std::sync::OnceLock;

use handloom_kernels::arena::Buffer;
use handloom_kernels::device::{Driver, Gpu};
use handloom_kernels::elem::Elem;
use handloom_kernels::error::Result;
use handloom_kernels::gelu::Form;
use handloom_kernels::matmul::plan::{Math, Plan};
use handloom_kernels::matmul::{Activation, Epilogue, Matmul, Matrix, Output, matmul, matmul_with};

use crate::reference::{GUARD, Place, Random, bytes, gelu, product, round, tf32, values};

pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| Gpu::open(Driver::Emulated, 0).expect("the emulated driver is built with the tests"))
}

/// Device memory with GUARD elements of 0xff bytes (NaN) on both sides.
pub struct Guarded {
    buffer: Buffer,
    len: usize,
}

impl Guarded {
    pub fn new(data: &[f64], elem: Elem) -> Guarded {
        let mut buffer = gpu().buffer(elem, data.len() + 2 * GUARD).expect("room");
        let guard = vec![0xff; GUARD * elem.size()];
        let all = [guard.clone(), bytes(data, elem), guard].concat();
        gpu().upload(buffer.slice_mut(), &all).expect("upload");
        Guarded { buffer, len: data.len() }
    }

    pub fn slice(&self) -> handloom_kernels::slice::Slice<'_> {
        self.buffer.slice().range(GUARD..GUARD + self.len)
    }

    pub fn slice_mut(&mut self) -> handloom_kernels::slice::SliceMut<'_> {
        let range = GUARD..GUARD + self.len;
        self.buffer.slice_mut().range(range)
    }

    /// The values, after a look at the guards.
    pub fn read(&self, what: &str) -> Vec<f64> {
        let elem = self.buffer.elem();
        let mut all = vec![0; self.buffer.len() * elem.size()];
        gpu().download(&mut all, self.buffer.slice()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (first, rest) = all.split_at(GUARD * elem.size());
        let (data, last) = rest.split_at(self.len * elem.size());
        assert!(first.iter().chain(last).all(|byte| *byte == 0xff), "{what}: wrote outside its array");
        values(data, elem)
    }
}

/// What is fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    Nothing,
    Bias,
    Gelu(Form),
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
    pub fn check(&self) {
        let first = self.run();
        self.judge(&first);
        let again = self.run();
        let bits = |run: &Run| -> Vec<u64> {
            run.out.iter().chain(run.pre.iter().flatten()).map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(&first), bits(&again), "{self:?}: other bits the second time");
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
    pub fn launch(&self) -> Result<()> {
        self.launch_on(&self.inputs()).map(|_| ())
    }

    fn launch_on(&self, inputs: &Inputs) -> Result<(Guarded, Guarded)> {
        let (lhs, rhs) = (Guarded::new(&inputs.lhs, self.elem), Guarded::new(&inputs.rhs, self.elem));
        let bias = Guarded::new(&inputs.bias, self.elem);
        let mut out = Guarded::new(&inputs.out, self.out_elem);
        let poison = vec![f64::NAN; self.out.len()];
        let gelu = matches!(self.fused, Fused::Gelu(_));
        let mut other = Guarded::new(if gelu { &poison } else { &inputs.other }, self.out_elem);
        let (m, n, k) = (self.out.rows, self.out.cols, self.lhs.cols);
        let bias = Some(bias.slice().range(0..n));
        let start = self.out.start;
        let epilogue = match self.fused {
            Fused::Nothing => Epilogue::default(),
            Fused::Bias => Epilogue { bias, ..Epilogue::default() },
            Fused::Gelu(form) => {
                let pre = other.slice_mut().offset(start);
                Epilogue { bias, activation: Activation::Gelu { form, pre }, residual: None }
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
            Some(plan) => matmul_with(gpu(), problem, plan)?,
            None => matmul(gpu(), problem)?,
        }
        Ok((out, other))
    }

    fn run(&self) -> Run {
        let inputs = self.inputs();
        let (out, other) = self.launch_on(&inputs).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let out = out.read(&format!("{self:?}, out"));
        let other = other.read(&format!("{self:?}, pre or residual"));
        let pre = matches!(self.fused, Fused::Gelu(_)).then_some(other);
        Run { inputs, out, pre }
    }

    fn judge(&self, run: &Run) {
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
        outs.verdict(&format!("{self:?}, out"));
        pres.verdict(&format!("{self:?}, pre"));
        let gaps = written.iter().zip(&run.out).filter(|(written, _)| !**written);
        assert!(gaps.into_iter().all(|(_, x)| x.is_nan()), "{self:?}: wrote between the rows of out");
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

    #[track_caller]
    pub fn verdict(&self, what: &str) {
        assert!(!self.nan, "{what}: NaN");
        let allowed = 2.0 * self.plain + self.largest * f32::EPSILON as f64;
        assert!(self.worst <= allowed, "{what}: error {:e}, plain {:e}", self.worst, self.plain);
    }
}
