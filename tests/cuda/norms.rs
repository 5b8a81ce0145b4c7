//! layernorm, rmsnorm and softmax: both variants of each kernel against f64, at sizes the cards are too small for.

use handloom_engine::check::close::{Tolerance, assert_close};
use handloom_engine::dtype::DType;
use handloom_kernels::{layernorm, rmsnorm, softmax};

use crate::guarded::{FLOATS, Guarded, gpu, normal, reader};

const EPS: f64 = 1e-5;

/// Rows and columns: one, primes, a warp and its neighbours, blocks of several rows and one past them, rows that take one warp, several and
/// all 32, and the first past what registers hold (backward 8192 columns; forward 16384 f32, 32768 halves).
const SHAPES: [(usize, usize); 15] = [
    (1, 1),
    (2, 31),
    (5, 32),
    (7, 33),
    (3, 136),
    (1, 248),
    (9, 256),
    (33, 8),
    (600, 16),
    (17, 264),
    (3, 1032),
    (2, 4096),
    (1, 8192),
    (2, 8200),
    (1, 32776),
];

/// Every shape aligned; small ones also starting at an odd element, where no vector fits.
fn cases() -> impl Iterator<Item = (usize, usize, usize)> {
    let small = SHAPES.into_iter().filter(|(rows, cols)| rows * cols < 5000).map(|(n, c)| (n, c, 1));
    SHAPES.into_iter().map(|(n, c)| (n, c, 0)).chain(small)
}

fn tolerance(dtype: DType, condition: f64, terms: usize) -> Tolerance {
    let relative = DType::F32.epsilon() * condition * (8.0 + 4.0 * (terms as f64).sqrt())
        + if dtype == DType::F32 { 0.0 } else { 0.55 * dtype.epsilon() };
    Tolerance { absolute: relative, relative }
}

/// Mean (0 unless centred) and rstd of a row.
fn stats(row: &[f64], centred: bool) -> (f64, f64) {
    let count = row.len() as f64;
    let mean = if centred { row.iter().sum::<f64>() / count } else { 0.0 };
    let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    (mean, 1.0 / (var + EPS).sqrt())
}

struct Reference {
    out: Vec<f64>,
    dinp: Vec<f64>,
    dweight: Vec<f64>,
    dbias: Vec<f64>,
}

/// y = x^ w + b; dx = rstd (g - mean(g) - x^ mean(g x^)), g = dy w; without mean and b when not centred.
fn reference(x: &[f64], w: &[f64], b: &[f64], dy: &[f64], centred: bool) -> Reference {
    let cols = w.len();
    let mut r = Reference { out: vec![], dinp: vec![], dweight: vec![0.0; cols], dbias: vec![0.0; cols] };
    for (x, dy) in x.chunks(cols).zip(dy.chunks(cols)) {
        let (mean, rstd) = stats(x, centred);
        let normal: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = dy.iter().zip(w).map(|(d, w)| d * w).collect();
        let mean_g = if centred { g.iter().sum::<f64>() / cols as f64 } else { 0.0 };
        let mean_gx = g.iter().zip(&normal).map(|(g, x)| g * x).sum::<f64>() / cols as f64;
        for c in 0..cols {
            r.out.push(normal[c] * w[c] + if centred { b[c] } else { 0.0 });
            r.dinp.push(rstd * (g[c] - mean_g - normal[c] * mean_gx));
            r.dweight[c] += dy[c] * normal[c];
            r.dbias[c] += dy[c];
        }
    }
    r
}

/// One case of either norm, with or without a residual, overwriting or adding.
fn norm(dtype: DType, (rows, cols, shift): (usize, usize, usize), centred: bool, residual: bool, mean: f64) {
    let mut draw = reader((rows * 131 + cols) as u64);
    let count = rows * cols;
    let x = normal(count, mean, dtype, &mut draw);
    let branch = normal(count, 0.0, dtype, &mut draw);
    let [w, b] = [0, 1].map(|_| normal(cols, 0.0, dtype, &mut draw));
    let dy = normal(count, 0.0, dtype, &mut draw);
    let before = normal(count, 0.0, dtype, &mut draw);
    let parameter_before = normal(cols, 0.0, DType::F32, &mut draw);
    let what = format!("{dtype} ({rows}, {cols}) shift {shift} centred {centred} residual {residual}");

    let device = |values: &[f64]| Guarded::input(values, dtype, shift);
    let (x_d, branch_d, w_d, b_d, dy_d) = (device(&x), device(&branch), device(&w), device(&b), device(&dy));
    let mut out = Guarded::output(count, dtype, shift);
    let mut h = Guarded::output(count, dtype, shift);
    let mut mean_d = Guarded::output(rows, DType::F32, 0);
    let mut rstd_d = Guarded::output(rows, DType::F32, 0);
    let with = residual.then(|| layernorm::Residual { h: h.slice_mut(), branch: branch_d.slice() });
    let (y, r, eps) = (out.slice_mut(), rstd_d.slice_mut(), EPS as f32);
    if centred {
        let (x, w, b) = (x_d.slice(), w_d.slice(), b_d.slice());
        layernorm::forward(gpu(), y, mean_d.slice_mut(), r, x, with, w, b, rows, cols, eps).unwrap();
    } else {
        rmsnorm::forward(gpu(), y, r, x_d.slice(), with, w_d.slice(), rows, cols, eps).unwrap();
    }
    let input = if residual {
        let h = h.read(&what);
        let sum: Vec<f64> = x.iter().zip(&branch).map(|(a, b)| a + b).collect();
        let once = if dtype == DType::F32 { 0.6 } else { 0.51 } * dtype.epsilon();
        assert_close(&what, &[rows, cols], &h, &sum, Tolerance { absolute: once, relative: once });
        h
    } else {
        x.clone()
    };
    let want = reference(&input, &w, &b, &dy, centred);
    let condition = if centred { 1.0 + mean.abs() / 2.0 } else { 1.0 };
    assert_close(&what, &[rows, cols], &out.read(&what), &want.out, tolerance(dtype, condition, cols));

    let input_d = if residual { h.slice() } else { x_d.slice() };
    let mut dinp = if residual { device(&before) } else { Guarded::output(count, dtype, shift) };
    let parameter = || {
        if residual {
            Guarded::input(&parameter_before, DType::F32, 0)
        } else {
            Guarded::output(cols, DType::F32, 0)
        }
    };
    let (mut dweight, mut dbias) = (parameter(), parameter());
    let (dx, dw, db) =
        (dinp.slice_mut(), Some((dweight.slice_mut(), residual)), Some((dbias.slice_mut(), residual)));
    let (dy_s, w_s, r) = (dy_d.slice(), w_d.slice(), rstd_d.slice());
    if centred {
        layernorm::backward(gpu(), dx, dw, db, dy_s, input_d, w_s, mean_d.slice(), r, rows, cols, residual)
            .unwrap();
    } else {
        rmsnorm::backward(gpu(), dx, dw, dy_s, input_d, w_s, r, rows, cols, residual).unwrap();
    }
    let add = |grads: &[f64], before: &[f64]| -> Vec<f64> {
        grads.iter().zip(before).map(|(a, b)| if residual { a + b } else { *a }).collect()
    };
    let tolerance_x = tolerance(dtype, condition, cols);
    let scale = want.dinp.iter().fold(1.0f64, |most, x| most.max(x.abs()));
    let tolerance_x = Tolerance { absolute: tolerance_x.absolute * scale, ..tolerance_x };
    assert_close(
        &format!("dinp {what}"),
        &[rows, cols],
        &dinp.read(&what),
        &add(&want.dinp, &before),
        tolerance_x,
    );
    let tolerance_p = tolerance(DType::F32, condition, rows);
    let tolerance_p = Tolerance { absolute: tolerance_p.absolute * (rows as f64).sqrt(), ..tolerance_p };
    let dweight = dweight.read(&what);
    assert_close(
        &format!("dweight {what}"),
        &[cols],
        &dweight,
        &add(&want.dweight, &parameter_before),
        tolerance_p,
    );
    if centred {
        let dbias = dbias.read(&what);
        assert_close(
            &format!("dbias {what}"),
            &[cols],
            &dbias,
            &add(&want.dbias, &parameter_before),
            tolerance_p,
        );
    }
}

#[test]
fn norms_of_every_shape() {
    for dtype in FLOATS {
        for case in cases() {
            // A single column's square root of eps is all that is left of its gradient: the cards test that.
            let centred = [true, false];
            for centred in centred.into_iter().filter(|centred| *centred || case.1 > 1) {
                norm(dtype, case, centred, false, 0.0);
                norm(dtype, case, centred, true, 0.0);
            }
        }
    }
}

#[test]
fn means_far_above_the_deviation() {
    for dtype in FLOATS {
        // 256 and 8 significant bits: bf16 keeps steps of 2.
        let mean = if dtype == DType::BF16 { 50.0 } else { 500.0 };
        norm(dtype, (5, 256, 0), true, false, mean);
        norm(dtype, (5, 67, 0), true, false, mean);
    }
}

#[test]
fn softmax_of_every_shape() {
    const SCALE: f64 = 0.5;
    for dtype in FLOATS {
        for (rows, cols, shift) in cases() {
            let what = format!("{dtype} ({rows}, {cols}) shift {shift}");
            let mut draw = reader((rows * 131 + cols) as u64);
            let mut x = normal(rows * cols, 0.0, dtype, &mut draw);
            x.iter_mut().skip(2).step_by(7).for_each(|x| *x = f64::NEG_INFINITY);
            let dy = normal(rows * cols, 0.0, dtype, &mut draw);
            let before = normal(rows * cols, 0.0, dtype, &mut draw);
            let x_d = Guarded::input(&x, dtype, shift);
            let mut out = Guarded::output(rows * cols, dtype, shift);
            softmax::forward(
                gpu(),
                out.slice_mut(),
                x_d.slice(),
                softmax::Mask::None,
                rows,
                cols,
                SCALE as f32,
            )
            .unwrap();
            let got = out.read(&what);
            let want: Vec<f64> = x
                .chunks(cols)
                .flat_map(|row| {
                    let e: Vec<f64> = row.iter().map(|x| (SCALE * x).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    e.into_iter().map(move |e| if sum == 0.0 { 0.0 } else { e / sum }).collect::<Vec<_>>()
                })
                .collect();
            let relative = tolerance(dtype, 1.0, cols).relative;
            let smallest = handloom_engine::check::oracle::smallest(dtype);
            assert_close(&what, &[rows, cols], &got, &want, Tolerance { absolute: smallest, relative });

            let dy_d = Guarded::input(&dy, dtype, shift);
            for accumulate in [false, true] {
                let mut dinp = Guarded::input(&before, dtype, shift);
                let (dx, out) = (dinp.slice_mut(), out.slice());
                softmax::backward(gpu(), dx, dy_d.slice(), out, rows, cols, SCALE as f32, accumulate)
                    .unwrap();
                // From the rounded output, which backward works from.
                let want: Vec<f64> = (0..rows * cols)
                    .map(|i| {
                        let row = i / cols * cols..i / cols * cols + cols;
                        let dot: f64 = row.map(|j| dy[j] * got[j]).sum();
                        SCALE * got[i] * (dy[i] - dot) + if accumulate { before[i] } else { 0.0 }
                    })
                    .collect();
                let scale =
                    if accumulate { 1.0 } else { want.iter().fold(0.0f64, |most, x| most.max(x.abs())) };
                let absolute = relative * scale + smallest;
                assert_close(
                    &what,
                    &[rows, cols],
                    &dinp.read(&what),
                    &want,
                    Tolerance { absolute, relative },
                );
            }
        }
    }
}

#[test]
fn a_row_of_minus_infinity_gives_zeros() {
    for (cols, shift) in [(8, 0), (7, 1)] {
        let x = Guarded::input(&vec![f64::NEG_INFINITY; cols], DType::F32, shift);
        let mut out = Guarded::output(cols, DType::F32, shift);
        softmax::forward(gpu(), out.slice_mut(), x.slice(), softmax::Mask::None, 1, cols, 1.0).unwrap();
        assert_eq!(out.read("softmax"), vec![0.0; cols]);
    }
}

#[test]
fn a_launcher_names_what_does_not_fit() {
    let x = Guarded::input(&[1.0; 6], DType::F32, 0);
    let short = Guarded::input(&[1.0; 2], DType::F32, 0);
    let half = Guarded::input(&[1.0; 3], DType::BF16, 0);
    let forward = |weight: &Guarded| {
        let mut out = Guarded::output(6, DType::F32, 0);
        let (mut mean, mut rstd) = (Guarded::output(2, DType::F32, 0), Guarded::output(2, DType::F32, 0));
        let (y, m, r) = (out.slice_mut(), mean.slice_mut(), rstd.slice_mut());
        let (x, w, b) = (x.slice(), weight.slice(), weight.slice());
        layernorm::forward(gpu(), y, m, r, x, None, w, b, 2, 3, 1e-5).unwrap_err().to_string()
    };
    assert_eq!(forward(&short), "layernorm_forward: weight holds 2 elements, expected 3");
    assert_eq!(forward(&half), "layernorm_forward: weight is bf16, expected f32");
}
