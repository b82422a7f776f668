//! Pretrainings of equal length: passes over the images, updates, or multiplications.

use crate::error::{Context, Result, ensure};
use scrl_pretrain::{MethodKind, PretrainConfig};

use super::plan::{Arm, BenchmarkPlan, Budget, PretrainImages, ResolvedPlan, Source};

/// Images that there are to pretrain on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageCounts {
    /// Images for pretraining, without labels.
    pub unlabelled: usize,
    /// In class folders.
    pub classes: usize,
}

impl ImageCounts {
    /// What a method sees.
    pub fn of(self, method: MethodKind, images: PretrainImages) -> usize {
        match method.facts().needs_labels || images == PretrainImages::Classes {
            true => self.classes,
            false => self.unlabelled,
        }
    }
}

/// How long a pretraining is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Length {
    /// Passes over the images.
    pub epochs: u64,
    /// Optimiser updates.
    pub steps: u64,
    /// Images, each counted as often as it is seen.
    pub images: u64,
    /// Forward passes of one view of 224² pixels that cost as much, heads apart; a backward pass counts as two.
    pub passes: f64,
}

impl Length {
    /// Of a recipe on so many images.
    pub fn of(settings: &PretrainConfig, images: usize) -> Self {
        let schedule = &settings.schedule;
        let steps = schedule.epochs * (images / schedule.batch_size.max(1)) as u64;
        let seen = steps * schedule.batch_size as u64;
        Self {
            epochs: schedule.epochs,
            steps,
            images: seen,
            passes: seen as f64 * passes_per_image(settings),
        }
    }
}

/// Views through the trained network, forward and backward, and through the momentum network. Stages behind the
/// pooled level are not computed.
fn passes_per_image(settings: &PretrainConfig) -> f64 {
    let stages = settings.model.multiplications(224);
    let computed: u64 = stages[..settings.level().index() + 2].iter().sum();
    let share = computed as f64 / stages.iter().sum::<u64>() as f64;
    let facts = settings.method.facts();
    let momentum_views = facts.momentum_network.map_or(0, |network| network.views);
    let passes = facts.online_views as f64 * 3.0 + momentum_views as f64;
    share * passes * (f64::from(settings.augment.view_size) / 224.0).powi(2)
}

/// The arms with the number of epochs that the plan's budget gives them.
///
/// # Errors
/// When an arm has fewer images than a batch.
pub fn equalise(plan: &ResolvedPlan, counts: ImageCounts) -> Result<Vec<Arm>> {
    let BenchmarkPlan { budget, budget_reference, pretrain_images, .. } = &plan.plan;
    let images = |settings: &PretrainConfig| counts.of(settings.method, *pretrain_images);
    for arm in &plan.arms {
        let Some(settings) = arm.recipe() else { continue };
        let (found, batch) = (images(settings), settings.schedule.batch_size);
        ensure!(
            found >= batch,
            "init `{}` has {found} images, fewer than its batch of {batch}; lower schedule.batch_size or add images",
            arm.name
        );
    }
    let Some(budget) = budget else { return Ok(plan.arms.clone()) };
    let Some(reference) = reference(plan, budget_reference.as_deref()) else { return Ok(plan.arms.clone()) };
    let target = Length::of(reference, images(reference));
    let fit = |arm: &Arm| {
        let Source::Pretrained(settings) = &arm.source else { return arm.clone() };
        let one = Length::of(&with_epochs(settings, 1), images(settings));
        let epochs = match budget {
            Budget::Epochs => target.epochs as f64,
            Budget::Steps => target.steps as f64 / one.steps as f64,
            Budget::Compute => target.passes / one.passes,
        };
        let settings = with_epochs(settings, (epochs.round() as u64).max(1));
        Arm { source: Source::Pretrained(Box::new(settings)), ..arm.clone() }
    };
    Ok(plan.arms.iter().map(fit).collect())
}

fn reference<'a>(plan: &'a ResolvedPlan, name: Option<&str>) -> Option<&'a PretrainConfig> {
    let named = |name: &str| plan.arms.iter().find(|arm| arm.name == name)?.recipe();
    name.map_or_else(|| named("scrl").or_else(|| plan.arms.iter().find_map(Arm::recipe)), named)
}

/// Another length with warm-up as the same share of it.
pub(crate) fn with_epochs(settings: &PretrainConfig, epochs: u64) -> PretrainConfig {
    let mut changed = settings.clone();
    changed.schedule.warmup_epochs *= epochs as f64 / settings.schedule.epochs as f64;
    changed.schedule.epochs = epochs;
    changed
}

/// Where pretrainings differ from the subject's in what should be equal, in plain words; empty if nothing does.
pub fn unfairness(arms: &[Arm], subject: &str, counts: ImageCounts, images: PretrainImages) -> Vec<String> {
    let recipes: Vec<_> = arms.iter().filter_map(|arm| Some((arm.name.as_str(), arm.recipe()?))).collect();
    let subject = recipes.iter().find(|(name, _)| *name == subject).or(recipes.first());
    let Some(&(first, reference)) = subject else { return Vec::new() };
    let rest = recipes.iter().filter(|(name, _)| *name != first);
    let mut lines = Vec::new();
    let count = |settings: &PretrainConfig| counts.of(settings.method, images);
    let other_set = |settings: &PretrainConfig| {
        images == PretrainImages::Unlabelled
            && settings.method.facts().needs_labels != reference.method.facts().needs_labels
    };
    for (name, settings) in rest {
        let (a, b) = (Length::of(reference, count(reference)), Length::of(settings, count(settings)));
        if other_set(settings) {
            lines.push(format!(
                "{name} sees {} images of the class folders, {first} {} unlabelled ones",
                count(settings),
                count(reference)
            ));
        }
        if a.steps != b.steps {
            lines.push(format!("{name} makes {} updates, {first} {}", b.steps, a.steps));
        }
        let ratio = b.passes / a.passes;
        if !(0.95..=1.05).contains(&ratio) {
            lines.push(format!("{name} computes {ratio:.2} times as much as {first} (heads not counted)"));
        }
        if settings.augment.view_size != reference.augment.view_size {
            let (ours, theirs) = (settings.augment.view_size, reference.augment.view_size);
            lines.push(format!("{name} sees views of {ours} pixels, {first} of {theirs}"));
        }
        if settings.schedule.batch_size != reference.schedule.batch_size {
            let (ours, theirs) = (settings.schedule.batch_size, reference.schedule.batch_size);
            lines.push(format!("{name} takes batches of {ours}, {first} of {theirs}"));
        }
    }
    lines
}

/// The values that the length of a run does not follow from.
pub fn describe(budget: Option<Budget>) -> &'static str {
    match budget {
        None => "each pretraining goes by its recipe",
        Some(Budget::Epochs) => "equal passes over the images",
        Some(Budget::Steps) => "equal numbers of updates, to whole epochs",
        Some(Budget::Compute) => "equal computation in the backbones, to whole epochs",
    }
}

/// # Errors
/// When a folder of the plan cannot be read.
pub fn count(unlabelled: &[std::path::PathBuf], classes: Option<&std::path::Path>) -> Result<ImageCounts> {
    use scrl_core::data::image_folder::ImageFolder;
    let size = |roots: &[std::path::PathBuf]| -> Result<usize> {
        if roots.is_empty() {
            Ok(0)
        } else {
            Ok(ImageFolder::scan(roots).context("pretraining images")?.samples.len())
        }
    };
    Ok(ImageCounts {
        unlabelled: size(unlabelled)?,
        classes: size(&classes.map(|path| path.to_path_buf()).into_iter().collect::<Vec<_>>())?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// 400 unlabelled images and 200 of classes; supervised in batches of 10, the others of 20.
    const COUNTS: ImageCounts = ImageCounts { unlabelled: 400, classes: 200 };

    fn plan(budget: &str) -> ResolvedPlan {
        let folder = tempfile::tempdir().unwrap();
        for (method, batch) in [("scrl", 20), ("byol", 20), ("supervised", 10)] {
            let epochs = if method == "scrl" { 6 } else { 4 };
            let recipe = format!(
                "method = \"{method}\"\nmodel = {{ arch = \"resnet18\" }}\n[schedule]\nepochs = {epochs}\n\
                 batch_size = {batch}\nbase_lr = 0.4\nwarmup_epochs = 2\n"
            );
            fs::write(folder.path().join(format!("{method}.toml")), recipe).unwrap();
        }
        fs::write(folder.path().join("transfer.toml"), "[model]\narch = \"resnet18\"\n").unwrap();
        let text = format!(
            "inits = [\"supervised\", \"byol\", \"scrl\"]\nlabel_fractions = [1.0]\nseeds = [0]\n{budget}\
             transfer = \"transfer.toml\"\n[pretrain]\nsupervised = \"supervised.toml\"\nbyol = \"byol.toml\"\n\
             scrl = \"scrl.toml\"\n[data.folders]\nunlabelled = [\"a\"]\nclasses = \"b\"\ndetection = \"c\"\n"
        );
        let path = folder.path().join("plan.toml");
        fs::write(&path, text).unwrap();
        ResolvedPlan::load(&path, &[]).unwrap()
    }

    /// Epochs and warm-up of supervised, BYOL and SCRL.
    fn schedules(budget: &str) -> Vec<(u64, f64)> {
        let arms = equalise(&plan(budget), COUNTS).unwrap();
        let schedule = |arm: &Arm| arm.recipe().map(|s| (s.schedule.epochs, s.schedule.warmup_epochs));
        arms.iter().filter_map(schedule).collect()
    }

    #[test]
    fn without_a_budget_each_goes_by_its_recipe() {
        assert_eq!(schedules(""), [(4, 2.0), (4, 2.0), (6, 2.0)]);
    }

    #[test]
    fn equal_epochs_updates_and_computation_follow_the_reference_and_warm_up_keeps_its_share() {
        assert_eq!(schedules("budget = \"epochs\"\n"), [(6, 3.0), (6, 3.0), (6, 2.0)]);
        // SCRL makes 6 · 20 updates; an epoch of supervised has 20, of BYOL 20.
        assert_eq!(schedules("budget = \"steps\"\n"), [(6, 3.0), (6, 3.0), (6, 2.0)]);
        // Of SCRL 6 · 400 · 8 passes, of supervised 200 · 3 an epoch.
        assert_eq!(schedules("budget = \"compute\"\n"), [(32, 16.0), (6, 3.0), (6, 2.0)]);
        let byol = "budget = \"steps\"\nbudget_reference = \"byol\"\n";
        assert_eq!(schedules(byol), [(4, 2.0), (4, 2.0), (4, 2.0 * 4.0 / 6.0)]);
    }

    #[test]
    fn stages_behind_the_pooled_one_cost_nothing() {
        let mut settings = plan("").arms.pop().and_then(|arm| arm.recipe().cloned()).unwrap();
        assert_eq!(passes_per_image(&settings), 8.0);
        settings.heads.pool_level = scrl_pretrain::config::PoolLevel::C4;
        // The last stage makes 411 of ResNet-18's 1,814 million multiplications.
        assert!((passes_per_image(&settings) - 8.0 * (1.0 - 411.041792 / 1813.561344)).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_alike_is_named_against_the_subject() {
        let plan = plan("budget = \"steps\"\n");
        let arms = equalise(&plan, COUNTS).unwrap();
        let lines = unfairness(&arms, plan.subject(), COUNTS, PretrainImages::Unlabelled);
        assert_eq!(
            lines,
            [
                "supervised sees 200 images of the class folders, scrl 400 unlabelled ones",
                "supervised computes 0.19 times as much as scrl (heads not counted)",
                "supervised takes batches of 10, scrl of 20",
            ]
        );
    }

    #[test]
    fn fewer_images_than_a_batch_are_refused_with_the_fix() {
        let few = ImageCounts { unlabelled: 15, classes: 200 };
        let error = equalise(&plan(""), few).unwrap_err().to_string();
        assert!(error.contains("`byol` has 15 images") && error.contains("schedule.batch_size"), "{error}");
    }
}
