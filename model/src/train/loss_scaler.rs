//! Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2): gradients are computed of
//! loss * scale, so that small ones do not vanish in half precision; a step whose gradients overflow is skipped.

use serde::{Deserialize, Serialize};

/// The scale and its history. Part of every checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaler {
    pub scale: f64,
    /// Steps without overflow since the scale last changed.
    pub clean_steps: u64,
    /// Steps skipped so far.
    pub skipped_steps: u64,
}

/// Clean steps after which the scale doubles.
const GROWTH_INTERVAL: u64 = 2000;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const LIMITS: (f64, f64) = (1.0, 16_777_216.0);

impl Default for LossScaler {
    fn default() -> Self {
        LossScaler { scale: 65536.0, clean_steps: 0, skipped_steps: 0 }
    }
}

impl LossScaler {
    /// Takes note of a step; `finite` says whether its gradients were. Returns whether the step counts.
    pub fn update(&mut self, finite: bool) -> bool {
        if !finite {
            self.scale = (self.scale * BACKOFF).max(LIMITS.0);
            self.clean_steps = 0;
            self.skipped_steps += 1;
            return false;
        }
        self.clean_steps += 1;
        if self.clean_steps == GROWTH_INTERVAL {
            self.scale = (self.scale * GROWTH).min(LIMITS.1);
            self.clean_steps = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_at_overflow_and_grows_after_clean_steps() {
        let mut scaler = LossScaler::default();
        assert!(!scaler.update(false));
        assert_eq!((scaler.scale, scaler.skipped_steps), (32768.0, 1));
        for _ in 0..1999 {
            assert!(scaler.update(true));
        }
        assert_eq!(scaler.scale, 32768.0);
        scaler.update(true);
        assert_eq!((scaler.scale, scaler.clean_steps), (65536.0, 0));
        (0..100).for_each(|_| {
            scaler.update(false);
        });
        assert_eq!(scaler.scale, 1.0);
    }
}
