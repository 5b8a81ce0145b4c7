//! Reading tests/goldens/bert-tiny.

use std::path::PathBuf;

use handloom_engine::ops::cross_entropy::count_targets;
use handloom_engine::tensor::Tensor;
use handloom_model::bert::Bert;
use handloom_model::huggingface;
use handloom_model::objective::Batch;
use handloom_tests::close::{Tolerance, assert_close, rms};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens/bert-tiny").join(name)
}

/// The golden model.
pub fn tiny() -> Bert {
    huggingface::load_bert(&path("")).expect("the golden model loads")
}

/// One file with its JSON.
pub struct Golden {
    bytes: Vec<u8>,
    pub json: Value,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).expect("the golden file is there");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("the golden file is safetensors");
        let json = serde_json::from_str(&header.metadata().as_ref().expect("metadata")["json"]);
        Golden { json: json.expect("the metadata is JSON"), bytes }
    }

    /// Shape and values of an f32 tensor.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("checked at opening");
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) as f64);
        (view.shape().to_vec(), values.collect())
    }

    fn ids(&self, name: &str) -> (Vec<usize>, Vec<i32>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("checked at opening");
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let values = view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as i32);
        (view.shape().to_vec(), values.collect())
    }

    /// The file's batches: one, or one per step.
    pub fn batches(&self) -> Vec<Batch> {
        let (shape, ids) = self.ids("input_ids");
        let size = shape[shape.len() - 2..].to_vec();
        let rest = ["targets", "key_mask", "segment_ids"].map(|name| self.ids(name).1);
        let [targets, masks, segments] = &rest;
        let each = |values: &[i32], i: usize| {
            let numel = size[0] * size[1];
            values[i * numel..(i + 1) * numel].to_vec()
        };
        let tensor = |values: &[i32]| Tensor::from_slice(values, &size).unwrap();
        (0..ids.len() / (size[0] * size[1]))
            .map(|i| Batch {
                ids: tensor(&each(&ids, i)),
                targets: tensor(&each(targets, i)),
                counted: count_targets(&each(targets, i)),
                key_mask: Some(tensor(&each(masks, i))),
                segment_ids: Some(tensor(&each(segments, i))),
                chosen: None,
            })
            .collect()
    }
}

/// Values of a tensor as f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec_f32().into_iter().map(f64::from).collect()
}

/// Compares with `relative` of each value, and of the tensor's root mean square for small ones.
#[track_caller]
pub fn assert_near(what: &str, got: &Tensor, (shape, want): &(Vec<usize>, Vec<f64>), relative: f64) {
    assert_eq!(got.shape(), shape, "{what}");
    let tolerance = Tolerance { absolute: relative * rms(want), relative };
    assert_close(what, shape, &values(got), want, tolerance);
}
