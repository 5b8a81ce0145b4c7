//! Between f64 arrays and tensors, and gradients of references by central differences.

use crate::cards::{Array, Input, Role};
use crate::dtype::DType;
use crate::philox::Reader;
use crate::tensor::Tensor;
use half::{bf16, f16};
use handloom_kernels::check::reference;

/// The nearest value of `dtype`, by the `half` crate rather than by the engine's own conversions.
pub fn round(value: f64, dtype: DType) -> f64 {
    reference::round(value, dtype.elem())
}

/// Smallest positive value of `dtype`: rounding is never finer than half of it.
pub fn smallest(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f32::from_bits(1) as f64,
        DType::F16 => f16::from_bits(1).to_f64(),
        DType::BF16 => bf16::from_bits(1).to_f64(),
        DType::I32 => 1.0,
    }
}

/// `array` with every value rounded to `dtype`.
pub fn rounded(array: &Array, dtype: DType) -> Array {
    Array::from_fn(&array.shape, |i| round(array.data[i], dtype))
}

/// The array as a tensor; its values must be representable.
pub fn tensor(array: &Array, dtype: DType) -> Tensor {
    let data = &array.data;
    let tensor = match dtype {
        DType::F32 => Tensor::from_slice(&data.iter().map(|x| *x as f32).collect::<Vec<_>>(), &array.shape),
        DType::F16 => {
            Tensor::from_slice(&data.iter().map(|x| f16::from_f64(*x)).collect::<Vec<_>>(), &array.shape)
        }
        DType::BF16 => {
            Tensor::from_slice(&data.iter().map(|x| bf16::from_f64(*x)).collect::<Vec<_>>(), &array.shape)
        }
        DType::I32 => Tensor::from_slice(&data.iter().map(|x| *x as i32).collect::<Vec<_>>(), &array.shape),
    };
    tensor.expect("from_fn filled the shape")
}

/// The values in f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec_f32().into_iter().map(f64::from).collect()
}

/// An f32 tensor of standard normal values.
pub fn normal(shape: &[usize], reader: &mut Reader) -> Tensor {
    tensor(&rounded(&Array::from_fn(shape, |_| reader.normal()), DType::F32), DType::F32)
}

/// dtype of an input in a case run in `dtype`.
pub fn input_dtype(input: &Input, dtype: DType) -> DType {
    if input.role == Role::Ids { DType::I32 } else { dtype }
}

/// Up to `most` positions below `n`: all when they are few, else the first, the last and a draw of others.
pub fn sample(n: usize, most: usize, reader: &mut Reader) -> Vec<usize> {
    if n <= most {
        return (0..n).collect();
    }
    let mut positions: Vec<usize> = (0..most - 2).map(|_| reader.below(n as u32) as usize).collect();
    positions.extend([0, n - 1]);
    positions.sort_unstable();
    positions.dedup();
    positions
}

/// d sum(dout * f(inputs)) / d inputs[which] at `positions`, by the fourth-order central difference
/// (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h with h a 5000th of the input's spread. Also returns
/// how much of that may be rounding of f64.
pub fn finite_differences(
    f: impl Fn(&[Array]) -> Array,
    inputs: &[Array],
    which: usize,
    dout: &[f64],
    positions: &[usize],
) -> (Vec<f64>, f64) {
    let mut inputs = inputs.to_vec();
    let finite: Vec<f64> = inputs[which].data.iter().copied().filter(|x| x.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len().max(1) as f64;
    let deviations: Vec<f64> = finite.iter().map(|x| x - mean).collect();
    let spread = if finite.len() > 1 { super::close::rms(&deviations) } else { mean.abs() };
    let h = (2e-4 * spread).max(1e-5);
    let terms: f64 = f(&inputs).data.iter().zip(dout).map(|(out, dout)| (out * dout).abs()).sum();
    let differences = positions
        .iter()
        .map(|&at| {
            let x = inputs[which].data[at];
            let mut eval = |step: f64| {
                inputs[which].data[at] = x + step * h;
                f(&inputs)
            };
            let (a, b, c, d) = (eval(1.0), eval(-1.0), eval(2.0), eval(-2.0));
            inputs[which].data[at] = x;
            // Differences element by element: what does not depend on x cancels exactly.
            let difference = |i: usize| 8.0 * (a.data[i] - b.data[i]) - (c.data[i] - d.data[i]);
            let total: f64 =
                (0..dout.len()).map(|i| if dout[i] == 0.0 { 0.0 } else { dout[i] * difference(i) }).sum();
            total / (12.0 * h)
        })
        .collect();
    (differences, 2e-16 * terms / h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_a_cubic_are_exact() {
        let x = Array { shape: vec![2], data: vec![1.5, -2.0] };
        let cubes = |x: &[Array]| Array::from_fn(&[2], |i| x[0].data[i].powi(3));
        let (got, noise) = finite_differences(cubes, &[x], 0, &[2.0, 1.0], &[0, 1]);
        // 2 * 3 * 1.5^2 and 3 * 2^2
        assert!((got[0] - 13.5).abs() < 1e-9 && (got[1] - 12.0).abs() < 1e-9 && noise < 1e-9, "{got:?}");
    }
}
