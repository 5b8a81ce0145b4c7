//! Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2): gradients are computed of
//! loss * scale, so that small ones do not vanish in half precision; a step whose gradients overflow is skipped.
//!
//! The new state is a function of the old one and of one bit, whether the gradients were finite, and of nothing else:
//! whatever computes the step, host or device, can keep it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the scale moves: the `loss_scale*` keys of `[optimizer]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// The first scale.
    pub initial: f64,
    /// Factor on the scale after [`LossScaling::growth_interval`] clean steps; 1 for a scale that only falls.
    pub growth: f64,
    /// Steps without overflow, since the scale last moved, after which it grows.
    pub growth_interval: u64,
    /// Factor on the scale after an overflow.
    pub backoff: f64,
    /// The scale falls no further than this, and grows no further than [`LossScaling::max`].
    pub min: f64,
    pub max: f64,
}

impl Default for LossScaling {
    fn default() -> Self {
        LossScaling {
            initial: 65536.0, // 2^16
            growth: 2.0,
            growth_interval: 2000,
            backoff: 0.5,
            min: 1.0,
            max: 16_777_216.0, // 2^24
        }
    }
}

impl LossScaling {
    /// # Errors
    /// [`Error::Config`] naming the key of `[optimizer]` that cannot be.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, got: String, expected: &str| {
            Err(Error::Config(format!("optimizer.loss_scale{key} is {got}, expected {expected}")))
        };
        // The scale is an f32 on its way into the backward pass.
        let is_scale = |x: f64| x > 0.0 && x <= f64::from(f32::MAX);
        for (key, value) in [("", self.initial), ("_min", self.min), ("_max", self.max)] {
            if !is_scale(value) {
                return fail(key, value.to_string(), "a positive number that f32 holds");
            }
        }
        if !(self.growth >= 1.0 && self.growth.is_finite()) {
            return fail("_growth", self.growth.to_string(), "1 or more");
        }
        if !(self.backoff > 0.0 && self.backoff < 1.0) {
            return fail("_backoff", self.backoff.to_string(), "0 < factor < 1");
        }
        if self.growth_interval == 0 {
            return fail("_growth_interval", "0".into(), "at least 1 step");
        }
        if !(self.min <= self.initial && self.initial <= self.max) {
            let range = format!("loss_scale_min {} to loss_scale_max {}", self.min, self.max);
            return fail("", self.initial.to_string(), &range);
        }
        Ok(())
    }

    /// The state a run begins with.
    pub fn start(&self) -> LossScaler {
        LossScaler { scale: self.initial, clean_steps: 0, skipped_steps: 0 }
    }
}

/// The scale and its history. Part of every checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaler {
    pub scale: f64,
    /// Steps without overflow since the scale last changed.
    pub clean_steps: u64,
    /// Steps skipped so far.
    pub skipped_steps: u64,
}

impl Default for LossScaler {
    fn default() -> Self {
        LossScaling::default().start()
    }
}

impl LossScaler {
    /// The state after a step. `finite` says whether the step's gradients were: one whose gradients were not is skipped.
    #[must_use]
    pub fn after(self, rules: &LossScaling, finite: bool) -> LossScaler {
        if !finite {
            return LossScaler {
                scale: (self.scale * rules.backoff).max(rules.min),
                clean_steps: 0,
                skipped_steps: self.skipped_steps + 1,
            };
        }
        let clean_steps = self.clean_steps + 1;
        // A resumed run may have been given a shorter interval than it has clean steps.
        if clean_steps >= rules.growth_interval {
            return LossScaler { scale: (self.scale * rules.growth).min(rules.max), clean_steps: 0, ..self };
        }
        LossScaler { clean_steps, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(scale: f64, clean_steps: u64, skipped_steps: u64) -> LossScaler {
        LossScaler { scale, clean_steps, skipped_steps }
    }

    #[test]
    fn backs_off_at_overflow_and_grows_after_clean_steps() {
        let rules = LossScaling::default();
        let mut scaler = rules.start().after(&rules, false);
        assert_eq!(scaler, state(32768.0, 0, 1));
        for clean in 1..2000 {
            scaler = scaler.after(&rules, true);
            assert_eq!(scaler, state(32768.0, clean, 1));
        }
        scaler = scaler.after(&rules, true);
        assert_eq!(scaler, state(65536.0, 0, 1));
        // An overflow forgets the clean steps before it.
        scaler = scaler.after(&rules, true).after(&rules, false);
        assert_eq!(scaler, state(32768.0, 0, 2));
    }

    #[test]
    fn the_scale_stays_between_floor_and_ceiling() {
        let rules = LossScaling { min: 3.0, max: 100.0, growth_interval: 1, ..LossScaling::default() };
        assert_eq!(state(5.0, 0, 0).after(&rules, false), state(3.0, 0, 1));
        assert_eq!(state(3.0, 0, 1).after(&rules, false), state(3.0, 0, 2));
        assert_eq!(state(60.0, 0, 2).after(&rules, true), state(100.0, 0, 2));
        assert_eq!(state(100.0, 0, 2).after(&rules, true), state(100.0, 0, 2));
    }

    #[test]
    fn every_rule_is_obeyed() {
        let rules = LossScaling { growth: 4.0, growth_interval: 3, backoff: 0.25, ..LossScaling::default() };
        assert_eq!(state(64.0, 2, 0).after(&rules, true), state(256.0, 0, 0));
        assert_eq!(state(64.0, 1, 0).after(&rules, true), state(64.0, 2, 0));
        assert_eq!(state(64.0, 2, 0).after(&rules, false), state(16.0, 0, 1));
        // More clean steps than the interval, as after a change of the configuration.
        assert_eq!(state(64.0, 9, 0).after(&rules, true), state(256.0, 0, 0));
    }
}
