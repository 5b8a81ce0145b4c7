//! Kernels that move, sort and draw, against the CPU's and plain loops: results that must be the same to the bit.

use handloom_engine::check::close::{Tolerance, assert_close};
use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::ops::{elementwise, view};
use handloom_engine::philox::Stream;
use handloom_engine::tensor::Tensor;
use handloom_kernels::{dropout, embedding, reduce};

use crate::guarded::{FLOATS, Guarded, gpu, normal, reader};

const STREAM: Stream = Stream { seed: 0x0123_4567_89ab_cdef, stream: 77, step: 9 };

#[test]
fn the_generator_draws_what_the_engines_draws() {
    for first in [0, 1, u32::MAX as u64 - 3, 1 << 40] {
        let draws = 301;
        let mut out = Guarded::output(4 * draws, DType::I32, 0);
        let Stream { seed, stream, step } = STREAM;
        let from = dropout::Draws { seed, stream, step, device_step: None };
        dropout::philox_fill(gpu(), out.slice_mut(), first, from).unwrap();
        let want: Vec<f64> =
            (0..draws as u64).flat_map(|i| STREAM.words(first + i)).map(|word| word as i32 as f64).collect();
        assert_eq!(out.read("philox"), want, "draws from {first}");
    }
}

#[test]
fn masks_move_with_the_step_in_device_memory() {
    let count = 1027;
    let ones = vec![1.0; count];
    for (dtype, shift) in FLOATS.into_iter().flat_map(|dtype| [(dtype, 0), (dtype, 1)]) {
        let inp = Guarded::input(&ones, dtype, shift);
        let device_step = Guarded::input(&[5.0], DType::I32, 0);
        let mut out = Guarded::output(count, dtype, shift);
        let Stream { seed, stream, step } = STREAM;
        let draws = dropout::Draws { seed, stream, step, device_step: Some(device_step.slice()) };
        dropout::apply(gpu(), out.slice_mut(), inp.slice(), 0.5, draws, false).unwrap();
        let moved = Stream { step: step + 5, ..STREAM };
        let want: Vec<f64> =
            (0..count).map(|i| if moved.words(i as u64 / 4)[i % 4] >> 31 == 0 { 0.0 } else { 2.0 }).collect();
        assert_eq!(out.read("dropout"), want, "{dtype} shift {shift}");
    }
}

fn draw(shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let count = shape.iter().product();
    let data: Vec<f32> =
        normal(count, 0.0, DType::F32, &mut reader(seed)).iter().map(|x| *x as f32).collect();
    handloom_engine::ops::cast::cast(&Tensor::from_slice(&data, shape).unwrap(), dtype).unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.read_f32().unwrap().into_iter().map(f32::to_bits).collect()
}

/// A view of a tensor.
type Look = fn(&Tensor) -> Tensor;

#[test]
fn views_are_copied_as_on_the_cpu() {
    let device = Device::emulator().unwrap();
    // Tiles of 32 and past them, runs of 16 bytes, heads swapped, windows off any boundary, all six dimensions.
    let views: [(&[usize], Look); 8] = [
        (&[40, 65], |x| view::transpose(x, 0, 1).unwrap()),
        (&[3, 33, 31], |x| view::transpose(x, 1, 2).unwrap()),
        (&[2, 3, 9, 64], |x| view::transpose(x, 2, 3).unwrap()),
        (&[2, 5, 3, 16], |x| view::transpose(x, 1, 2).unwrap()),
        (&[2, 5, 3, 7], |x| view::transpose(x, 0, 3).unwrap()),
        (&[4, 48], |x| view::narrow(x, 1, 8, 24).unwrap()),
        (&[4, 49], |x| view::narrow(x, 1, 3, 24).unwrap()),
        (&[2, 3, 2, 3, 2, 3], |x| view::transpose(&view::transpose(x, 0, 5).unwrap(), 1, 3).unwrap()),
    ];
    for dtype in FLOATS {
        for (i, (shape, look)) in views.iter().enumerate() {
            let x = draw(shape, dtype, i as u64);
            let want = view::contiguous(&look(&x)).unwrap();
            let got = view::contiguous(&look(&x.to_device(device).unwrap())).unwrap();
            assert_eq!(
                (got.shape(), bits(&got)),
                (want.shape(), bits(&want)),
                "view {i} of {shape:?}, {dtype}"
            );
        }
    }
}

#[test]
fn broadcasts_have_the_cpus_bits() {
    let device = Device::emulator().unwrap();
    let pairs: [(&[usize], &[usize]); 7] = [
        (&[3, 5, 64], &[64]),
        (&[64], &[3, 5, 64]),
        (&[3, 5, 64], &[5, 1]),
        (&[4, 16, 8], &[4, 1, 8]),
        (&[4, 16, 7], &[4, 1, 7]),
        (&[1, 16], &[9, 1]),
        (&[2, 1, 3, 1, 2, 8], &[1, 3, 1, 2, 1, 1]),
    ];
    for dtype in FLOATS {
        for (a_shape, b_shape) in pairs {
            let (a, b) = (draw(a_shape, dtype, 1), draw(b_shape, dtype, 2));
            for op in [elementwise::add, elementwise::sub, elementwise::mul] {
                let want = op(&a, &b).unwrap();
                let got = op(&a.to_device(device).unwrap(), &b.to_device(device).unwrap()).unwrap();
                assert_eq!(bits(&got), bits(&want), "{a_shape:?} and {b_shape:?}, {dtype}");
            }
        }
    }
}

#[test]
fn embeddings_are_sorted_and_added_in_order() {
    // Ids, table rows, columns: runs that cross many pieces of 64, several tiles of 2048, one to three passes of 8 bits.
    let shapes =
        [(1, 1, 4), (63, 2, 8), (65, 1, 3), (700, 2, 12), (2049, 300, 4), (5000, 70_000, 4), (4096, 255, 5)];
    for (n, v, c) in shapes {
        let mut draw = reader((n + v) as u64);
        let mut ids: Vec<f64> = (0..n).map(|_| draw.below(v as u32) as f64).collect();
        // Ids outside the table: NaN forward, nothing backward.
        if n > 10 {
            (ids[3], ids[7]) = (-1.0, v as f64);
        }
        let rows = |i: usize| (ids[i] >= 0.0 && ids[i] < v as f64).then_some(ids[i] as usize);
        let ids_d = Guarded::input(&ids, DType::I32, 0);
        for dtype in FLOATS {
            let table = normal(v * c, 0.0, dtype, &mut reader(3));
            let table_d = Guarded::input(&table, dtype, 0);
            let mut out = Guarded::output(n * c, dtype, 0);
            embedding::forward(gpu(), "embedding", out.slice_mut(), ids_d.slice(), table_d.slice(), v, c)
                .unwrap();
            let out = out.read("embedding");
            for i in 0..n {
                match rows(i) {
                    Some(row) => assert_eq!(out[i * c..][..c], table[row * c..][..c], "row {i} of {n}"),
                    None => assert!(out[i * c..][..c].iter().all(|x| x.is_nan()), "row {i}: id {}", ids[i]),
                }
            }
            let dout = normal(n * c, 0.0, dtype, &mut reader(4));
            let dout_d = Guarded::input(&dout, dtype, 0);
            for (grad, accumulate) in [(DType::F32, false), (DType::F32, true), (dtype, true)] {
                let before = normal(v * c, 0.0, grad, &mut reader(5));
                let mut dtable = Guarded::input(&before, grad, 0);
                let (into, dout_s, ids_s) = (dtable.slice_mut(), dout_d.slice(), ids_d.slice());
                embedding::backward(gpu(), into, dout_s, ids_s, v, c, accumulate).unwrap();
                let mut want = if accumulate { before } else { vec![0.0; v * c] };
                for i in 0..n {
                    let Some(row) = rows(i) else { continue };
                    (0..c).for_each(|j| want[row * c + j] += dout[i * c + j]);
                }
                let relative = if grad == DType::F32 { 1e-5 } else { 0.6 * grad.epsilon() };
                let tolerance =
                    Tolerance { absolute: 1e-5 * (n as f64 / v as f64).sqrt().max(1.0), relative };
                let what = format!("{n} ids of {v}, {c} columns, {grad} += {dtype}, accumulate {accumulate}");
                assert_close(&what, &[v, c], &dtable.read(&what), &want, tolerance);
            }
        }
    }
}

#[test]
fn sums_over_many_parts() {
    for dtype in FLOATS {
        // (outer, reduced, inner): several parts of 512 rows, columns past a block, rows past a warp.
        for sizes in [[1, 1030, 5], [2, 513, 33], [3, 7, 70], [5, 300, 1], [1, 1, 3]] {
            let [outer, reduced, inner] = sizes;
            let x = normal(outer * reduced * inner, 0.0, dtype, &mut reader(7));
            let x_d = Guarded::input(&x, dtype, 1);
            let before = normal(outer * inner, 0.0, DType::F32, &mut reader(8));
            for accumulate in [false, true] {
                let mut out = Guarded::input(&before, DType::F32, 0);
                reduce::middle(gpu(), out.slice_mut(), x_d.slice(), sizes, accumulate).unwrap();
                let want: Vec<f64> = (0..outer * inner)
                    .map(|at| {
                        let (a, b) = (at / inner, at % inner);
                        let sum: f64 = (0..reduced).map(|r| x[(a * reduced + r) * inner + b]).sum();
                        sum + if accumulate { before[at] } else { 0.0 }
                    })
                    .collect();
                let tolerance = Tolerance { absolute: 2e-7 * (reduced as f64), relative: 1e-6 };
                assert_close("sums", &[outer, inner], &out.read("sums"), &want, tolerance);
            }
        }
        for count in [1, 16_385, 100_003] {
            let x = normal(count, 0.0, dtype, &mut reader(9));
            for shift in [0, 1] {
                let x_d = Guarded::input(&x, dtype, shift);
                let mut out = Guarded::output(1, DType::F32, 0);
                reduce::sum(gpu(), out.slice_mut(), x_d.slice(), 0.5).unwrap();
                let (got, want) = (out.read("sum")[0], 0.5 * x.iter().sum::<f64>());
                assert!((got - want).abs() < 1e-6 * count as f64, "{got} for {want}, {count} of {dtype}");
            }
        }
    }
}
