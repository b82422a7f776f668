//! Learning rate and target momentum over a run.

use scrl_core::solver::{Compat, WarmupCosine};

use crate::config::PretrainConfig;
use crate::ema;
use crate::methods::{MomentumSchedule, StepSettings};
use crate::probe::online_lr;

/// What the settings of a step follow from; a step is one update, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Updates of the whole run.
    pub total_steps: u64,
    /// Learning rate: linear from 0, then a cosine to 0.
    pub lr: WarmupCosine,
    /// Whether the method has a target network.
    pub has_target: bool,
    /// Target momentum at step 0.
    ema_base: f64,
    /// How it goes on; none without a target network.
    momentum: Option<MomentumSchedule>,
    /// Learning rate of an online probe: as the other, to its own height.
    probe: WarmupCosine,
    /// Steps by which the learning rate runs ahead of its formula.
    lead: u64,
}

impl Schedule {
    /// The schedule of a run whose epochs have this many batches.
    pub fn new(settings: &PretrainConfig, batches_per_epoch: usize) -> Self {
        let total_steps = settings.schedule.epochs * batches_per_epoch as u64;
        let lr = WarmupCosine {
            base_lr: settings.effective_lr(),
            warmup_steps: (settings.schedule.warmup_epochs * batches_per_epoch as f64).round() as u64,
            total_steps,
            min_lr: 0.0,
            warmup_start_factor: 0.0,
        };
        // `trainer/trainer.py::SCRLTrainer.run` advances the schedule before each update.
        let probe = WarmupCosine { base_lr: online_lr(settings), ..lr };
        let lead = u64::from(settings.compat == Compat::Official);
        let momentum = settings.method.facts().momentum_network.map(|network| network.schedule);
        Self {
            total_steps,
            lr,
            has_target: momentum.is_some(),
            ema_base: settings.ema.base,
            momentum,
            probe,
            lead,
        }
    }

    /// The settings of the update with this number.
    pub fn settings(&self, step: u64) -> StepSettings {
        let ema_momentum = match self.momentum {
            Some(MomentumSchedule::RisingToOne) => ema::momentum(self.ema_base, step, self.total_steps),
            Some(MomentumSchedule::Constant) => self.ema_base,
            None => 1.0,
        };
        StepSettings { lr: self.lr.lr(step + self.lead), ema_momentum }
    }

    /// Whether a `train` event follows when so many updates are done: every `interval` of them, and the last.
    pub fn is_logged(&self, updates: u64, interval: u64) -> bool {
        updates.is_multiple_of(interval) || updates == self.total_steps
    }

    /// The learning rate of an online probe at the update with this number.
    pub fn probe_lr(&self, step: u64) -> f64 {
        self.probe.lr(step + self.lead)
    }
}
