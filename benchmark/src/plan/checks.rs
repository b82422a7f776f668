//! Contradictions within a plan, found before anything is written.

use std::collections::BTreeSet;

use scrl_core::models::ResNetConfig;
use scrl_pretrain::MethodKind;

use super::lengths::length_name;
use super::load::{Arm, Reader, TransferArm};
use super::{DataPlan, PretrainImages};
use crate::error::Result;

impl Reader<'_> {
    pub(super) fn check_data(&self, arms: &[Arm], transfers: &[TransferArm]) -> Result<()> {
        let DataPlan::Folders(folders) = &self.plan.data else { return Ok(()) };
        let uses = |wanted: fn(MethodKind) -> bool| arms.iter().find(|arm| arm.method().is_some_and(wanted));
        let classes = self.plan.pretrain_images == PretrainImages::Classes;
        let needs_classes = uses(|m| m.facts().needs_labels)
            .or_else(|| uses(|m| !m.facts().needs_labels).filter(|_| classes));
        if let (Some(arm), None) = (needs_classes, &folders.classes) {
            let message = format!("init `{}` needs `classes`, a folder of class folders; add it", arm.name);
            return Err(self.invalid("data.folders", message));
        }
        let unlabelled = uses(|m| !m.facts().needs_labels).filter(|_| !classes);
        if let (Some(arm), true) = (unlabelled, folders.unlabelled.is_empty()) {
            let message = format!("init `{}` needs `unlabelled`, a list of image folders; add it", arm.name);
            return Err(self.invalid("data.folders", message));
        }
        let complete = |t: &TransferArm| t.settings.data.train.is_some() && t.settings.data.val.is_some();
        match transfers.iter().find(|t| t.data.is_none() && !complete(t)) {
            Some(transfer) if folders.detection.is_none() => {
                let message = format!(
                    "the fine-tuning `{}` needs `detection`, a COCO or VOC folder; add it",
                    transfer.name
                );
                Err(self.invalid("data.folders", message))
            }
            _ => Ok(()),
        }
    }

    /// A backbone of another size would be refused after hours of pretraining.
    pub(super) fn check_networks(&self, arms: &[Arm], transfers: &[TransferArm]) -> Result<()> {
        let name = |config: ResNetConfig| format!("{} of width {}", config.arch, config.width);
        for (arm, settings) in arms.iter().filter_map(|arm| Some((arm, arm.recipe()?))) {
            for transfer in transfers {
                let (found, expected) = (settings.model, transfer.settings.model.resnet());
                if (found.arch, found.stem_channels()) != (expected.arch, expected.stem_channels()) {
                    let message = format!(
                        "it pretrains a {}, `{}` fine-tunes a {}; set model.arch and model.width alike (model.backbone.arch and model.backbone.width in a recipe of fine-tuning)",
                        name(found),
                        transfer.name,
                        name(expected)
                    );
                    return Err(self.invalid(&format!("pretrain.{}", arm.name), message));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_report_and_budget(&self, arms: &[Arm]) -> Result<()> {
        let plan = self.plan;
        if let Some(subject) = &plan.report.subject
            && !plan.inits.contains(subject)
        {
            return Err(
                self.invalid("report.subject", format!("`{subject}` is none of `inits`; name one of them"))
            );
        }
        match (plan.budget, &plan.budget_reference) {
            (None, Some(_)) => Err(self.invalid(
                "budget_reference",
                "it has no effect without `budget`; add budget = \"steps\" or remove it",
            )),
            (Some(_), Some(name)) => self.check_pretrained("budget_reference", name, arms),
            _ => Ok(()),
        }
    }

    fn check_pretrained(&self, key: &str, name: &str, arms: &[Arm]) -> Result<()> {
        if arms.iter().any(|arm| arm.name == name && arm.recipe().is_some()) {
            return Ok(());
        }
        let message = format!("`{name}` is not a pretrained initialisation of `inits`; name one that is");
        Err(self.invalid(key, message))
    }

    pub(super) fn check_lengths(&self, arms: &[Arm], transfers: &[TransferArm]) -> Result<()> {
        let Some(lengths) = &self.plan.lengths else { return Ok(()) };
        if lengths.inits.is_empty() || lengths.epochs.is_empty() || lengths.epochs.contains(&0) {
            let message = "it needs at least one of `inits` and of `epochs`, and epochs above zero";
            return Err(self.invalid("lengths", message));
        }
        if lengths.epochs.iter().collect::<BTreeSet<_>>().len() < lengths.epochs.len() {
            return Err(self.invalid("lengths.epochs", "a length is named twice; leave one out"));
        }
        for name in &lengths.inits {
            self.check_pretrained("lengths.inits", name, arms)?;
        }
        let taken =
            lengths.inits.iter().flat_map(|init| lengths.epochs.iter().map(|e| length_name(init, *e)));
        if let Some(name) = taken.into_iter().find(|name| self.plan.inits.contains(name)) {
            return Err(
                self.invalid("inits", format!("`{name}` is a name that [lengths] uses; rename the entry"))
            );
        }
        let names = || transfers.iter().map(|t| format!("`{}`", t.name)).collect::<Vec<_>>().join(", ");
        let transfer = match &lengths.transfer {
            None => &transfers[0],
            Some(name) => transfers.iter().find(|t| t.name == *name).ok_or_else(|| {
                self.invalid("lengths.transfer", format!("the plan has no `{name}`; name one of {}", names()))
            })?,
        };
        if !transfer.fractions.contains(&lengths.label_fraction) {
            let message = format!(
                "{} is none of the label fractions of `{}`, {:?}; the curve needs the full length at the same one",
                lengths.label_fraction, transfer.name, transfer.fractions
            );
            return Err(self.invalid("lengths.label_fraction", message));
        }
        Ok(())
    }

    pub(super) fn check_sweep(&self) -> Result<()> {
        let Some(sweep) = &self.plan.sweep else { return Ok(()) };
        if sweep.base_lr.is_empty() && sweep.transfer_lr.is_empty() {
            return Err(self.invalid("sweep", "it tries nothing; give base_lr or transfer_lr, or remove it"));
        }
        if sweep.base_lr.iter().chain(&sweep.transfer_lr).any(|lr| !(lr.is_finite() && *lr > 0.0)) {
            return Err(self.invalid("sweep", "learning rates must be positive numbers"));
        }
        if !(sweep.holdout > 0.0 && sweep.holdout <= 0.5) {
            return Err(
                self.invalid("sweep.holdout", format!("{} is not above 0 and at most 0.5", sweep.holdout))
            );
        }
        Ok(())
    }
}
