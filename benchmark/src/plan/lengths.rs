//! The inits of the curve over pretraining length.

use super::{Arm, ResolvedPlan, Source, TransferArm};
use crate::budget::with_epochs;

/// An init that is pretrained for another number of epochs.
#[derive(Clone, Debug)]
pub struct LengthArm {
    /// Name of the init that it is a shorter or longer pretraining of.
    pub of: String,
    /// `scrl-4ep`, with the settings of that length.
    pub arm: Arm,
}

/// Every init of `[lengths]` at every number of epochs that is not its own; `arms` are the plan's, with its budget.
pub fn length_arms(plan: &ResolvedPlan, arms: &[Arm]) -> Vec<LengthArm> {
    let Some(lengths) = &plan.plan.lengths else { return Vec::new() };
    let named = arms.iter().filter(|arm| lengths.inits.contains(&arm.name));
    let pretrained = named.filter_map(|arm| Some((arm, arm.recipe()?)));
    pretrained
        .flat_map(|(arm, settings)| {
            let others = lengths.epochs.iter().filter(|epochs| **epochs != settings.schedule.epochs);
            others.map(|&epochs| {
                let source = Source::Pretrained(Box::new(with_epochs(settings, epochs)));
                let name = length_name(&arm.name, epochs);
                LengthArm { of: arm.name.clone(), arm: Arm { name, source } }
            })
        })
        .collect()
}

/// Also a folder's name.
pub fn length_name(init: &str, epochs: u64) -> String {
    format!("{init}-{epochs}ep")
}

impl ResolvedPlan {
    /// The fine-tuning of `[lengths]`, with its share of the labels.
    pub fn length_transfer(&self) -> Option<(&TransferArm, f64)> {
        let lengths = self.plan.lengths.as_ref()?;
        let named = |transfer: &&TransferArm| match &lengths.transfer {
            Some(name) => transfer.name == *name,
            None => true,
        };
        Some((self.transfers.iter().find(named)?, lengths.label_fraction))
    }
}
