//! Attention of a new token over cached keys and values, beside the formula: head sizes, lengths around the groups of lanes, several
//! sequences, arrays that are not aligned, and a position outside the cache.

use handloom_engine::check::oracle::round;
use handloom_engine::dtype::DType;
use handloom_kernels::cached_attention::CachedAttention;

use crate::guarded::{FLOATS, Guarded, gpu, normal, reader};

/// One call: the caches hold `context` rows of which the first `position` are earlier tokens.
struct Call {
    sizes: CachedAttention,
    keys: Vec<f64>,
    values: Vec<f64>,
    qkv: Vec<f64>,
}

impl Call {
    fn new(batch: usize, context: usize, heads: usize, head_size: usize, dtype: DType) -> Self {
        let sizes =
            CachedAttention { batch, context, heads, head_size, scale: 1.0 / (head_size as f32).sqrt() };
        let mut draw = reader(29);
        let mut array = |len| normal(len, 0.0, dtype, &mut draw);
        let width = heads * head_size;
        let cache = batch * context * width;
        Call { sizes, keys: array(cache), values: array(cache), qkv: array(batch * 3 * width) }
    }

    /// Element (b, j, h, d) of k (part 1) or v (part 2), the new token's at `position`.
    fn row(&self, part: usize, b: usize, j: usize, h: usize, position: usize) -> &[f64] {
        let CachedAttention { context, heads, head_size, .. } = self.sizes;
        let width = heads * head_size;
        let (from, start) = match j == position {
            true => (&self.qkv, (3 * b + part) * width),
            false => ([&self.keys, &self.values][part - 1], (b * context + j) * width),
        };
        &from[start + h * head_size..][..head_size]
    }

    /// The output, every sum and function rounded by `arithmetic`; and how far a rounding of the weights' exponents to f32 may move it.
    fn compute(&self, position: usize, arithmetic: fn(f64) -> f64) -> (Vec<f64>, Vec<f64>) {
        let CachedAttention { batch, heads, head_size, scale, .. } = self.sizes;
        let (mut out, mut moved) = (Vec::new(), Vec::new());
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let q = &self.qkv[3 * b * heads * head_size + h * head_size..][..head_size];
            let score = |j: usize| {
                let k = self.row(1, b, j, h, position);
                arithmetic(
                    q.iter().zip(k).fold(0.0, |sum, (q, k)| arithmetic(sum + q * k)) * f64::from(scale),
                )
            };
            let scores: Vec<f64> = (0..=position).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exponent = scores.iter().fold(1.0, |e: f64, s| e.max(1.0 + s.abs()));
            let powers: Vec<f64> = scores.iter().map(|s| arithmetic((s - max).exp())).collect();
            let total = powers.iter().fold(0.0, |sum, p| arithmetic(sum + p));
            for d in 0..head_size {
                let value = |j: usize| self.row(2, b, j, h, position)[d];
                let sum =
                    |f: &dyn Fn(usize) -> f64| (0..=position).fold(0.0, |sum, j| arithmetic(sum + f(j)));
                out.push(arithmetic(sum(&|j| powers[j] * value(j)) / total));
                moved.push(f64::from(f32::EPSILON) * exponent * sum(&|j| powers[j] * value(j).abs()) / total);
            }
        }
        (out, moved)
    }

    /// Runs the kernel; returns out, keys and values.
    fn run(&self, position: i32, dtype: DType, shift: usize) -> [Vec<f64>; 3] {
        let mut out = Guarded::output(self.qkv.len() / 3, dtype, shift);
        let mut keys = Guarded::input(&self.keys, dtype, shift);
        let mut values = Guarded::input(&self.values, dtype, shift);
        let qkv = Guarded::input(&self.qkv, dtype, shift);
        let position = Guarded::input(&[f64::from(position)], DType::I32, 0);
        self.sizes
            .forward(
                gpu(),
                out.slice_mut(),
                keys.slice_mut(),
                values.slice_mut(),
                qkv.slice(),
                position.slice(),
            )
            .unwrap();
        [out.read("out"), keys.read("keys"), values.read("values")]
    }

    /// The caches afterwards: the new row in its place and nothing else touched.
    fn stored(&self, position: usize) -> [Vec<f64>; 2] {
        let CachedAttention { batch, context, heads, head_size, .. } = self.sizes;
        let width = heads * head_size;
        [1, 2].map(|part| {
            let mut cache = [&self.keys, &self.values][part - 1].clone();
            for b in 0..batch {
                let new = &self.qkv[(3 * b + part) * width..][..width];
                cache[(b * context + position) * width..][..width].copy_from_slice(new);
            }
            cache
        })
    }
}

fn check(batch: usize, context: usize, heads: usize, head_size: usize, position: usize, shift: usize) {
    for dtype in FLOATS {
        let call = Call::new(batch, context, heads, head_size, dtype);
        let [out, keys, values] = call.run(position as i32, dtype, shift);
        let name = format!("B={batch} NH={heads} HS={head_size} position {position} shift {shift} {dtype}");
        assert!([keys, values] == call.stored(position), "{name}: the caches");
        let (want, moved) = call.compute(position, |x| x);
        let (plain, _) = call.compute(position, |x| f64::from(x as f32));
        let stored = |x: f64| round(x, dtype);
        let worst = want.iter().zip(&plain).map(|(w, p)| (w - stored(*p)).abs()).fold(0.0, f64::max);
        for (at, ((got, want), moved)) in out.iter().zip(&want).zip(&moved).enumerate() {
            let error = (got - want).abs();
            assert!(
                error <= 2.0 * worst + 2.0 * moved,
                "{name} element {at}: {got}, expected {want} ({error:e})"
            );
        }
        let [again, ..] = call.run(position as i32, dtype, shift);
        assert_eq!(out, again, "{name}: other bits the second time");
    }
}

#[test]
fn heads_of_any_size_see_the_tokens_up_to_their_own() {
    // A group of lanes shares a key: 1 to 32 lanes, of whole or broken heads.
    for head_size in [1, 7, 8, 32, 33, 64, 80, 96, 127, 128] {
        check(1, 37, 2, head_size, 20, 0);
    }
    // The first token, one before, at and after what the groups of a block take at a time, the last.
    for position in [0, 1, 7, 8, 31, 32, 33, 63, 64, 256, 299] {
        check(1, 300, 1, 64, position, 0);
    }
}

#[test]
fn sequences_have_caches_of_their_own_and_need_no_alignment() {
    check(3, 19, 3, 40, 11, 0);
    check(2, 19, 3, 64, 18, 1);
    check(2, 5, 1, 5, 4, 3);
}

#[test]
fn a_position_outside_the_cache_is_nan_and_stores_nothing() {
    for position in [-1, 9, i32::MAX] {
        let call = Call::new(2, 9, 2, 16, DType::F32);
        let [out, keys, values] = call.run(position, DType::F32, 0);
        assert!(out.iter().all(|x| x.is_nan()), "{position}");
        assert!(keys == call.keys && values == call.values, "{position}");
    }
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let call = Call::new(1, 4, 1, 129, DType::F32);
    let mut out = Guarded::output(129, DType::F32, 0);
    let [mut keys, mut values] = [&call.keys, &call.values].map(|x| Guarded::input(x, DType::F32, 0));
    let (qkv, position) = (Guarded::input(&call.qkv, DType::F32, 0), Guarded::input(&[0.0], DType::I32, 0));
    let (out, keys, values) = (out.slice_mut(), keys.slice_mut(), values.slice_mut());
    let error = call.sizes.forward(gpu(), out, keys, values, qkv.slice(), position.slice()).unwrap_err();
    assert_eq!(error.to_string(), "cached_attention: head size is 129, the GPU's kernels take at most 128");
}
