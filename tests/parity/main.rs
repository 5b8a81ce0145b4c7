//! GPT-2 as Handloom computes it against what PyTorch computed (`tests/goldens`), and against itself.

mod generation;
mod loading;
mod model;
mod run;
mod training;
