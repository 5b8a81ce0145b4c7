//! BERT with padding and a varying number of targets: no graph, the same losses as on the CPU.

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

fn bert() -> (Box<dyn LanguageModel>, RunConfig) {
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
fn batch(lengths: &[usize], seed: u64) -> Batch {
    let mut reader = Stream { seed, stream: 0, step: 0 }.reader();
    let (mut ids, mut targets, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for &length in lengths {
        for t in 0..TIME {
            let real = t < length;
            ids.push(if real { 5 + reader.below(90) as i32 } else { 0 });
            let counts = reader.below(3) == 0 && real;
            targets.push(if counts { reader.below(VOCAB as u32) as i32 } else { IGNORE_INDEX });
            mask.push(i32::from(real));
        }
    }
    let key_mask = Some(Tensor::from_slice(&mask, &[lengths.len(), TIME]).unwrap());
    Batch { key_mask, ..Batch::new(&ids, &targets, TIME).unwrap() }
}

#[test]
fn bert_trains_as_on_the_cpu() {
    let _alone = alone();
    let losses = |place| {
        let mut run = Run::new(place, bert(), 4);
        let rows = [[13, 7], [5, 13], [13, 13], [2, 9]];
        let steps = rows.iter().enumerate().map(|(i, lengths)| run.step(vec![batch(lengths, i as u64)]));
        let figures: Vec<_> = steps.map(|m| (m.loss.unwrap(), m.masked_accuracy.unwrap())).collect();
        let captured = run.device_step.as_ref().and_then(|step| step.graph_kernels());
        assert_eq!(captured, None, "the number of targets varies");
        figures.into_iter().unzip::<_, _, Vec<f64>, Vec<f64>>()
    };
    let ((want, want_hits), (got, hits)) = (losses(Place::Cpu), losses(Place::Graph));
    let tolerance = Tolerance { absolute: 1e-4, relative: 0.0 };
    assert_close("losses", &[4], &got, &want, tolerance);
    assert_eq!(hits, want_hits);
}
