//! Learning-rate schedules: pure functions of the step, so that a resumed run continues exactly.
//!
//! A step is one optimiser update, counted from 0.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Linear warm-up, then a half cosine down to `min_lr`.
///
/// For `step < warmup_steps` the rate is `base_lr · (f + (1 − f) · step / warmup_steps)` with
/// `f = warmup_start_factor`: with 0, the first update of a warmed-up run has rate 0 and update `warmup_steps` the
/// full one. After that, with `p` the share of the remaining steps that is done,
/// `min_lr + (base_lr − min_lr) · (1 + cos(π·p)) / 2`; from `total_steps` on it stays at `min_lr`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupCosine {
    /// Rate at the end of the warm-up.
    pub base_lr: f64,
    /// Length of the warm-up in steps; 0 for none.
    pub warmup_steps: u64,
    /// Length of the run in steps, warm-up included.
    pub total_steps: u64,
    /// Rate at the end of the run.
    pub min_lr: f64,
    /// Rate at step 0 as a factor of `base_lr`.
    pub warmup_start_factor: f64,
}

impl WarmupCosine {
    /// The rate of the update with this number.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base_lr * warmup(self.warmup_start_factor, step, self.warmup_steps);
        }
        let remaining = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / remaining).min(1.0);
        self.min_lr + (self.base_lr - self.min_lr) * (1.0 + (PI * done).cos()) / 2.0
    }
}

/// Linear warm-up and a factor `gamma` at each milestone: detectron2's `WarmupMultiStepLR`.
///
/// The milestones are absolute steps, the warm-up multiplies whatever rate they leave, and a milestone's own
/// step has the reduced rate already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupMultiStep {
    /// Rate between warm-up and first milestone.
    pub base_lr: f64,
    /// Length of the warm-up in steps; 0 for none.
    pub warmup_steps: u64,
    /// Rate at step 0 as a factor of `base_lr`; detectron2's recipes use 1/1000.
    pub warmup_factor: f64,
    /// Steps at which the rate falls, ascending.
    pub milestones: Vec<u64>,
    /// Factor at each milestone, usually 0.1.
    pub gamma: f64,
}

impl WarmupMultiStep {
    /// The rate of the update with this number.
    pub fn lr(&self, step: u64) -> f64 {
        let passed = self.milestones.iter().filter(|&&milestone| milestone <= step).count();
        let warmup =
            if step < self.warmup_steps { warmup(self.warmup_factor, step, self.warmup_steps) } else { 1.0 };
        self.base_lr * warmup * self.gamma.powi(passed as i32)
    }
}

/// Linear from `start` at step 0 to 1 at `steps`.
fn warmup(start: f64, step: u64, steps: u64) -> f64 {
    let done = step as f64 / steps as f64;
    start * (1.0 - done) + done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn cosine_warms_up_from_zero_and_ends_at_the_minimum() {
        let schedule = WarmupCosine {
            base_lr: 0.4,
            warmup_steps: 10,
            total_steps: 110,
            min_lr: 0.1,
            warmup_start_factor: 0.0,
        };
        for (step, lr) in [(0, 0.0), (5, 0.2), (10, 0.4), (60, 0.25), (110, 0.1), (500, 0.1)] {
            assert_close(schedule.lr(step), lr);
        }
        assert_close(schedule.lr(35), 0.1 + 0.3 * (1.0 + (PI / 4.0).cos()) / 2.0);
    }

    #[test]
    fn cosine_without_warm_up_starts_at_the_base_rate() {
        let schedule = WarmupCosine {
            base_lr: 0.4,
            warmup_steps: 0,
            total_steps: 10,
            min_lr: 0.0,
            warmup_start_factor: 0.0,
        };
        assert_close(schedule.lr(0), 0.4);
        assert_close(schedule.lr(5), 0.2);
    }

    #[test]
    fn a_run_of_warm_up_alone_never_divides_by_zero() {
        let schedule = WarmupCosine {
            base_lr: 1.0,
            warmup_steps: 5,
            total_steps: 5,
            min_lr: 0.0,
            warmup_start_factor: 0.2,
        };
        assert_close(schedule.lr(0), 0.2);
        assert_close(schedule.lr(4), 0.84);
        assert!(schedule.lr(5).is_finite());
    }

    #[test]
    fn multi_step_follows_detectron2() {
        let schedule = WarmupMultiStep {
            base_lr: 0.02,
            warmup_steps: 1000,
            warmup_factor: 1.0 / 1000.0,
            milestones: vec![60_000, 80_000],
            gamma: 0.1,
        };
        let half = 0.02 * (0.001 * 0.5 + 0.5);
        let expected = [
            (0, 2e-5),
            (500, half),
            (1000, 0.02),
            (59_999, 0.02),
            (60_000, 2e-3),
            (80_000, 2e-4),
            (90_000, 2e-4),
        ];
        for (step, lr) in expected {
            assert_close(schedule.lr(step), lr);
        }
    }
}
