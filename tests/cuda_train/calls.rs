//! What the host asks of the driver in a steady step: no memory, no wait for the step itself, no copy that the driver stages.

use std::collections::BTreeMap;

use handloom_kernels::device::driver_calls;
use handloom_model::objective::Batch;

use crate::masked;
use crate::run::{Place, Run, alone, batches, gpt};

/// Calls of the driver during `work`.
fn calls(work: impl FnOnce()) -> BTreeMap<&'static str, u64> {
    let before = driver_calls();
    work();
    let mut after = driver_calls();
    after.iter_mut().for_each(|(name, times)| *times -= before.get(name).copied().unwrap_or(0));
    after.retain(|_, times| *times > 0);
    after
}

/// The calls of the sixth and of the seventh step, which are the same.
fn steady(run: &mut Run, batches: impl Fn(u64) -> Vec<Batch>) -> BTreeMap<&'static str, u64> {
    for step in 0..5 {
        run.step_late(batches(step));
    }
    let [sixth, seventh] = [5, 6].map(|step| {
        let batches = batches(step);
        calls(|| assert!(run.step_late(batches).is_some()))
    });
    assert_eq!(sixth, seventh);
    sixth
}

/// Of a step whatever it runs: one copy of the batches and one of the factor from pinned memory; of the report its four parts. Each
/// copy is followed by an event. The waits are for the copy from the same pinned memory two steps ago, and for the report of the step
/// before.
fn around(kernels: &[(&'static str, u64)]) -> BTreeMap<&'static str, u64> {
    let around = [
        ("cuMemcpyHtoDAsync", 2),
        ("cuMemcpyDtoHAsync", PARTS),
        ("cuEventRecord", 2 + PARTS),
        ("cuEventSynchronize", 2),
    ];
    around.into_iter().chain(kernels.iter().copied()).collect()
}

/// The optimizer's state, its loss scale, ids outside their tables, losses, hits.
const PARTS: u64 = 5;

#[test]
fn a_replayed_step_is_one_launch_between_asynchronous_copies() {
    let _alone = alone();
    let mut run = Run::new(Place::Graph, gpt(&[]), 9);
    assert_eq!(steady(&mut run, batches), around(&[("cuGraphLaunch", 1)]));
    let mut run = Run::new(Place::Graph, masked::bert(), 9);
    let rows = |step| vec![masked::batch(&[13, 4 + step as usize], step)];
    assert_eq!(steady(&mut run, rows), around(&[("cuGraphLaunch", 1)]));
}

#[test]
fn single_launches_neither_wait_nor_allocate_either() {
    let _alone = alone();
    // What is left beside launches: fills of zeros and of poison, copies within the device.
    let asynchronous = ["cuLaunchKernel", "cuMemsetD8Async", "cuMemcpyDtoDAsync"];
    for model in [gpt(&[]), masked::bert()] {
        let masked = model.0.objective() == handloom_model::config::ObjectiveKind::Mlm;
        let mut run = Run::new(Place::Kernels, model, 9);
        let rows = |step| if masked { vec![masked::batch(&[13, 9], step)] } else { batches(step) };
        let mut made = steady(&mut run, rows);
        assert!(made["cuLaunchKernel"] > 50, "{made:?}");
        made.retain(|name, _| !asynchronous.contains(name));
        assert_eq!(made, around(&[]));
    }
}
