//! GPT-2 as Handloom computes it against what PyTorch computed (`tests/goldens`), and against itself.

mod generation;
mod loading;
mod loss_scaling;
mod model;
mod run;
mod training;
