//! Model directories: what is written reads back to the same bits; what does not fit is named.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use handloom_engine::tensor::Tensor;
use handloom_model::gpt2::{Gpt2, Gpt2Config};
use handloom_model::huggingface;
use handloom_model::layers::Forward;
use handloom_model::params::Init;
use handloom_model::tokenizer::Tokenizer;
use handloom_tests::goldens;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

type Weights = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A model directory under construction, from the golden one.
struct Directory {
    dir: tempfile::TempDir,
    config: Value,
    weights: Weights,
}

impl Directory {
    fn new() -> Self {
        let bytes = fs::read(goldens::path("gpt2-tiny/model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let weights = tensors
            .iter()
            .map(|(name, view)| {
                (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            })
            .collect();
        let config = goldens::json("gpt2-tiny/config.json");
        Directory { dir: tempfile::tempdir().unwrap(), config, weights }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write_part(&self, file: &str, keep: impl Fn(&str) -> bool) {
        let kept = self.weights.iter().filter(|(name, _)| keep(name));
        let views = kept.map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &self.path().join(file)).unwrap();
    }

    fn load(&self) -> Result<Gpt2, String> {
        fs::write(self.path().join("config.json"), self.config.to_string()).unwrap();
        huggingface::load_model(self.path()).map_err(|e| e.to_string())
    }

    /// The error of loading, without the directory's name.
    fn error(&self) -> String {
        self.write_part("model.safetensors", |_| true);
        self.bare_error()
    }

    fn bare_error(&self) -> String {
        let message = self.load().err().expect("loading must fail");
        assert!(!message.contains('\n'), "{message}");
        message.replace(&format!("{}/", self.path().display()), "")
    }
}

fn logits(model: &Gpt2) -> Vec<f32> {
    let ids: Vec<i32> = (0..34).map(|i| (i * 7) % model.config.vocab_size as i32).collect();
    let ids = Tensor::from_slice(&ids, &[2, 17]).unwrap();
    model.logits(&Forward::inference(&model.params), &ids).unwrap().to_vec_f32()
}

#[test]
fn saved_and_loaded_models_give_the_same_bits() {
    let tokenizer = Tokenizer::embedded("austen-2048").unwrap();
    for (tied, precision) in [(true, "fp32"), (false, "fp32"), (true, "bf16")] {
        let config = Gpt2Config {
            vocab_size: tokenizer.vocab_size(),
            n_positions: 17,
            n_embd: 20,
            n_layer: 2,
            n_head: 5,
            n_inner: Some(33),
            tie_word_embeddings: tied,
            activation_function: "gelu".into(),
            layer_norm_epsilon: 1e-3,
            ..Gpt2Config::default()
        };
        let mut model = Gpt2::new(config).unwrap();
        model.initialise(Init::Xavier, 9).unwrap();
        let plain = logits(&model);
        if precision == "bf16" {
            model.params.set_precision(handloom_model::params::Precision::Bf16).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        huggingface::save(dir.path(), &model, &tokenizer).unwrap();
        let loaded = huggingface::load_model(dir.path()).unwrap();
        assert_eq!(loaded.config, model.config);
        assert_eq!(loaded.params.iter().len(), 28 + usize::from(!tied));
        // Masters are what is saved: a bf16 model comes back with all its bits.
        assert!(logits(&loaded) == plain, "tied {tied}, {precision}");
        assert_eq!(Tokenizer::load(dir.path()).unwrap().fingerprint(), tokenizer.fingerprint());
    }
}

#[test]
fn older_names_masks_halves_and_shards_load() {
    let want = logits(&goldens::tiny());

    // Names without the prefix, causal masks as buffers, the tied head stored too.
    let mut old = Directory::new();
    let weights = std::mem::take(&mut old.weights);
    let head = weights["transformer.wte.weight"].clone();
    old.weights = weights.into_iter().map(|(name, w)| (name.replace("transformer.", ""), w)).collect();
    old.weights.insert("h.0.attn.bias".into(), (Dtype::U8, vec![1, 1, 19, 19], vec![1; 361]));
    old.weights.insert("h.0.attn.masked_bias".into(), (Dtype::F32, vec![], vec![0; 4]));
    old.weights.insert("lm_head.weight".into(), head);
    old.write_part("model.safetensors", |_| true);
    assert!(logits(&old.load().unwrap()) == want);

    // Two shards with an index.
    let sharded = Directory::new();
    sharded.write_part("a.safetensors", |name| name.contains("h.0."));
    sharded.write_part("b.safetensors", |name| !name.contains("h.0."));
    let file = |name: &str| if name.contains("h.0.") { "a.safetensors" } else { "b.safetensors" };
    let map: HashMap<&str, &str> = sharded.weights.keys().map(|name| (name.as_str(), file(name))).collect();
    let index = sharded.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    assert!(logits(&sharded.load().unwrap()) == want);
    fs::remove_file(sharded.path().join("b.safetensors")).unwrap();
    assert!(sharded.bare_error().starts_with("cannot read weights b.safetensors: "));
    fs::write(&index, "{}").unwrap();
    assert_eq!(sharded.bare_error(), "model.safetensors.index.json: has no weight_map");

    // bf16 weights are widened exactly.
    let mut half = Directory::new();
    let mut rounded = goldens::tiny();
    for (name, (dtype, _, data)) in &mut half.weights {
        let values: Vec<half::bf16> =
            data.as_chunks().0.iter().map(|b| half::bf16::from_f32(f32::from_le_bytes(*b))).collect();
        *dtype = Dtype::BF16;
        *data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let param = rounded.params.by_name(name).unwrap();
        let values: Vec<f32> = values.iter().map(|x| x.to_f32()).collect();
        param.value.slice_mut::<f32>().unwrap().copy_from_slice(&values);
    }
    half.write_part("model.safetensors", |_| true);
    assert!(logits(&half.load().unwrap()) == logits(&rounded));
}

#[test]
fn weights_that_do_not_fit_are_named() {
    const C_ATTN: &str = "transformer.h.1.attn.c_attn.weight";

    let mut turned = Directory::new();
    turned.weights.get_mut(C_ATTN).unwrap().1 = vec![72, 24];
    assert_eq!(
        turned.error(),
        format!(
            "model.safetensors: {C_ATTN} is [72, 24], the model wants [24, 72]; GPT-2 stores Conv1D weights as (in, out)"
        )
    );

    let mut wide = Directory::new();
    wide.config["n_positions"] = json!(20);
    assert_eq!(
        wide.error(),
        "model.safetensors: transformer.wpe.weight is [19, 24], the model wants [20, 24]"
    );

    let mut lacking = Directory::new();
    lacking.weights.remove(C_ATTN);
    assert_eq!(
        lacking.error(),
        format!("model.safetensors: lacks 1 of the model's tensors, the first {C_ATTN}")
    );

    let mut untied = Directory::new();
    untied.config["tie_word_embeddings"] = json!(false);
    assert_eq!(untied.error(), "model.safetensors: lacks 1 of the model's tensors, the first lm_head.weight");

    let mut deeper = Directory::new();
    deeper.config["n_layer"] = json!(1);
    let message = deeper.error();
    assert!(
        message.starts_with("model.safetensors: holds transformer.h.1.")
            && message.ends_with("which the model of config.json does not have"),
        "{message}"
    );

    let mut integers = Directory::new();
    integers.weights.get_mut(C_ATTN).unwrap().0 = Dtype::I32;
    assert_eq!(
        integers.error(),
        format!("model.safetensors: {C_ATTN} has dtype I32; expected F32, F16 or BF16")
    );
}

#[test]
fn damaged_and_foreign_files_are_named() {
    let whole = fs::read(goldens::path("gpt2-tiny/model.safetensors")).unwrap();
    let dir = Directory::new();
    let weights = dir.path().join("model.safetensors");
    for cut in [0, 1, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..cut]).unwrap();
        let message = dir.bare_error();
        assert!(
            message.starts_with("model.safetensors: is not a whole safetensors file (")
                && message.ends_with("; copy or download it again"),
            "{cut} bytes: {message}"
        );
    }
    fs::write(&weights, [&whole[..], b"more"].concat()).unwrap();
    assert!(dir.bare_error().starts_with("model.safetensors: is not a whole safetensors file ("));
    // A header that claims to be longer than any file.
    fs::write(&weights, [&[0xff; 8], &whole[8..]].concat()).unwrap();
    assert!(dir.bare_error().starts_with("model.safetensors: is not a whole safetensors file ("));
    fs::remove_file(&weights).unwrap();
    assert!(dir.bare_error().starts_with("cannot read weights model.safetensors: "));

    let mut bert = Directory::new();
    bert.config["model_type"] = json!("bert");
    assert_eq!(bert.error(), "config.json: model_type is \"bert\"; supported: \"gpt2\"");
    bert.config = json!({});
    assert_eq!(bert.error(), "config.json: has no model_type; expected a Hugging Face config.json");
    bert.config = json!({"model_type": "gpt2", "n_layer": "two"});
    let message = bert.error();
    assert!(message.starts_with("config.json: does not describe a GPT-2: "), "{message}");
    fs::write(bert.path().join("config.json"), "{").unwrap();
    let message = huggingface::load_model(bert.path()).err().unwrap().to_string();
    assert!(message.contains("config.json: is not valid JSON: "), "{message}");
    fs::remove_file(bert.path().join("config.json")).unwrap();
    let message = huggingface::load_model(bert.path()).err().unwrap().to_string();
    assert!(message.starts_with("cannot read model configuration "), "{message}");
}

#[test]
fn models_that_compute_otherwise_are_refused() {
    for (key, value, problem) in [
        ("scale_attn_weights", json!(false), "not supported"),
        ("scale_attn_by_inverse_layer_idx", json!(true), "not supported"),
        ("activation_function", json!("relu"), "activation_function \"relu\" is not supported"),
        ("n_head", json!(7), "width 24 is not a multiple of 7 heads"),
        ("n_head", json!(0), "n_head (model.heads) is 0, expected at least 1"),
        ("resid_pdrop", json!(1.0), "resid_pdrop is 1, expected 0 <= probability < 1"),
        ("layer_norm_epsilon", json!(0.0), "layer_norm_epsilon is 0, expected a positive number"),
    ] {
        let mut dir = Directory::new();
        dir.config[key] = value;
        let message = dir.error();
        assert!(message.starts_with("config.json: ") && message.contains(problem), "{key}: {message}");
    }
}

#[test]
fn a_run_directory_stands_for_its_best_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    let message = huggingface::resolve(run.path()).unwrap_err().to_string();
    assert!(message.contains("is not a model: it holds neither config.json nor a run's checkpoints"));
    for step in ["step-000010", "step-000020"] {
        let dir = run.path().join("checkpoints").join(step);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.json"), "{}").unwrap();
    }
    let resolved = || huggingface::resolve(run.path()).unwrap();
    fs::write(run.path().join("latest"), "step-000020\n").unwrap();
    assert!(resolved().ends_with("checkpoints/step-000020"));
    fs::write(run.path().join("best"), "step-000010\n").unwrap();
    assert!(resolved().ends_with("checkpoints/step-000010"));
    assert_eq!(huggingface::resolve(&resolved()).unwrap(), resolved());
    fs::write(run.path().join("best"), "step-000015\n").unwrap();
    assert!(resolved().ends_with("checkpoints/step-000020"));
}
