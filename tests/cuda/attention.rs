//! Attention's launchers beyond the cards: head sizes, tiles and their edges, masks of whole tiles, bias with its gradient, dropout,
//! strides, accumulation. Errors are at most twice those of the same computation done plainly in the same dtype.

use handloom_engine::check::plain::{self, Rounding};
use handloom_engine::dtype::DType;
use handloom_engine::philox::Stream;
use handloom_kernels::attention::{Attention, Gradients, Heads, HeadsMut, Saved};
use handloom_kernels::dropout::Draws;

use crate::guarded::{FLOATS, Guarded, gpu, normal, reader};

const SEED: u64 = 0x1234_5678_9abc;
const STREAM: u32 = 3;
/// What gradients hold before they are added to.
const BEFORE: f64 = 0.5;

/// How the arrays lie.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// One after the other, at multiples of 16 bytes.
    Apart,
    /// As `Apart`, one element further: nothing can be copied 16 bytes at a time.
    Shifted,
    /// q, k and v side by side in one array, and their gradients too.
    Packed,
}

#[derive(Clone, Copy)]
struct Case {
    sizes: [usize; 5],
    causal: bool,
    /// Hides a third of the keys, and all of the first 64 where there are more.
    masked: bool,
    biased: bool,
    drop_prob: Option<f32>,
    scale: f32,
    place: Place,
    accumulate: bool,
}

/// B, Tq, Tk, NH, HS, everything else off.
fn case(sizes: [usize; 5]) -> Case {
    Case {
        sizes,
        causal: false,
        masked: false,
        biased: false,
        drop_prob: None,
        scale: 1.0 / (sizes[4] as f32).sqrt(),
        place: Place::Apart,
        accumulate: false,
    }
}

struct Inputs {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
    mask: Vec<f64>,
    bias: Vec<f64>,
}

/// out, dq, dk, dv, dbias, and lse.
type Results = [Vec<f64>; 6];
const NAMES: [&str; 6] = ["out", "dq", "dk", "dv", "dbias", "lse"];

impl Case {
    fn inputs(&self, dtype: DType) -> Inputs {
        let [b, tq, tk, nh, hs] = self.sizes;
        let mut draw = reader(17);
        let mut array = |len| normal(len, 0.0, dtype, &mut draw);
        let (q, k, v) = (array(b * tq * nh * hs), array(b * tk * nh * hs), array(b * tk * nh * hs));
        let dout = array(b * tq * nh * hs);
        let bias = normal(nh * tq * tk, 0.0, DType::F32, &mut draw);
        let hidden = |at: usize| (tk > 64 && at % tk < 64) as u32;
        let mask = (0..b * tk).map(|at| (draw.below(3) > 0 && hidden(at) == 0) as u8 as f64).collect();
        Inputs { q, k, v, dout, mask, bias }
    }

    fn factor(&self, row: usize, key: usize) -> f64 {
        let Some(drop_prob) = self.drop_prob else { return 1.0 };
        let word = (row * self.sizes[2].div_ceil(4) + key / 4) as u64;
        let draw = Stream { seed: SEED, stream: STREAM, step: 5 }.words(word)[key % 4] >> 8;
        if draw < (drop_prob * 16_777_216.0) as u32 { 0.0 } else { 1.0 / (1.0 - drop_prob as f64) }
    }

    /// From the formulas. A program without fusion stores scores, weights, dropped weights, their gradients, those of the scores and of
    /// the bias.
    /// Beside the results, how much the rounding of weights' exponents to f32 may move the gradients, which the plain way does not have:
    /// a power of e has the relative error that its exponent has as an absolute one.
    fn compute(&self, x: &Inputs, rounding: Rounding) -> (Results, [f64; 6]) {
        let Rounding { arithmetic, .. } = rounding;
        let storage = |x| rounding.stored(x);
        let [batch, tq, tk, nh, hs] = self.sizes;
        let scale = self.scale as f64;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |sum, (a, b)| arithmetic(sum + a * b));
        let [mut out, mut dq] = [(); 2].map(|()| vec![0.0; x.q.len()]);
        let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; x.k.len()]);
        let (mut dbias, mut lse) = (vec![0.0; x.bias.len()], vec![0.0; batch * nh * tq]);
        let mut terms = [x.q.len(), x.k.len(), x.v.len(), x.bias.len()].map(|len| vec![0.0; len]);
        let add = |to: &mut [f64], by: f64, row: &[f64]| {
            to.iter_mut().zip(row).for_each(|(to, row)| *to = arithmetic(*to + by * row));
        };
        for (b, h) in (0..batch).flat_map(|b| (0..nh).map(move |h| (b, h))) {
            let at = |t: usize, length: usize| ((b * length + t) * nh + h) * hs;
            for i in 0..tq {
                let row = (b * nh + h) * tq + i;
                let (qi, di) = (&x.q[at(i, tq)..][..hs], &x.dout[at(i, tq)..][..hs]);
                let seen: Vec<usize> = (0..tk)
                    .filter(|j| !(self.causal && j + tq > tk + i))
                    .filter(|j| !self.masked || x.mask[b * tk + j] != 0.0)
                    .collect();
                let score = |j: usize| {
                    let bias = if self.biased { x.bias[(h * tq + i) * tk + j] } else { 0.0 };
                    storage(arithmetic(scale * dot(qi, &x.k[at(j, tk)..][..hs]) + bias))
                };
                let scores: Vec<f64> = seen.iter().map(|j| score(*j)).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let exponent = scores.iter().fold(1.0, |e: f64, s| e.max(1.0 + s.abs()));
                let powers: Vec<f64> = scores.iter().map(|s| arithmetic((s - max).exp())).collect();
                let sum = powers.iter().fold(0.0, |sum, p| arithmetic(sum + p));
                lse[row] = if seen.is_empty() { f64::NEG_INFINITY } else { arithmetic(max + sum.ln()) };
                let weights: Vec<f64> = powers.iter().map(|p| storage(arithmetic(p / sum))).collect();
                let mut delta = 0.0;
                let mut dweights = Vec::new();
                for (&j, w) in seen.iter().zip(&weights) {
                    let factor = self.factor(row, j);
                    let dw = storage(factor * dot(di, &x.v[at(j, tk)..][..hs]));
                    add(&mut out[at(i, tq)..][..hs], storage(w * factor), &x.v[at(j, tk)..][..hs]);
                    add(&mut dv[at(j, tk)..][..hs], storage(w * factor), di);
                    delta = arithmetic(delta + w * dw);
                    dweights.push(dw);
                }
                for ((&j, w), dw) in seen.iter().zip(&weights).zip(dweights) {
                    let of_exponent = DType::F32.epsilon() * exponent * w;
                    let size = of_exponent * (dw.abs() + delta.abs());
                    for d in 0..hs {
                        terms[0][at(i, tq) + d] += scale.abs() * size * x.k[at(j, tk) + d].abs();
                        terms[1][at(j, tk) + d] += scale.abs() * size * qi[d].abs();
                        terms[2][at(j, tk) + d] += of_exponent * self.factor(row, j) * di[d].abs();
                    }
                    terms[3][(h * tq + i) * tk + j] += size;
                    let ds = arithmetic(w * (dw - delta));
                    dbias[(h * tq + i) * tk + j] = arithmetic(dbias[(h * tq + i) * tk + j] + storage(ds));
                    let ds = storage(scale * ds);
                    add(&mut dq[at(i, tq)..][..hs], ds, &x.k[at(j, tk)..][..hs]);
                    add(&mut dk[at(j, tk)..][..hs], ds, qi);
                }
            }
        }
        let before = if self.accumulate { BEFORE } else { 0.0 };
        let stored = |x: Vec<f64>| x.into_iter().map(|x| storage(x + before)).collect();
        dbias.iter_mut().for_each(|x| *x = storage(*x + before));
        let out = out.into_iter().map(storage).collect();
        let [of_dq, of_dk, of_dv, of_dbias] = terms.map(|terms| terms.into_iter().fold(0.0, f64::max));
        ([out, stored(dq), stored(dk), stored(dv), dbias, lse], [0.0, of_dq, of_dk, of_dv, of_dbias, 0.0])
    }

    /// q, k, v or their gradients side by side (B, T, 3 C).
    fn pack(&self, parts: [&[f64]; 3]) -> Vec<f64> {
        let cols = self.sizes[3] * self.sizes[4];
        let rows = parts.map(|part| part.chunks(cols.max(1)));
        let [q, k, v] = rows;
        q.zip(k).zip(v).flat_map(|((q, k), v)| [q, k, v].concat()).collect()
    }

    fn unpack(&self, packed: &[f64], part: usize) -> Vec<f64> {
        let cols = self.sizes[3] * self.sizes[4];
        packed.chunks(3 * cols).flat_map(|row| row[part * cols..][..cols].to_vec()).collect()
    }

    fn run(&self, x: &Inputs, dtype: DType) -> Results {
        let [batch, queries, keys, heads, head_size] = self.sizes;
        let cols = heads * head_size;
        let shift = (self.place == Place::Shifted) as usize;
        let packed = self.place == Place::Packed;
        let arrays = if packed {
            vec![Guarded::input(&self.pack([&x.q, &x.k, &x.v]), dtype, 0)]
        } else {
            [&x.q, &x.k, &x.v].iter().map(|x| Guarded::input(x, dtype, shift)).collect()
        };
        let view = |part: usize, rows: usize| match self.place {
            Place::Packed => Heads {
                data: arrays[0].slice().offset(part * cols),
                batch_stride: 3 * rows * cols,
                row_stride: 3 * cols,
            },
            _ => Heads { data: arrays[part].slice(), batch_stride: rows * cols, row_stride: cols },
        };
        let (q, k, v) = (view(0, queries), view(1, keys), view(2, keys));
        let mask = Guarded::input(&x.mask, DType::I32, shift);
        let bias = Guarded::input(&x.bias, DType::F32, shift);
        let step = Guarded::input(&[2.0], DType::I32, 0);
        // 3 from the launch and 2 from the device's memory.
        let draws = Draws { seed: SEED, stream: STREAM, step: 3, device_step: Some(step.slice()) };
        let attention = Attention {
            batch,
            heads,
            queries,
            keys,
            head_size,
            causal: self.causal,
            scale: self.scale,
            dropout: self.drop_prob.map(|drop_prob| (drop_prob, draws)),
            key_mask: self.masked.then(|| mask.slice()),
            bias: self.biased.then(|| bias.slice()),
        };
        let mut out = Guarded::output(x.q.len(), dtype, shift);
        let mut lse = Guarded::output(batch * heads * queries, DType::F32, 0);
        attention.forward(gpu(), out.slice_mut(), lse.slice_mut(), q, k, v).expect("forward");
        let dout = Guarded::input(&x.dout, dtype, shift);
        let saved = Saved { out: out.slice(), lse: lse.slice(), dout: dout.slice() };
        let gradient = |len: usize, dtype: DType| {
            if self.accumulate {
                Guarded::input(&vec![BEFORE; len], dtype, shift)
            } else {
                Guarded::output(len, dtype, shift)
            }
        };
        let mut dbias = gradient(x.bias.len(), DType::F32);
        let dbias_to = self.biased.then(|| (dbias.slice_mut(), self.accumulate));
        let grads: Vec<Vec<f64>> = if packed {
            let mut dqkv = gradient(3 * x.q.len(), dtype);
            let to = Gradients::Packed(dqkv.slice_mut());
            attention.backward(gpu(), to, dbias_to, saved, q, k, v, self.accumulate).expect("backward");
            let dqkv = dqkv.read("dqkv");
            (0..3).map(|part| self.unpack(&dqkv, part)).collect()
        } else {
            let [mut dq, mut dk, mut dv] = [x.q.len(), x.k.len(), x.v.len()].map(|len| gradient(len, dtype));
            let to = |data, rows: usize| HeadsMut { data, batch_stride: rows * cols, row_stride: cols };
            let to = Gradients::Apart {
                dq: to(dq.slice_mut(), queries),
                dk: to(dk.slice_mut(), keys),
                dv: to(dv.slice_mut(), keys),
            };
            attention.backward(gpu(), to, dbias_to, saved, q, k, v, self.accumulate).expect("backward");
            vec![dq.read("dq"), dk.read("dk"), dv.read("dv")]
        };
        let [dq, dk, dv] = <[Vec<f64>; 3]>::try_from(grads).expect("three gradients");
        let dbias = if self.biased { dbias.read("dbias") } else { Vec::new() };
        // From base 2.
        let lse = lse.read("lse").into_iter().map(|lse| lse * std::f64::consts::LN_2).collect();
        [out.read("out"), dq, dk, dv, dbias, lse]
    }

    fn check(&self, dtype: DType) {
        let inputs = self.inputs(dtype);
        let (exact, noise) = self.compute(&inputs, Rounding::NONE);
        let (plainly, _) = self.compute(&inputs, Rounding::plain(dtype));
        let got = self.run(&inputs, dtype);
        // A query that sees one key has gradient 0: terms scale dout v k that cancel.
        let largest = |x: &[f64]| x.iter().filter(|x| x.is_finite()).fold(0.0, |a: f64, x| a.max(x.abs()));
        let [dout, v, k] = [&inputs.dout, &inputs.v, &inputs.k].map(|x| largest(x));
        let cancelled = f64::from(self.scale.abs()) * (self.sizes[4] as f64).sqrt() * dout * v * k;
        for (i, (name, got)) in NAMES.iter().zip(&got).enumerate() {
            if *name == "dbias" && !self.biased {
                continue;
            }
            // The plain way's bias, and its gradient, are of the storage dtype.
            let result = if *name == "lse" { DType::F32 } else { dtype };
            let what = format!("{name} of {:?} in {dtype}", self.sizes);
            if dtype == DType::F32 {
                let differs = |(x, e): (&f64, &f64)| if x == e { 0.0 } else { (x - e).abs() };
                let error = |x: &[f64]| x.iter().zip(&exact[i]).map(differs).collect::<Vec<f64>>();
                let bound =
                    2.0 * largest(&error(&plainly[i])) + dtype.epsilon() * largest(&exact[i]) + noise[i];
                for e in error(got) {
                    assert!(e <= bound, "{what}: error {e:e}, at most {bound:e} is due");
                }
                continue;
            }
            plain::judge(&what, got, &exact[i], &plainly[i], result, cancelled)
                .unwrap_or_else(|message| panic!("{message}"));
        }
    }

    fn check_all(&self) {
        FLOATS.into_iter().for_each(|dtype| self.check(dtype));
    }
}

#[test]
fn head_sizes() {
    for head_size in [1, 7, 32, 40, 64, 80, 96, 128] {
        Case { causal: true, ..case([1, 33, 70, 2, head_size]) }.check_all();
    }
}

#[test]
fn tiles_and_their_edges() {
    for (queries, keys) in [(63, 64), (64, 65), (65, 63), (127, 129), (1, 131), (129, 1)] {
        case([1, queries, keys, 1, 16]).check_all();
    }
    for (queries, keys) in [(65, 65), (128, 128), (37, 167)] {
        Case { causal: true, ..case([1, queries, keys, 1, 72]) }.check_all();
    }
}

#[test]
fn masks_that_hide_whole_tiles() {
    let masked = Case { masked: true, ..case([2, 66, 150, 1, 24]) };
    masked.check_all();
    // The first queries see nothing.
    Case { causal: true, ..case([2, 130, 150, 1, 64]) }.check_all();
    Case { causal: true, masked: true, ..case([2, 130, 130, 1, 24]) }.check_all();
}

#[test]
fn bias_and_its_gradient() {
    let biased = Case { biased: true, scale: 1.0, ..case([3, 35, 67, 2, 8]) };
    biased.check_all();
    Case { causal: true, masked: true, accumulate: true, drop_prob: Some(0.2), ..biased }.check_all();
    Case { sizes: [2, 70, 70, 1, 96], scale: 0.1, ..biased }.check_all();
}

#[test]
fn scales_that_are_not_positive() {
    for scale in [-0.5, 0.0] {
        Case { scale, causal: true, ..case([1, 9, 20, 1, 16]) }.check_all();
    }
}

#[test]
fn dropout_draws_what_the_cpu_draws() {
    // A wrong mask moves whole weights: far more than rounding.
    for sizes in [[2, 67, 67, 2, 16], [1, 30, 70, 3, 80], [1, 1, 5, 1, 4]] {
        Case { drop_prob: Some(0.3), causal: true, ..case(sizes) }.check_all();
    }
    // Larger than a half and a probability whose factor no binary fraction equals.
    Case { drop_prob: Some(0.9), masked: true, ..case([1, 20, 130, 1, 8]) }.check_all();
}

#[test]
fn places() {
    for head_size in [5, 16, 64, 72] {
        let base = Case { causal: true, drop_prob: Some(0.1), ..case([2, 67, 67, 2, head_size]) };
        for accumulate in [false, true] {
            Case { place: Place::Shifted, accumulate, ..base }.check_all();
            Case { place: Place::Packed, accumulate, ..base }.check_all();
        }
    }
    Case { accumulate: true, ..case([2, 9, 21, 2, 40]) }.check_all();
}

#[test]
fn what_the_kernels_do_not_take_is_an_error() {
    let fails = |case: Case, message: &str| {
        let x = case.inputs(DType::BF16);
        let [q, k] = [&x.q, &x.k].map(|x| Guarded::input(x, DType::BF16, 0));
        let mut out = Guarded::output(x.q.len(), DType::BF16, 0);
        let [batch, queries, keys, heads, head_size] = case.sizes;
        let mut lse = Guarded::output(batch * heads * queries, DType::F32, 0);
        let cols = heads * head_size;
        let attention = Attention {
            batch,
            heads,
            queries,
            keys,
            head_size,
            causal: case.causal,
            scale: case.scale,
            dropout: case.drop_prob.map(|p| (p, Draws { seed: 0, stream: 0, step: 0, device_step: None })),
            key_mask: None,
            bias: None,
        };
        let heads = |data, rows: usize| Heads { data, batch_stride: rows * cols, row_stride: cols };
        let (q, k) = (heads(q.slice(), queries), heads(k.slice(), keys));
        let error = attention.forward(gpu(), out.slice_mut(), lse.slice_mut(), q, k, k).unwrap_err();
        assert_eq!(error.to_string(), message);
    };
    fails(case([1, 2, 2, 1, 136]), "attention: head size is 136, the GPU's kernels take at most 128");
    fails(case([1, 2, 0, 1, 8]), "attention: there are no keys; the output is 0 and needs no kernel");
    fails(
        Case { causal: true, ..case([1, 3, 2, 1, 8]) },
        "attention: causal needs at least as many keys as queries, got 2 < 3",
    );
    fails(
        Case { drop_prob: Some(1.0), ..case([1, 2, 2, 1, 8]) },
        "attention: drop_prob is 1, expected 0 <= drop_prob < 1",
    );
}
