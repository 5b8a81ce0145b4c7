//! Reading `tests/goldens`: what PyTorch computed (its README says what each file holds).

use std::path::PathBuf;

use handloom_model::gpt2::Gpt2;
use handloom_model::huggingface;
use handloom_model::objective::Batch;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A path below `tests/goldens`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

/// The model of `gpt2-tiny`.
pub fn tiny() -> Gpt2 {
    huggingface::load_model(&path("gpt2-tiny")).expect("the golden model loads")
}

/// A JSON golden.
pub fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(path(name)).expect("the golden file is there");
    serde_json::from_str(&text).expect("the golden file is JSON")
}

/// A JSON list of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("{value} is not a list"));
    list.iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// A safetensors golden with its JSON.
pub struct Golden {
    bytes: Vec<u8>,
    pub json: Value,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).expect("the golden file is there");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("the golden file is safetensors");
        let text = &header.metadata().as_ref().expect("metadata")["json"];
        let json = serde_json::from_str(text).expect("the metadata is JSON");
        Golden { json, bytes }
    }

    fn view<R>(&self, name: &str, read: impl FnOnce(&[usize], Dtype, &[u8]) -> R) -> R {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("checked at opening");
        let view = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        read(view.shape(), view.dtype(), view.data())
    }

    /// Shape and values of an f32 tensor.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        self.view(name, |shape, dtype, bytes| {
            assert_eq!(dtype, Dtype::F32, "{name}");
            let values = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) as f64);
            (shape.to_vec(), values.collect())
        })
    }

    /// Shape and values of an integer tensor.
    pub fn ids(&self, name: &str) -> (Vec<usize>, Vec<i32>) {
        self.view(name, |shape, dtype, bytes| {
            let values = match dtype {
                Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect(),
                Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as i32).collect(),
                other => panic!("{name} has dtype {other:?}"),
            };
            (shape.to_vec(), values)
        })
    }

    /// Ids and targets (rows, T) under these names.
    pub fn batch(&self, ids: &str, targets: &str) -> Batch {
        let (shape, ids) = self.ids(ids);
        let (_, targets) = self.ids(targets);
        batch(&ids, &targets, *shape.last().expect("a row length"))
    }

    /// The batches of a training run: ids and targets (steps, rows, T).
    pub fn run_batches(&self) -> Vec<Batch> {
        let (shape, ids) = self.ids("input_ids");
        let (_, targets) = self.ids("targets");
        let (rows, time) = (shape[1], shape[2]);
        ids.chunks_exact(rows * time)
            .zip(targets.chunks_exact(rows * time))
            .map(|(ids, targets)| batch(ids, targets, time))
            .collect()
    }
}

/// A batch of rows of `time` tokens; targets below 0 do not count.
pub fn batch(ids: &[i32], targets: &[i32], time: usize) -> Batch {
    Batch::new(ids, targets, time).expect("whole rows")
}
