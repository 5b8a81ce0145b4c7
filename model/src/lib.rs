//! Models, objectives, data and training.

pub mod data;
pub mod tokenizer;
