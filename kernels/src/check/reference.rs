//! Operands as they lie in memory, the product in f64, and the same computation done plainly in the operands' dtype.

use crate::elem::Elem;
use half::{bf16, f16};

/// A small generator of test data (splitmix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Close to normal: the sum of four uniform values, variance 1.
    pub fn normal(&mut self) -> f64 {
        (0..4).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5).sum::<f64>() * 3f64.sqrt()
    }
}

/// The nearest value of the dtype (by way of f32). Not by `half`'s `from_f64`, which looks at the upper 32 bits only and so takes values just
/// above a tie for ties.
pub fn round(x: f64, elem: Elem) -> f64 {
    match elem {
        Elem::F32 => x as f32 as f64,
        Elem::F16 => f16::from_f32(x as f32).to_f64(),
        Elem::BF16 => bf16::from_f32(x as f32).to_f64(),
        Elem::I32 => x,
    }
}

/// An f32 rounded to tf32: 10 mantissa bits, ties away from zero.
pub fn tf32(x: f64) -> f64 {
    f32::from_bits(((x as f32).to_bits() + 0x1000) & !0x1fff) as f64
}

pub fn bytes(values: &[f64], elem: Elem) -> Vec<u8> {
    match elem {
        Elem::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        Elem::F16 => values.iter().flat_map(|x| f16::from_f32(*x as f32).to_le_bytes()).collect(),
        Elem::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x as f32).to_le_bytes()).collect(),
        Elem::I32 => values.iter().flat_map(|x| (*x as i32).to_le_bytes()).collect(),
    }
}

pub fn values(bytes: &[u8], elem: Elem) -> Vec<f64> {
    let half = |pair: &[u8]| [pair[0], pair[1]];
    match elem {
        Elem::F32 => bytes
            .chunks(4)
            .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]) as f64)
            .collect(),
        Elem::F16 => bytes.chunks(2).map(|pair| f16::from_le_bytes(half(pair)).to_f64()).collect(),
        Elem::BF16 => bytes.chunks(2).map(|pair| bf16::from_le_bytes(half(pair)).to_f64()).collect(),
        Elem::I32 => bytes
            .chunks(4)
            .map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]) as f64)
            .collect(),
    }
}

/// A batch of matrices in an array of their own: where element (b, i, j) is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub batches: usize,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
    pub batch_stride: usize,
    /// Elements before the first, beside the guard: 1 takes the alignment away.
    pub start: usize,
}

impl Place {
    /// Row-major, rows padded to a multiple of 16 bytes in the dtype.
    pub fn aligned(batches: usize, rows: usize, cols: usize, elem: Elem) -> Place {
        let row_stride = cols.next_multiple_of(16 / elem.size()).max(1);
        Place { batches, rows, cols, row_stride, col_stride: 1, batch_stride: rows * row_stride, start: 0 }
    }

    /// The same memory seen as the transpose.
    pub fn t(self) -> Place {
        Place {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    pub fn at(&self, b: usize, i: usize, j: usize) -> usize {
        self.start + b * self.batch_stride + i * self.row_stride + j * self.col_stride
    }

    /// Length of the array.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        if self.batches * self.rows * self.cols == 0 {
            self.start
        } else {
            self.at(self.batches - 1, self.rows - 1, self.cols - 1) + 1
        }
    }

    /// Random values of the dtype where elements are, NaN elsewhere.
    pub fn draw(&self, elem: Elem, random: &mut Random) -> Vec<f64> {
        let mut data = vec![f64::NAN; self.len()];
        for b in 0..self.batches {
            for i in 0..self.rows {
                for j in 0..self.cols {
                    data[self.at(b, i, j)] = round(random.normal(), elem);
                }
            }
        }
        data
    }
}

/// sum over p of lhs[b, i, p] rhs[b, p, j]: exact to f64, and in plain f32 arithmetic with operands passed through `operand`.
pub fn product(
    lhs: (&Place, &[f64]),
    rhs: (&Place, &[f64]),
    [b, i, j]: [usize; 3],
    operand: impl Fn(f64) -> f64,
) -> (f64, f32) {
    let (mut exact, mut plain) = (0.0, 0.0f32);
    for p in 0..lhs.0.cols {
        let (x, y) = (lhs.1[lhs.0.at(b, i, p)], rhs.1[rhs.0.at(b, p, j)]);
        exact += x * y;
        plain = (operand(x) as f32).mul_add(operand(y) as f32, plain);
    }
    (exact, plain)
}

/// gelu and its derivative in f64; erf by its series, good to 1e-13 for |x| < 5.
pub fn gelu(x: f64, tanh_form: bool) -> (f64, f64) {
    let pi = std::f64::consts::PI;
    if tanh_form {
        let (u, du) = (
            (2.0 / pi).sqrt() * (x + 0.044715 * x.powi(3)),
            (2.0 / pi).sqrt() * (1.0 + 3.0 * 0.044715 * x * x),
        );
        let t = u.tanh();
        (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du)
    } else {
        let z = x / 2f64.sqrt();
        // erf z = 2 / sqrt(pi) sum over n of (-1)^n z^(2n+1) / (n! (2n+1)).
        let (mut term, mut sum) = (z, 0.0);
        for n in 0..200 {
            sum += term / (2 * n + 1) as f64;
            term *= -z * z / (n + 1) as f64;
        }
        let phi = 0.5 * (1.0 + 2.0 / pi.sqrt() * sum);
        (x * phi, phi + x * (-0.5 * x * x).exp() / (2.0 * pi).sqrt())
    }
}
