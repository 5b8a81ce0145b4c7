//! Models, objectives, data and training.
//!
//! A run goes: [`config::RunConfig`] -> [`tokenizer::Tokenizer`] and [`data::Blocks`] -> [`model::LanguageModel`] ->
//! [`train::Trainer`] -> [`train::checkpoint`]; afterwards [`eval`] and [`generate`] work on a model directory
//! ([`huggingface`]).

pub mod bert;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod fill;
pub mod generate;
pub mod gpt2;
pub mod huggingface;
pub mod layers;
pub mod model;
pub mod objective;
pub mod params;
pub mod tokenizer;
pub mod train;
