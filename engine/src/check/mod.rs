//! Checks of the ops against their cards, on any device: what the tests and `handloom selftest` run.

pub mod cards;
pub mod close;
pub mod oracle;
pub mod plain;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cards::ALL;
use crate::device::Device;
use crate::dtype::DType;

/// What a walk over the cards found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Cases that ran.
    pub cases: usize,
    /// Cases whose values lie outside the dtype's range.
    pub skipped: usize,
    /// One line per failing case.
    pub failures: Vec<String>,
}

/// Runs every case of every card whose op or name `wanted` accepts, in one dtype on one device.
pub fn all(
    dtype: DType,
    device: Device,
    again: &[rayon::ThreadPool],
    wanted: impl Fn(&crate::cards::Card) -> bool,
) -> Outcome {
    let mut outcome = Outcome::default();
    for card in ALL.iter().filter(|card| wanted(card)) {
        for (index, case) in card.cases.iter().enumerate() {
            if cards::out_of_range(case, dtype) {
                outcome.skipped += 1;
                continue;
            }
            outcome.cases += 1;
            let result = catch_unwind(AssertUnwindSafe(|| cards::check(card, index, dtype, device, again)));
            if let Err(message) = result.unwrap_or_else(|_| Err("panicked".into())) {
                let (name, sizes, why) = (card.name, case.sizes, case.why);
                outcome.failures.push(format!("{name} {sizes:?} ({why}), {dtype} on {device}: {message}"));
            }
        }
    }
    outcome
}
