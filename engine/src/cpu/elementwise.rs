//! Elementwise loops, broadcasting, conversions and sums on the CPU.

use super::parallel;
use super::simd::sum_by;
use crate::dtype::Float;
use crate::simd;

simd! {
    fn widen_run<E: Float>(out: &mut [f32], inp: &[E]) {
        out.iter_mut().zip(inp).for_each(|(o, x)| *o = x.to_f32());
    }
}

simd! {
    fn narrow_run<E: Float>(out: &mut [E], inp: &[f32], accumulate: bool) {
        for (o, x) in out.iter_mut().zip(inp) {
            *o = E::from_f32(if accumulate { o.to_f32() + x } else { *x });
        }
    }
}

/// out = f32(inp)
pub fn widen_into<E: Float>(out: &mut [f32], inp: &[E]) {
    parallel::rows_mut(out, 1, |start, out| widen_run(out, &inp[start..start + out.len()]));
}

/// out = E(inp), or out += inp with one rounding.
pub fn narrow_into<E: Float>(out: &mut [E], inp: &[f32], accumulate: bool) {
    parallel::rows_mut(out, 1, |start, out| narrow_run(out, &inp[start..start + out.len()], accumulate));
}

simd! {
    fn cast_run<A: Float, B: Float>(out: &mut [B], inp: &[A], accumulate: bool) {
        for (o, x) in out.iter_mut().zip(inp) {
            *o = B::from_f32(if accumulate { o.to_f32() + x.to_f32() } else { x.to_f32() });
        }
    }
}

/// out = B(inp), or out += inp; through f32, which holds every half value exactly.
pub fn cast<A: Float, B: Float>(out: &mut [B], inp: &[A], accumulate: bool) {
    parallel::rows_mut(out, 1, |start, out| cast_run(out, &inp[start..start + out.len()], accumulate));
}

simd! {
    fn scale_run<E: Float>(out: &mut [E], inp: &[E], factor: f32) {
        out.iter_mut().zip(inp).for_each(|(o, x)| *o = E::from_f32(x.to_f32() * factor));
    }
}

/// out = inp * factor
pub fn scale<E: Float>(out: &mut [E], inp: &[E], factor: f32) {
    parallel::rows_mut(out, 1, |start, out| scale_run(out, &inp[start..start + out.len()], factor));
}

simd! {
    fn scale_in_place_run<E: Float>(x: &mut [E], factor: f32) {
        x.iter_mut().for_each(|x| *x = E::from_f32(x.to_f32() * factor));
    }
}

/// x *= factor
pub fn scale_in_place<E: Float>(x: &mut [E], factor: f32) {
    parallel::rows_mut(x, 1, |_, x| scale_in_place_run(x, factor));
}

simd! {
    fn add_bias_run<E: Float>(out: &mut [E], bias: &[E]) {
        for row in out.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(o, b)| *o = E::from_f32(o.to_f32() + b.to_f32()));
        }
    }
}

/// out (N, C) += bias (C)
pub fn add_bias<E: Float>(out: &mut [E], bias: &[E]) {
    parallel::rows_mut(out, bias.len(), |_, out| add_bias_run(out, bias));
}

simd! {
    fn add_row_run<E: Float>(sums: &mut [f32], row: &[E]) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f32());
    }
}

/// Column sums of inp (N, C).
pub fn sum_columns<E: Float>(inp: &[E], cols: usize) -> Vec<f32> {
    parallel::sum_rows(inp.len() / cols.max(1), cols, |row, sums| {
        add_row_run(sums, &inp[row * cols..][..cols])
    })
}

simd! {
    fn sum_run<E: Float>(inp: &[E]) -> f32 {
        sum_by(inp, |x| x.to_f32())
    }
}

/// Sum of all elements: f32 lanes within runs of 4096, f64 across runs.
pub fn sum<E: Float>(inp: &[E]) -> f64 {
    inp.chunks(4096).map(|run| sum_run(run) as f64).sum()
}

/// What an elementwise op of two inputs computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
}

impl Binary {
    #[inline(always)]
    fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
        }
    }
}

simd! {
    fn binary_run<E: Float>(out: &mut [E], a: &[E], b: &[E], op: Binary) {
        let n = out.len();
        match (a.len() == 1 && n > 1, b.len() == 1 && n > 1) {
            (false, false) => {
                for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                    *o = E::from_f32(op.apply(a.to_f32(), b.to_f32()));
                }
            }
            (false, true) => {
                let b = b[0].to_f32();
                out.iter_mut().zip(a).for_each(|(o, a)| *o = E::from_f32(op.apply(a.to_f32(), b)));
            }
            (true, false) => {
                let a = a[0].to_f32();
                out.iter_mut().zip(b).for_each(|(o, b)| *o = E::from_f32(op.apply(a, b.to_f32())));
            }
            (true, true) => out.fill(E::from_f32(op.apply(a[0].to_f32(), b[0].to_f32()))),
        }
    }
}

/// out = a op b, all of one shape.
pub fn binary<E: Float>(out: &mut [E], a: &[E], b: &[E], op: Binary) {
    parallel::rows_mut(out, 1, |start, out| {
        let range = start..start + out.len();
        binary_run(out, &a[range.clone()], &b[range], op);
    });
}

/// out = a op b with broadcasting: a stride of 0 repeats an input along that dimension. Strides otherwise are those of
/// contiguous inputs.
pub fn binary_broadcast<E: Float>(
    out: &mut [E],
    a: &[E],
    a_strides: &[usize],
    b: &[E],
    b_strides: &[usize],
    shape: &[usize],
    op: Binary,
) {
    match shape {
        [] => binary_run(out, &a[..1], &b[..1], op),
        [n] => {
            let take = |x: usize| if x == 0 { 1 } else { *n };
            binary_run(out, &a[..take(a_strides[0])], &b[..take(b_strides[0])], op);
        }
        [_, rest @ ..] => {
            let step = rest.iter().product::<usize>();
            for (i, out) in out.chunks_exact_mut(step.max(1)).enumerate() {
                let (a, b) = (&a[i * a_strides[0]..], &b[i * b_strides[0]..]);
                binary_broadcast(out, a, &a_strides[1..], b, &b_strides[1..], rest, op);
            }
        }
    }
}

/// out[i] += the elements of inp (of `shape`) that broadcasting made from out[i]; `strides` index `out`.
pub fn reduce_broadcast<E: Float>(out: &mut [f32], strides: &[usize], inp: &[E], shape: &[usize]) {
    match shape {
        [] => out[0] += inp[0].to_f32(),
        [n] if strides[0] == 0 => out[0] += sum_run(&inp[..*n]),
        [n] => add_row_run(&mut out[..*n], &inp[..*n]),
        [n, rest @ ..] => {
            let step = rest.iter().product::<usize>();
            for i in 0..*n {
                reduce_broadcast(
                    &mut out[i * strides[0]..],
                    &strides[1..],
                    &inp[i * step..(i + 1) * step],
                    rest,
                );
            }
        }
    }
}
