//! What each init was made with, and the rates that were tried.

use scrl_transfer::Protocol;

use super::{Finished, points};
use crate::budget::{self, Length};
use crate::graph::percent;
use crate::plan::Source;
use scrl_figures::document::{Block, Table};

/// Each init with what its pretraining was, and where that is not the same for all.
pub fn arms(finished: &Finished) -> Vec<Block> {
    let plan = &finished.plan.plan;
    let mut table = Table::new(&[
        "init",
        "starts from",
        "images",
        "epochs",
        "updates",
        "batch",
        "learning rate",
        "views seen",
        "passes at 224 px",
        "settings",
    ]);
    for arm in finished.arms {
        let none = || "–".to_string();
        let Some(settings) = arm.recipe() else {
            let start = match &arm.source {
                Source::Weights(path) => format!("`{}`", path.display()),
                _ => "nothing".into(),
            };
            table.row([arm.name.clone(), start].into_iter().chain((0..8).map(|_| none())));
            continue;
        };
        let images = finished.counts.of(settings.method, plan.pretrain_images);
        let length = Length::of(settings, images);
        let record = finished.results.pretrain.iter().find(|r| r.init == arm.name);
        let views = settings.method.facts().views as u64;
        table.row([
            arm.name.clone(),
            format!("{} of {}", settings.method.name(), settings.model.arch),
            images.to_string(),
            length.epochs.to_string(),
            length.steps.to_string(),
            settings.schedule.batch_size.to_string(),
            record.map_or(none(), |r| format!("{:.4}", r.record.learning_rate)),
            (views * length.images).to_string(),
            format!("{:.0}", length.passes),
            record.map_or(none(), |r| format!("`{}`", &r.settings[..10])),
        ]);
    }
    let mut blocks = vec![
        Block::Paragraph(format!(
            "Length: {}. Warm-up, then a cosine to zero, for all. Passes are forward passes of one image of 224 pixels that \
             cost as much as the pretraining's backbones (a backward pass counts as two; heads are left out). Settings are \
             the start of the hash of everything that a result depends on.",
            budget::describe(plan.budget)
        )),
        Block::Table(table),
    ];
    let unequal =
        budget::unfairness(finished.arms, finished.plan.subject(), finished.counts, plan.pretrain_images);
    if !unequal.is_empty() {
        blocks.push(Block::Paragraph("The pretrainings are not alike in everything:".into()));
        blocks.push(Block::List(unequal));
    } else if finished.arms.iter().filter(|arm| arm.recipe().is_some()).count() > 1 {
        blocks.push(Block::Paragraph(
            "The pretrainings saw the same images, in equal batches, for equally many updates and as much computation."
                .into(),
        ));
    }
    blocks
}

/// Learning rates that were tried.
pub fn sweep(finished: &Finished) -> Vec<Block> {
    let trials = &finished.results.sweep;
    let Some(plan) = finished.plan.plan.sweep.as_ref().filter(|_| !trials.is_empty()) else {
        return Vec::new();
    };
    let mut table = Table::new(&["init", "data", "rate of", "value", "AP on held-out images", "chosen"]);
    for trial in trials {
        table.row([
            trial.init.clone(),
            trial.dataset.clone(),
            if trial.key == "base_lr" { "pretraining" } else { "fine-tuning" }.into(),
            trial.value.to_string(),
            trial.holdout_ap.map_or("failed".into(), points),
            if trial.chosen { "yes" } else { "" }.into(),
        ]);
    }
    vec![
        Block::Subheading("Learning rates".into()),
        Block::Paragraph(format!(
            "Tried on {} % of the training images, which were not trained on meanwhile, with one seed; the test images \
             took no part.",
            percent(plan.holdout)
        )),
        Block::Table(table),
    ]
}

/// Where each fine-tuning departs from its published protocol.
pub fn protocols(finished: &Finished) -> Vec<Block> {
    let mut blocks = vec![Block::Subheading("Fine-tuning".into())];
    for transfer in &finished.plan.transfers {
        let settings = &transfer.settings;
        blocks.push(Block::Paragraph(format!(
            "{}: {} iterations of {} images for every init and share of the labels, {} of width {}. It differs from \
             the protocol `{}` in:",
            transfer.name,
            settings.iterations,
            settings.batch_size,
            settings.model.backbone.arch,
            settings.model.backbone.width,
            name_of(settings.protocol)
        )));
        let differences: Vec<String> =
            settings.differences().into_iter().map(|line| line.replace('`', "'")).collect();
        blocks.push(match differences.is_empty() {
            true => Block::Paragraph("nothing.".into()),
            false => Block::List(differences),
        });
    }
    blocks
}

/// As it is written in a recipe.
fn name_of(protocol: Protocol) -> String {
    let value = serde_json::to_value(protocol).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_string()
}
