//! Learning-rate schedules: a warm-up, then a shape.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `[schedule]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    pub kind: ScheduleKind,
    /// Steps over which the rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Rate at the end over the peak rate.
    pub final_lr_ratio: f64,
    /// Steps of the final decay of `wsd`; a fifth of the run when absent.
    pub decay_steps: Option<u64>,
}

/// What happens after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    Constant,
    /// A straight line to the final rate.
    #[default]
    Linear,
    /// Half a cosine to the final rate (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5).
    Cosine,
    /// Constant, then a straight line at the end (warmup-stable-decay; Hu et al. 2024, arXiv:2404.06395).
    Wsd,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig { kind: ScheduleKind::Linear, warmup_steps: 0, final_lr_ratio: 0.0, decay_steps: None }
    }
}

impl ScheduleConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.final_lr_ratio) {
            return Ok(());
        }
        let message = format!("schedule.final_lr_ratio is {}, expected 0 to 1", self.final_lr_ratio);
        Err(Error::Config(message))
    }

    /// Factor on the peak rate for step `step` (0 for the first) of `steps`. As in `transformers`, the first step of a
    /// warm-up has rate 0, and step `steps` (one past the last) would have the final rate.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let after = (step - self.warmup_steps) as f64;
        let length = steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (after / length).min(1.0);
        let fall = |progress: f64| 1.0 - (1.0 - self.final_lr_ratio) * progress;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => fall(progress),
            ScheduleKind::Cosine => fall(0.5 * (1.0 - (PI * progress).cos())),
            ScheduleKind::Wsd => {
                let decay = self.decay_steps.unwrap_or(steps / 5).max(1);
                let start = steps.saturating_sub(decay).max(self.warmup_steps);
                if step < start {
                    return 1.0;
                }
                fall(((step - start) as f64 / steps.saturating_sub(start).max(1) as f64).min(1.0))
            }
        }
    }
}
