//! The optimizer on a GPU against the CPU's AdamW, global norm and loss scaler, step by step.

use handloom_engine::device::Device;
use handloom_engine::dtype::DType;
use handloom_engine::ops::adamw::{Parameter, Step, adamw};
use handloom_engine::ops::cast::cast;
use handloom_engine::ops::norm::{clip_factor, global_norm};
use handloom_engine::optimizer::{Optimizer, Scaling, Settings, State};
use handloom_engine::tensor::Tensor;
use handloom_model::train::loss_scaler::{LossScaler, LossScaling};

use crate::guarded::{gpu, reader};

/// Sizes: one, odd, a chunk of 16384 and its neighbours, several chunks.
const SIZES: [usize; 6] = [1, 17, 16_383, 16_384, 16_385, 40_003];
const CLIP_NORM: f64 = 1.0;

/// A parameter on one device.
struct Owned {
    value: Tensor,
    master: Option<Tensor>,
    m: Tensor,
    v: Tensor,
    weight_decay: f32,
}

impl Owned {
    fn new(original: &Tensor, dtype: DType, weight_decay: f32, device: Device) -> Owned {
        let zeros = || Tensor::zeros(original.shape(), DType::F32, device).unwrap();
        let value = cast(original, dtype).unwrap().to_device(device).unwrap();
        let master = (dtype != DType::F32).then(|| original.to_device(device).unwrap());
        Owned { value, master, m: zeros(), v: zeros(), weight_decay }
    }

    fn with<'a>(&'a mut self, grad: &'a Tensor) -> Parameter<'a> {
        let Owned { value, master, m, v, weight_decay } = self;
        Parameter { value, master: master.as_mut(), grad, m, v, weight_decay: *weight_decay }
    }

    fn bits(&self) -> Vec<u32> {
        let tensors = [Some(&self.value), self.master.as_ref(), Some(&self.m), Some(&self.v)];
        tensors.into_iter().flatten().flat_map(|x| x.read_f32().unwrap()).map(f32::to_bits).collect()
    }
}

/// What the steps' gradients are multiplied by: large enough to clip, small enough not to, one that overflows, one that is NaN.
const STEPS: [f64; 7] = [1.0, 1e-4, f64::INFINITY, 2.0, f64::NAN, 1e-3, 1.0];

fn follows_the_cpu(dtype: DType, scaling: Option<LossScaling>) {
    let device = Device::emulator().unwrap();
    let mut draw = reader(5);
    let mut normal = |count: usize, factor: f32| {
        let data: Vec<f32> = (0..count).map(|_| factor * draw.normal() as f32).collect();
        Tensor::from_slice(&data, &[count]).unwrap()
    };
    let betas = (0.9, 0.95);
    let settings = Settings {
        betas,
        eps: 1e-8,
        clip_norm: CLIP_NORM,
        scaling: scaling.map(|rules| Scaling {
            growth: rules.growth,
            backoff: rules.backoff,
            growth_interval: rules.growth_interval as u32,
            floor: rules.min,
            ceiling: rules.max,
        }),
    };
    // The last rate stays past the end.
    let rates: Vec<f64> = (0..4).map(|i| 0.01 / (i + 1) as f64).collect();
    let mut scaler = scaling.map(|rules| rules.start());
    let start = scaler.map_or(1.0, |scaler| scaler.scale as f32);
    let mut optimizer = Optimizer::new(device, settings, &rates, start, State::default()).unwrap();
    let originals: Vec<Tensor> = SIZES.iter().map(|size| normal(*size, 0.1)).collect();
    let own = |device| -> Vec<Owned> {
        let decays = [0.1, 0.0].into_iter().cycle();
        originals.iter().zip(decays).map(|(x, decay)| Owned::new(x, dtype, decay, device)).collect()
    };
    let (mut host, mut there) = (own(Device::Cpu), own(device));
    let (mut updates, mut skipped) = (0, 0);
    let mut on_device: Vec<Tensor> =
        SIZES.iter().map(|size| Tensor::zeros(&[*size], DType::F32, device).unwrap()).collect();
    for (step, factor) in STEPS.into_iter().enumerate() {
        let scale = scaler.map_or(1.0, |scaler: LossScaler| scaler.scale);
        let mut grads: Vec<Tensor> = SIZES.iter().map(|size| normal(*size, (0.01 * scale) as f32)).collect();
        for grad in &mut grads {
            grad.slice_mut::<f32>()
                .unwrap()
                .iter_mut()
                .for_each(|x| *x *= if factor.is_finite() { factor as f32 } else { 1.0 });
        }
        if !factor.is_finite() {
            *grads[4].slice_mut::<f32>().unwrap().last_mut().unwrap() = factor as f32;
        }
        let norm = global_norm(&grads).unwrap() / scale;
        // Into the same device memory each step, as a trainer's gradients are.
        for (to, from) in on_device.iter_mut().zip(&grads) {
            gpu().upload(to.cuda_slice_mut().unwrap(), from.bytes().unwrap()).unwrap();
        }
        let before: Vec<Vec<u32>> = there.iter().map(Owned::bits).collect();
        let mut parameters: Vec<Parameter> =
            there.iter_mut().zip(&on_device).map(|(p, g)| p.with(g)).collect();
        optimizer.step(&mut parameters).unwrap();
        drop(parameters);
        let progress = optimizer.progress().unwrap();
        let state = progress.state;

        let finite = norm.is_finite();
        scaler = scaler.map(|scaler| scaler.after(&scaling.unwrap(), finite));
        assert_eq!((state.step, state.applied), (step as u32 + 1, finite), "step {step}");
        if finite {
            updates += 1;
            assert!((state.norm / norm - 1.0).abs() < 1e-6, "step {step}: norm {} and {norm}", state.norm);
            let grad_scale = clip_factor(norm, CLIP_NORM) / scale;
            assert!(
                (state.grad_scale as f64 / grad_scale - 1.0).abs() < 1e-6,
                "step {step}: {}",
                state.grad_scale
            );
            let lr = rates[step.min(rates.len() - 1)];
            assert_eq!(state.lr, lr);
            let shared = Step { lr, betas, eps: 1e-8, step: updates, grad_scale: state.grad_scale };
            let mut parameters: Vec<Parameter> =
                host.iter_mut().zip(&grads).map(|(p, g)| p.with(g)).collect();
            adamw(&mut parameters, shared).unwrap();
        } else {
            skipped += 1;
            assert!(!state.norm.is_finite());
            let after: Vec<Vec<u32>> = there.iter().map(Owned::bits).collect();
            assert!(before == after, "step {step} was skipped, but something changed");
        }
        assert_eq!((state.updates as u64, state.skipped), (updates, skipped), "step {step}");
        match scaler {
            Some(scaler) => {
                assert_eq!(progress.loss_scale as f64, scaler.scale, "step {step}");
                assert_eq!(
                    (state.clean as u64, state.skipped as u64),
                    (scaler.clean_steps, scaler.skipped_steps)
                );
            }
            None => assert_eq!((progress.loss_scale, state.clean), (1.0, 0)),
        }
        for (size, (host, there)) in SIZES.iter().zip(host.iter().zip(&there)) {
            let same = host.bits() == there.bits();
            assert!(same, "step {step}, {dtype}, {size} elements: not the CPU's bits");
        }
    }
    assert_eq!((updates, skipped), (5, 2));
    assert_eq!(optimizer.table_uploads(), 1, "nothing moved, so nothing is copied again");
}

#[test]
fn every_step_has_the_cpus_bits() {
    let scaling = LossScaling {
        initial: 1024.0,
        growth_interval: 2,
        min: 300.0,
        max: 1100.0,
        ..LossScaling::default()
    };
    follows_the_cpu(DType::F32, None);
    follows_the_cpu(DType::F16, Some(scaling));
    follows_the_cpu(DType::BF16, None);
}

#[test]
fn parameters_off_a_vectors_boundary_are_updated_too() {
    let device = Device::emulator().unwrap();
    let settings = Settings { betas: (0.9, 0.95), eps: 1e-8, clip_norm: 0.0, scaling: None };
    let mut optimizer = Optimizer::new(device, settings, &[0.01], 1.0, State::default()).unwrap();
    let whole: Vec<f32> = (0..70).map(|i| i as f32 / 7.0 - 3.0).collect();
    let grads = Tensor::from_slice(&whole, &[70]).unwrap().to_device(device).unwrap();
    // A gradient that is a window of another tensor starts at any element.
    let grad = handloom_engine::ops::view::narrow(&grads, 0, 3, 67).unwrap();
    let original = Tensor::from_slice(&[0.5f32; 67], &[67]).unwrap();
    let mut there = Owned::new(&original, DType::BF16, 0.1, device);
    optimizer.step(&mut [there.with(&grad)]).unwrap();
    let mut host = Owned::new(&original, DType::BF16, 0.1, Device::Cpu);
    let grad = Tensor::from_slice(&whole[3..], &[67]).unwrap();
    let step = Step { lr: 0.01, betas: (0.9, 0.95), eps: 1e-8, step: 1, grad_scale: 1.0 };
    adamw(&mut [host.with(&grad)], step).unwrap();
    assert_eq!(host.bits(), there.bits());
}

#[test]
fn norms_beyond_the_squares_of_f32() {
    let device = Device::emulator().unwrap();
    let settings = Settings { betas: (0.9, 0.95), eps: 1e-8, clip_norm: 0.0, scaling: None };
    let norm_of = |data: &[f32]| {
        let mut optimizer = Optimizer::new(device, settings, &[0.0], 1.0, State::default()).unwrap();
        let grad = Tensor::from_slice(data, &[data.len()]).unwrap().to_device(device).unwrap();
        let original = Tensor::from_slice(&vec![0.0f32; data.len()], &[data.len()]).unwrap();
        let mut parameter = Owned::new(&original, DType::F32, 0.0, device);
        optimizer.step(&mut [parameter.with(&grad)]).unwrap();
        optimizer.progress().unwrap().state
    };
    // 5000 squares take both the vectors' path and the one for what is left over.
    for magnitude in [1e30f32, 1e-30, f32::MAX, f32::MIN_POSITIVE, 3.0] {
        let state = norm_of(&[magnitude; 5000]);
        let want = 5000f64.sqrt() * magnitude as f64;
        assert!((state.norm / want - 1.0).abs() < 1e-6, "{} for 5000 times {magnitude}", state.norm);
        assert!(state.applied, "a finite gradient of {magnitude} is not an overflow");
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 4095, 4096, 4999] {
            let mut data = [1.0f32; 5000];
            data[at] = bad;
            assert!(!norm_of(&data).applied, "{bad} at {at} passed for finite");
        }
    }
    assert_eq!(norm_of(&[0.0; 5000]).norm, 0.0);
}

#[test]
fn misuse_is_reported() {
    let device = Device::emulator().unwrap();
    let settings = Settings { betas: (0.9, 0.95), eps: 1e-8, clip_norm: 0.0, scaling: None };
    let new = |device, rates: &[f64], scale| Optimizer::new(device, settings, rates, scale, State::default());
    let message =
        |result: Result<Optimizer, handloom_engine::error::Error>| result.err().unwrap().to_string();
    assert_eq!(
        message(new(Device::Cpu, &[0.1], 1.0)),
        "optimizer: keeps its state on a GPU, not on the CPU: use ops::adamw there"
    );
    assert_eq!(message(new(device, &[], 1.0)), "optimizer: 0 learning rates, expected 1 to 2^32 - 1");
    assert_eq!(message(new(device, &[0.1], 0.0)), "optimizer: loss_scale is 0, expected a positive number");
    let mut optimizer = new(device, &[0.1], 1.0).unwrap();
    let held = optimizer.loss_scale();
    let error = optimizer.step(&mut []).unwrap_err().to_string();
    assert_eq!(error, "optimizer: the loss scale is still held; let go of it before the step");
    drop(held);
}
