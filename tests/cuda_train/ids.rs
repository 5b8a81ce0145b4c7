//! Ids outside their tables: an error that names them, whether the host sees them first or a kernel does.

use handloom_engine::device::Device;
use handloom_engine::ops::cross_entropy::cross_entropy;
use handloom_engine::ops::embedding::embedding;
use handloom_engine::ops::gather::gather_rows;
use handloom_engine::ops::linear_cross_entropy::linear_cross_entropy;
use handloom_engine::tensor::Tensor;
use handloom_model::objective::Batch;

use crate::masked;
use crate::run::{Place, Run, VOCAB, alone, batch, emulator, gpt};

fn device() -> Device {
    Device::Cuda(emulator())
}

fn ids(values: &[i32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()]).unwrap().to_device(device()).unwrap()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, handloom_engine::dtype::DType::F32, device()).unwrap()
}

/// What the device has to say of ids since the last call.
fn report() -> Option<String> {
    emulator().gpu().check_ids().err().map(|error| error.to_string())
}

#[test]
fn kernels_report_the_first_id_outside_their_table() {
    let _alone = alone();
    emulator().gpu().clear_id_report().unwrap();
    let table = zeros(&[11, 5]);
    let good: Vec<i32> = (0..700).map(|i| i % 11).collect();
    embedding(&ids(&good), &table).unwrap();
    assert_eq!(report(), None);
    // Several, far apart: the lowest position, whatever the order of blocks. Once reported, it is over.
    let mut bad = good.clone();
    (bad[699], bad[300], bad[301]) = (11, -7, i32::MAX);
    let out = embedding(&ids(&bad), &table).unwrap().read_f32().unwrap();
    assert!(out[5 * 300].is_nan() && !out[5 * 299].is_nan());
    assert_eq!(report().as_deref(), Some("embedding: id -7 at position 300 is outside the table of 11 rows"));
    assert_eq!(report(), None);
    gather_rows(&table, &ids(&[10, 0, 12])).unwrap();
    assert_eq!(report().as_deref(), Some("gather_rows: id 12 at position 2 is outside the table of 11 rows"));

    let targets = |bad: i32| ids(&[4, -100, 6, bad]);
    for bad in [7, -1] {
        let said = format!("cross_entropy: target {bad} in row 3 is outside the vocabulary of 7");
        let loss = cross_entropy(&zeros(&[4, 7]), &targets(bad), None).unwrap();
        assert_eq!(report().as_ref(), Some(&said));
        assert!(loss.item().unwrap().is_nan());
        linear_cross_entropy(&zeros(&[4, 3]), &zeros(&[7, 3]), &targets(bad), None).unwrap();
        assert_eq!(report().as_ref(), Some(&said));
    }
    cross_entropy(&zeros(&[4, 7]), &targets(-100), None).unwrap();
    assert_eq!(report(), None);
}

#[test]
fn more_tables_than_the_report_has_words_share_the_last() {
    let _alone = alone();
    for rows in 20..100 {
        embedding(&ids(&[3]), &zeros(&[rows, 2])).unwrap();
    }
    assert_eq!(report(), None);
    embedding(&ids(&[1, 99]), &zeros(&[99, 2])).unwrap();
    assert_eq!(report().as_deref(), Some("id 99 at position 1 is outside its table"));
}

#[test]
fn a_batch_with_an_id_outside_the_vocabulary_is_refused_on_the_host() {
    let _alone = alone();
    let mut run = Run::new(Place::Graph, gpt(&[]), 5);
    let bad = |ids: &mut [i32], targets: &mut [i32]| {
        ids[18] = 98;
        targets[17] = 98;
    };
    let [mut ids, mut targets] = [3, 4].map(|id| vec![id; 32]);
    bad(&mut ids, &mut targets);
    let error = run.try_step(vec![batch(0), Batch::new(&ids, &targets, 16).unwrap()]).unwrap_err();
    let said = "token 98 at position 2 of row 1 of the batch is outside the model's vocabulary of 97";
    assert!(error.to_string().starts_with(said), "{error}");
    let error = run.try_step(vec![Batch::new(&[3; 32], &targets, 16).unwrap()]).unwrap_err();
    let said = "target 98 at position 1 of row 1 of the batch is outside the model's vocabulary of 97";
    assert!(error.to_string().starts_with(said), "{error}");
    assert_eq!(VOCAB, 97);
}

#[test]
fn what_only_the_device_sees_ends_the_run_with_the_next_figures() {
    let _alone = alone();
    for place in [Place::Kernels, Place::Graph] {
        let mut run = Run::new(place, masked::bert(), 6);
        for step in 0..6 {
            // The host does not look at segments; a BERT has two.
            let mut segments = vec![1; 26];
            if step == 4 {
                segments[17] = 2;
            }
            let segment_ids = Some(Tensor::from_slice(&segments, &[2, 13]).unwrap());
            let batch = Batch { segment_ids, ..masked::batch(&[13, 7], step) };
            let told = run.try_step(vec![batch]).map_err(|error| error.to_string());
            match step {
                0 => assert!(told.unwrap().is_none()),
                1..5 => assert_eq!(told.unwrap().unwrap().step, step),
                _ => {
                    let said = "step 5: embedding: id 2 at position 17 is outside the table of 2 rows";
                    assert_eq!(told.unwrap_err(), said, "{place:?}");
                }
            }
        }
    }
}
