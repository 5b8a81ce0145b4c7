//! Compiles a function for several instruction sets and picks one at run time, and the vectorisable math it needs.
//!
//! The binary is built for baseline x86-64 and must be fast on AVX-512. [`simd!`](crate::simd) wraps a plain loop: its
//! body is compiled once more with AVX2 and once with AVX-512 enabled, where LLVM vectorises it. No variant changes
//! results: Rust never reorders or contracts floating-point operations, and `mul_add` is exact in all of them.

/// Declares a function whose body is compiled per instruction set. Helpers it calls must be `#[inline(always)]`.
#[macro_export]
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident : $bound:path),+>)? ($($arg:ident : $ty:ty),* $(,)?)
     $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,f16c")]
                fn with_avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,bmi2,f16c")]
                fn with_avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::cpu::simd::level() {
                    // SAFETY: level() returns this only on a CPU that has these features.
                    $crate::cpu::simd::Level::Avx512 => return unsafe { with_avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::simd::Level::Avx2 => return unsafe { with_avx2($($arg),*) },
                    $crate::cpu::simd::Level::Baseline => {}
                }
            }
            body($($arg),*)
        }
    };
}

/// The instruction sets `simd!` distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Baseline,
    Avx2,
    Avx512,
}

/// The name of the instruction set in use.
pub fn name() -> &'static str {
    match level() {
        Level::Baseline => "baseline",
        Level::Avx2 => "AVX2",
        Level::Avx512 => "AVX-512",
    }
}

/// The best level of this CPU.
#[inline]
pub fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f")
            && has!("avx512bw")
            && has!("avx512dq")
            && has!("avx512vl")
            && has!("bmi2")
            && has!("f16c")
        {
            return Level::Avx512;
        }
        if has!("avx2") && has!("fma") && has!("bmi2") && has!("f16c") {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Adding and subtracting this rounds an f32 below 2^22 in magnitude to the nearest integer.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// e^x, at most 1 ulp from the f64 result for normal results (test below). 0 below -104, infinity above 88.73.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Cody and Waite's reduction: x = n ln2 + r with |r| <= ln2 / 2, ln2 split so that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 88.8 { 88.8 } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    // Taylor to r^7: the remainder is below 2^-28 relative.
    let mut p = 1.984_127e-4f32;
    p = p.mul_add(r, 1.388_888_9e-3);
    p = p.mul_add(r, 8.333_333e-3);
    p = p.mul_add(r, 4.166_666_8e-2);
    p = p.mul_add(r, 0.166_666_67);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    // 2^n in two factors, so that results at both ends of the range stay representable on the way.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

/// Complementary error function, relative error below 3e-7 for |x| < 2 (Numerical Recipes in C, 2nd ed., section 6.2:
/// a Chebyshev fit of fractional error 1.2e-7 everywhere, before f32 rounding).
#[allow(clippy::excessive_precision)] // the coefficients as published
#[inline(always)]
pub fn erfc(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (0.5f32.mul_add(z, 1.0));
    let mut p = 0.170_872_77f32;
    p = p.mul_add(t, -0.822_152_23);
    p = p.mul_add(t, 1.488_515_87);
    p = p.mul_add(t, -1.135_203_98);
    p = p.mul_add(t, 0.278_868_07);
    p = p.mul_add(t, -0.186_288_06);
    p = p.mul_add(t, 0.096_784_18);
    p = p.mul_add(t, 0.374_091_96);
    p = p.mul_add(t, 1.000_023_68);
    p = p.mul_add(t, -1.265_512_23);
    let tail = t * exp(z.mul_add(-z, p));
    if x < 0.0 { 2.0 - tail } else { tail }
}

/// Number of independent accumulators of a vectorised reduction; fixes its order on every CPU.
pub const LANES: usize = 16;

/// Folds the lanes of a reduction as a tree, always in this order.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `f(x[i])` with [`LANES`] accumulators.
#[inline(always)]
pub fn sum_by<E: Copy>(x: &[E], f: impl Fn(E) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    sum_lanes(lanes)
}

/// Sum of `f(x[i], y[i])` with [`LANES`] accumulators.
#[inline(always)]
pub fn sum_by2<A: Copy, B: Copy>(x: &[A], y: &[B], f: impl Fn(A, B) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += f(x, y);
    }
    sum_lanes(lanes)
}

/// Sum of `f(x[i], y[i], z[i])` with [`LANES`] accumulators.
#[inline(always)]
pub fn sum_by3<A: Copy, B: Copy, C: Copy>(x: &[A], y: &[B], z: &[C], f: impl Fn(A, B, C) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    let (zs, z_rest) = z.as_chunks::<LANES>();
    for ((x, y), z) in xs.iter().zip(ys).zip(zs) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i], z[i]);
        }
    }
    for (((lane, &x), &y), &z) in lanes.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
        *lane += f(x, y, z);
    }
    sum_lanes(lanes)
}

/// Largest value; NaN when any value is NaN, -infinity for an empty slice.
#[inline(always)]
pub fn max_by<E: Copy>(x: &[E], f: impl Fn(E) -> f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let pick = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = pick(lanes[i], f(chunk[i]));
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = pick(*lane, f(value));
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, pick)
}

#[cfg(test)]
mod tests {
    use super::*;

    simd! {
        fn exp_all(out: &mut [f32], x: &[f32]) {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = exp(x);
            }
        }
    }

    #[test]
    fn exp_is_within_one_ulp() {
        let x: Vec<f32> = (0..2_000_000).map(|i| -104.5 + i as f32 * (194.0 / 2e6)).collect();
        let mut y = vec![0.0; x.len()];
        exp_all(&mut y, &x);
        for (&x, &y) in x.iter().zip(&y) {
            let exact = (x as f64).exp();
            let unit =
                (f32::from_bits((exact as f32).to_bits().max(1)).next_up() as f64) - exact as f32 as f64;
            if exact > f32::MAX as f64 {
                assert!(y == f32::INFINITY || y >= 3.4e38, "exp({x}) = {y}");
            } else {
                assert!(
                    (y as f64 - exact).abs() <= 1.01 * unit.max(1.5e-45),
                    "exp({x}) = {y}, exact {exact}"
                );
            }
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erfc_matches_tabulated_values() {
        // Abramowitz and Stegun, table 7.1 (erf) and 7.3: erfc = 1 - erf.
        for (x, want) in [(0.0, 1.0), (0.5, 0.479_500_122), (1.0, 0.157_299_207), (2.0, 0.004_677_734_98)] {
            let got = erfc(x as f32) as f64;
            assert!((got - want).abs() <= 4e-7 * want, "erfc({x}) = {got}, want {want}");
            assert!((erfc(-x as f32) as f64 - (2.0 - want)).abs() <= 4e-7);
        }
    }

    #[test]
    fn reductions_see_every_element_and_nan() {
        for n in [0, 1, 15, 16, 17, 67] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum_by(&x, |x| x), (n * n.max(1) - n) as f32 / 2.0);
            assert_eq!(max_by(&x, |x| x), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
            for i in 0..n {
                let mut y = x.clone();
                y[i] = f32::NAN;
                assert!(max_by(&y, |x| x).is_nan(), "NaN at {i} of {n} is lost");
            }
        }
    }
}
