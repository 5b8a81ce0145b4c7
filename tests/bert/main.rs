//! BERT: against PyTorch's goldens (tests/goldens/bert-tiny), and what masking draws.

mod golden;
mod masking;
mod mimetic;
mod model;
mod parity;
mod training;
