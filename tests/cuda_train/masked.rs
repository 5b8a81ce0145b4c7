//! BERT with padding and a varying number of targets: one graph, the same losses as on the CPU; more targets than there are places for.

use handloom_engine::check::close::{Tolerance, assert_close};
use handloom_engine::ops::cross_entropy::IGNORE_INDEX;
use handloom_engine::philox::Stream;
use handloom_engine::tensor::Tensor;
use handloom_model::bert::Bert;
use handloom_model::config::RunConfig;
use handloom_model::model::LanguageModel;
use handloom_model::objective::Batch;
use handloom_model::params::Init;

use crate::run::{Place, Run, VOCAB, alone};

const TIME: usize = 13;

pub fn bert() -> (Box<dyn LanguageModel>, RunConfig) {
    let settings = [
        "model.kind=bert",
        "objective.kind=mlm",
        "model.layers=1",
        "model.heads=2",
        "model.width=64",
        "model.context=16",
        "data.block=16",
        "model.dropout=0.1",
        "train.batch=2",
        "train.accumulate=2",
        "train.pack=false",
        "optimizer.lr=0.003",
        "train.seed=9",
    ];
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let config = RunConfig::from_toml("", "test", &settings).unwrap();
    let mut model = Bert::new(config.bert(VOCAB, Some(0))).unwrap();
    model.initialise(Init::Gpt2, 3).unwrap();
    (Box::new(model), config)
}

/// Rows of these lengths; about a third of the real positions counts.
pub fn batch(lengths: &[usize], seed: u64) -> Batch {
    batch_of(TIME, lengths, seed)
}

/// As [`batch`], with rows of `time` positions.
pub fn batch_of(time: usize, lengths: &[usize], seed: u64) -> Batch {
    let mut reader = Stream { seed, stream: 0, step: 0 }.reader();
    let (mut ids, mut targets, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for &length in lengths {
        for t in 0..time {
            let real = t < length;
            ids.push(if real { 5 + reader.below(90) as i32 } else { 0 });
            let counts = reader.below(3) == 0 && real;
            targets.push(if counts { reader.below(VOCAB as u32) as i32 } else { IGNORE_INDEX });
            mask.push(i32::from(real));
        }
    }
    let key_mask = Some(Tensor::from_slice(&mask, &[lengths.len(), time]).unwrap());
    Batch { key_mask, ..Batch::new(&ids, &targets, time).unwrap() }
}

/// Losses and hits of steps on these batches, the kernels of the captured step, and all parameters and moments.
fn trained(place: Place, batches: &[Vec<Batch>]) -> (Vec<f64>, Vec<f64>, Option<u64>, Vec<u32>) {
    let mut run = Run::new(place, bert(), batches.len() as u64);
    let copies = |step: &[Batch]| step.iter().map(|batch| batch.map(|x| Ok(x.clone())).unwrap()).collect();
    let steps = batches.iter().map(|step| run.step(copies(step)));
    let figures: Vec<_> = steps.map(|m| (m.loss.unwrap(), m.masked_accuracy.unwrap())).collect();
    let captured = run.device_step.as_ref().and_then(|step| step.graph_kernels());
    run.device_step = None;
    let (losses, hits) = figures.into_iter().unzip();
    (losses, hits, captured, run.bits())
}

fn losses_agree(batches: &[Vec<Batch>]) -> Option<u64> {
    let [cpu, kernels, graph] =
        [Place::Cpu, Place::Kernels, Place::Graph].map(|place| trained(place, batches));
    let tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };
    assert_close("losses", &[batches.len()], &graph.0, &cpu.0, tolerance);
    assert_eq!(graph.1, cpu.1, "hits");
    assert_eq!((&graph.0, &graph.1), (&kernels.0, &kernels.1), "graph and single launches");
    assert!(graph.3 == kernels.3, "parameters and moments of graph and single launches differ");
    assert_eq!(kernels.2, None);
    graph.2
}

#[test]
fn bert_trains_as_on_the_cpu_as_one_graph() {
    let _alone = alone();
    let rows = [[13, 7], [5, 13], [13, 13], [2, 9], [13, 1], [11, 12]];
    let step =
        |(i, lengths): (usize, &[usize; 2])| vec![batch(lengths, i as u64), batch(lengths, 50 + i as u64)];
    let batches: Vec<_> = rows.iter().enumerate().map(step).collect();
    let counted: Vec<usize> = batches.iter().map(|step| step[0].counted + step[1].counted).collect();
    assert!(
        counted[2..].windows(2).all(|pair| pair[0] != pair[1]),
        "the number of targets varies: {counted:?}"
    );
    assert!(losses_agree(&batches).is_some(), "captured at the third step");
}

#[test]
fn a_step_with_more_targets_than_places_is_right_and_so_are_the_others() {
    let _alone = alone();
    // 26 positions have room for 16 chosen ones. The fifth step chooses 23; the second one none at all.
    let mut batches: Vec<_> = (0..6).map(|i| vec![batch(&[13, 10], i)]).collect();
    let retarget = |batch: &mut Batch, target: &dyn Fn(usize) -> i32| {
        let targets: Vec<i32> = (0..2 * TIME).map(target).collect();
        let key_mask = batch.key_mask.take();
        let ids = batch.ids.slice::<i32>().unwrap().to_vec();
        *batch = Batch { key_mask, ..Batch::new(&ids, &targets, TIME).unwrap() };
    };
    retarget(&mut batches[1][0], &|_| IGNORE_INDEX);
    retarget(&mut batches[4][0], &|at| if at < TIME + 10 { 7 + at as i32 } else { IGNORE_INDEX });
    assert_eq!((batches[1][0].counted, batches[4][0].counted), (0, 23));
    assert!(batches.iter().enumerate().all(|(i, step)| i == 4 || step[0].counted <= 16));
    assert!(losses_agree(&batches).is_some());
}

#[test]
fn masked_steps_without_padding_have_one_shape_with_those_that_have_some() {
    let _alone = alone();
    // A batch of full rows comes without a mask where rows may be padded.
    let mut batches: Vec<_> = (0..5).map(|i| vec![batch(&[13, 13], i)]).collect();
    batches[3][0].key_mask = None;
    assert!(losses_agree(&batches).is_some());
}
