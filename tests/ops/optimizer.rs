//! AdamW, global norm and clip factor against f64 loops.

use handloom_engine::dtype::DType;
use handloom_engine::ops::adamw::{Parameter, Step, adamw};
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::norm::{clip_factor, global_norm};
use handloom_engine::philox::Stream;
use handloom_engine::tensor::Tensor;
use handloom_tests::close::{Tolerance, assert_close};
use handloom_tests::oracle::{normal, round, values};

const STREAM: Stream = Stream { seed: 5, stream: 0, step: 0 };

fn step(step: u64) -> Step {
    Step { lr: 0.01, betas: (0.9, 0.95), eps: 1e-8, step, grad_scale: 0.25 }
}

/// Algorithm 2 of the paper, in f64.
fn reference(p: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64], weight_decay: f64, s: Step) {
    let ((b1, b2), t) = (s.betas, s.step as i32);
    for i in 0..p.len() {
        let g = g[i] * s.grad_scale as f64;
        m[i] = b1 * m[i] + (1.0 - b1) * g;
        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
        let (m_hat, v_hat) = (m[i] / (1.0 - b1.powi(t)), v[i] / (1.0 - b2.powi(t)));
        p[i] -= s.lr * (m_hat / (v_hat.sqrt() + s.eps) + weight_decay * p[i]);
    }
}

/// Several steps on parameters of these sizes and decays, in `dtype` with a master where that is not f32.
fn train(dtype: DType) {
    let mut reader = STREAM.reader();
    // Empty, one, odd, past a task of 65536.
    for (size, weight_decay) in [(0, 0.1), (1, 0.0), (17, 0.1), (65_537, 0.3)] {
        let mut master = normal(&[size], &mut reader);
        let mut value = cast(&master, dtype).unwrap();
        let zeros = || Tensor::zeros(&[size], DType::F32, master.device()).unwrap();
        let (mut m, mut v) = (zeros(), zeros());
        let (mut p64, mut m64, mut v64) = (values(&master), vec![0.0; size], vec![0.0; size]);
        for t in 1..=5 {
            let grad = normal(&[size], &mut reader);
            reference(&mut p64, &mut m64, &mut v64, &values(&grad), weight_decay, step(t));
            let half = dtype != DType::F32;
            let mut parameter = Parameter {
                value: &mut value,
                master: half.then_some(&mut master),
                grad: &grad,
                m: &mut m,
                v: &mut v,
                weight_decay: weight_decay as f32,
            };
            adamw(std::slice::from_mut(&mut parameter), step(t)).unwrap();
        }
        let tolerance = Tolerance { absolute: 5e-7, relative: 2e-6 };
        let exact = if dtype == DType::F32 { &value } else { &master };
        assert_close("p", &[size], &values(exact), &p64, tolerance);
        assert_close("m", &[size], &values(&m), &m64, tolerance);
        assert_close("v", &[size], &values(&v), &v64, tolerance);
        let narrowed: Vec<f64> = values(exact).iter().map(|x| round(*x, dtype)).collect();
        assert_eq!(values(&value), narrowed, "the value is its master rounded");
    }
}

#[test]
fn adamw_follows_the_paper() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        train(dtype);
    }
}

#[test]
fn the_first_step_is_lr_times_the_sign() {
    // m^ = g and v^ = g^2 at step 1, whatever the betas: p = p (1 - lr wd) - lr sign(g).
    let mut value = Tensor::from_slice(&[1.0f32, -2.0, 3.0], &[3]).unwrap();
    let grad = Tensor::from_slice(&[1e-3f32, -7.0, 1e4], &[3]).unwrap();
    let (mut m, mut v) = (
        Tensor::zeros(&[3], DType::F32, grad.device()).unwrap(),
        Tensor::zeros(&[3], DType::F32, grad.device()).unwrap(),
    );
    let mut p =
        Parameter { value: &mut value, master: None, grad: &grad, m: &mut m, v: &mut v, weight_decay: 0.5 };
    adamw(std::slice::from_mut(&mut p), step(1)).unwrap();
    let want = [0.995 - 0.01, -1.99 + 0.01, 2.985 - 0.01];
    assert_close("p", &[3], &values(&value), &want, Tolerance { absolute: 1e-6, relative: 1e-5 });
}

#[test]
fn misuse_is_reported() {
    let grad = Tensor::zeros(&[3], DType::F32, handloom_engine::device::Device::Cpu).unwrap();
    let short = Tensor::zeros(&[2], DType::F32, grad.device()).unwrap();
    let half = Tensor::zeros(&[3], DType::BF16, grad.device()).unwrap();
    let call = |value: &Tensor, master: Option<&Tensor>, grad: &Tensor, m: &Tensor, s: Step| {
        let (mut value, mut master, mut m) = (value.clone(), master.cloned(), m.clone());
        let mut v = Tensor::zeros(&[3], DType::F32, m.device()).unwrap();
        let mut p = Parameter {
            value: &mut value,
            master: master.as_mut(),
            grad,
            m: &mut m,
            v: &mut v,
            weight_decay: 0.0,
        };
        adamw(std::slice::from_mut(&mut p), s).unwrap_err().to_string()
    };
    assert_eq!(
        call(&grad, None, &short, &grad, step(1)),
        "adamw: value [3] and grad [2] must have one shape"
    );
    assert_eq!(call(&grad, None, &grad, &short, step(1)), "adamw: value [3] and m [2] must have one shape");
    assert_eq!(
        call(&half, Some(&short), &grad, &grad, step(1)),
        "adamw: value [3] and master [2] must have one shape"
    );
    assert_eq!(call(&half, None, &grad, &grad, step(1)), "adamw: a bf16 parameter needs an f32 master");
    assert_eq!(call(&grad, None, &half, &grad, step(1)), "slice: tensor has dtype bf16, expected f32");
    assert_eq!(
        call(&grad, None, &grad, &grad, step(0)),
        "adamw: step is 0, but steps count from 1: bias correction would divide by 0"
    );
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()]).unwrap()
}

#[test]
fn the_global_norm_is_that_of_all_gradients() {
    let mut reader = STREAM.reader();
    let grads: Vec<Tensor> = [0, 1, 17, 4097, 70_001].map(|n| normal(&[n], &mut reader)).into();
    let want = grads.iter().flat_map(values).map(|x| x * x).sum::<f64>().sqrt();
    let got = global_norm(&grads).unwrap();
    assert!((got / want - 1.0).abs() < 1e-6, "{got} != {want}");
    assert_eq!(global_norm([]).unwrap(), 0.0);
    assert_eq!(global_norm([&tensor(&[3.0, 4.0])]).unwrap(), 5.0);
    let half = Tensor::zeros(&[3], DType::BF16, got_device()).unwrap();
    assert_eq!(global_norm([&half]).unwrap_err().to_string(), "slice: tensor has dtype bf16, expected f32");
}

fn got_device() -> handloom_engine::device::Device {
    handloom_engine::device::Device::Cpu
}

#[test]
fn norms_beyond_the_squares_of_f32_are_exact() {
    // 4 * (1e30)^2 overflows f32, 4 * (1e-30)^2 underflows it.
    for magnitude in [1e30f32, 1e-30, f32::MAX, f32::MIN_POSITIVE] {
        let got = global_norm([&tensor(&[magnitude, -magnitude, magnitude, magnitude])]).unwrap();
        assert!((got / (2.0 * magnitude as f64) - 1.0).abs() < 1e-6, "{got} for four times {magnitude}");
    }
    // A norm f32 itself cannot hold.
    let got = global_norm([&tensor(&[f32::MAX; 100])]).unwrap();
    assert!((got / (10.0 * f32::MAX as f64) - 1.0).abs() < 1e-6);
}

#[test]
fn one_bad_element_makes_the_norm_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 5000, 9999] {
            let mut x = vec![1.0f32; 10_000];
            x[at] = bad;
            let norm = global_norm([&tensor(&[1.0]), &tensor(&x)]).unwrap();
            assert!(!norm.is_finite(), "{bad} at {at} gave {norm}");
        }
    }
}

#[test]
fn clip_factors() {
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert_eq!(clip_factor(0.0, 1.0), 1.0);
    assert_eq!(clip_factor(100.0, 0.0), 1.0, "0 turns clipping off");
    assert_eq!(clip_factor(4.0, 1.0), 1.0 / 4.000001);
    assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
    assert!(clip_factor(f64::NAN, 1.0).is_nan(), "a NaN norm must not pass for a small one");
}
