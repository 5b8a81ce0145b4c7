//! Five steps on the CPU, on the GPU kernel by kernel, and on the GPU as a graph.

use handloom_engine::check::close::{Tolerance, assert_close};
use handloom_engine::device::Device;
use handloom_engine::ops::attention::{Attention, attention};
use handloom_engine::ops::dropout::dropout;
use handloom_engine::philox::Stream;
use handloom_engine::tensor::Tensor;

use crate::run::{Place, Run, alone, batches, emulator, gpt};

const STEPS: u64 = 5;

/// Losses and gradient norms of the steps.
fn figures(run: &mut Run) -> (Vec<f64>, Vec<f64>) {
    let all = (0..STEPS).map(|step| run.step(batches(step % 2)));
    all.map(|measured| (measured.loss.unwrap(), measured.grad_norm.unwrap())).unzip()
}

fn relative(relative: f64) -> Tolerance {
    Tolerance { absolute: 0.0, relative }
}

/// The graph gives the bits of the single launches; returns losses and norms of both CPU and GPU.
fn on_all(precision: &str) -> [(Vec<f64>, Vec<f64>); 2] {
    let _alone = alone();
    let set = format!("train.precision={precision}");
    let [mut cpu, mut kernels, mut graph] = [Place::Cpu, Place::Kernels, Place::Graph].map(|place| {
        // One device step at a time: each keeps the step of dropout's draws on the device.
        let mut run = Run::new(place, gpt(&[&set]), STEPS);
        let figures = figures(&mut run);
        let costs = run
            .device_step
            .as_ref()
            .map(|step| (step.host_costs(), step.graph_kernels(), step.table_uploads()));
        run.device_step = None;
        (figures, costs, run.bits())
    });
    println!("{precision}: CPU {:?}, GPU {:?}", cpu.0, graph.0);
    assert_eq!(graph.0, kernels.0, "losses and norms of graph and single launches");
    assert!(graph.2 == kernels.2, "parameters and moments of graph and single launches differ");
    // Steps 4 and 5 replay what step 3 captured: one launch each, of as many kernels as a step has.
    let ((eager, replayed), captured, uploads) = graph.1.take().unwrap();
    assert_eq!((replayed.steps, replayed.launches, uploads), (2, 2, 1));
    let (single, none, uploads) = kernels.1.take().unwrap();
    assert_eq!((single.0.launches_per_step(), none, uploads), (captured.unwrap() as f64, None, 1));
    assert_eq!(eager.launches_per_step(), single.0.launches_per_step());
    assert_eq!(single.1.steps, 0);
    println!("{precision}: {} kernels a step", captured.unwrap());
    [std::mem::take(&mut cpu.0), graph.0]
}

#[test]
fn f32_agrees_with_the_cpu() {
    let [(want, want_norms), (got, norms)] = on_all("fp32");
    assert!((got[0] - want[0]).abs() < 1e-5, "first loss {}, CPU {}", got[0], want[0]);
    assert!((got[4] - want[4]).abs() < 1e-4, "fifth loss {}, CPU {}", got[4], want[4]);
    assert_close("gradient norms", &[5], &norms, &want_norms, relative(1e-3));
    // Random tokens: the start is close to ln 97; the fifth step sees the first one's tokens again.
    assert!((got[0] - 97f64.ln()).abs() < 0.2 && got[4] < got[0], "{got:?}");
}

#[test]
fn bf16_agrees_with_the_cpu() {
    let [(want, want_norms), (got, norms)] = on_all("bf16");
    // 8 bits of mantissa; both round activations at the same places, in another order of sums.
    assert_close("losses", &[5], &got, &want, relative(4e-3));
    assert_close("gradient norms", &[5], &norms, &want_norms, relative(4e-2));
}

#[test]
fn f16_agrees_with_the_cpu() {
    let [(want, want_norms), (got, norms)] = on_all("fp16");
    assert_close("losses", &[5], &got, &want, relative(1e-3));
    assert_close("gradient norms", &[5], &norms, &want_norms, relative(1e-2));
}

#[test]
fn memory_is_flat_and_figures_come_a_step_late() {
    let _alone = alone();
    for place in [Place::Kernels, Place::Graph] {
        let mut run = Run::new(place, gpt(&[]), STEPS);
        let mut memory = Vec::new();
        for step in 0..STEPS {
            let late = run.step_late(batches(step));
            assert_eq!(late.map(|measured| measured.step), (step > 0).then_some(step));
            memory.push(emulator().buffers());
        }
        assert_eq!(run.finish().unwrap().step, STEPS);
        assert!(run.finish().is_none());
        // A graph is captured at the third step.
        assert_eq!(memory[2], memory[4], "{place:?}");
        assert_eq!(memory[1].peak, memory[4].peak, "{place:?}: capturing needs no more than a step");
        assert_eq!(memory[1].live, memory[4].live, "{place:?}");
    }
}

#[test]
fn dropout_masks_are_those_of_the_cpu_at_every_step_of_the_device() {
    let _alone = alone();
    let gpu = emulator();
    let ones = Tensor::from_slice(&[1.0f32; 1003], &[1003]).unwrap();
    let on_device = ones.to_device(Device::Cuda(gpu)).unwrap();
    for step in [0, 1, 7, u32::MAX] {
        gpu.gpu().set_draw_step(step).unwrap();
        let got =
            dropout(&on_device, 0.3, Stream { seed: 5, stream: 2, step: 0 }).unwrap().read_f32().unwrap();
        let want = dropout(&ones, 0.3, Stream { seed: 5, stream: 2, step }).unwrap().read_f32().unwrap();
        assert_eq!(got, want, "step {step}");
    }
    // Attention's weights: the same probabilities, kept or not by the same draws.
    let mut reader = Stream { seed: 8, stream: 0, step: 0 }.reader();
    let [q, k, v] = [(); 3].map(|()| {
        let data: Vec<f32> = (0..9 * 2 * 32).map(|_| reader.normal() as f32).collect();
        Tensor::from_slice(&data, &[1, 9, 2, 32]).unwrap()
    });
    let attend = |device, step| {
        let dropout = Some((0.5, Stream { seed: 5, stream: 2, step }));
        let options = Attention { dropout, ..Attention::default() };
        let [q, k, v] = [&q, &k, &v].map(|x| x.to_device(device).unwrap());
        let out = attention(&q, &k, &v, &options).unwrap().read_f32().unwrap();
        out.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    gpu.gpu().set_draw_step(7).unwrap();
    let (got, want) = (attend(Device::Cuda(gpu), 0), attend(Device::Cpu, 7));
    let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
    assert_close("attention with dropout", &[9, 2, 32], &got, &want, tolerance);
    gpu.gpu().set_draw_step(0).unwrap();
}
