//! Every op against its card: f64 reference, finite differences, accumulation, bit-identical repeats; then what cards do
//! not say: error messages, properties, the tape, the optimizer.

mod cards;
mod errors;
mod goldens;
mod optimizer;
mod properties;
mod tape;
