//! A plan with every recipe it names read, and everything checked that can be checked without the images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{BenchmarkError, Result};
use scrl_core::config::{self, ConfigError};
use scrl_core::models::Precision;
use scrl_core::models::ResNetConfig;
use scrl_pretrain::{MethodKind, PretrainConfig};
use scrl_transfer::TransferConfig;

use super::lengths::length_name;
use super::{BenchmarkPlan, DataPlan, PretrainImages, RANDOM};

/// A plan with its recipes.
pub struct ResolvedPlan {
    /// The file's content.
    pub plan: BenchmarkPlan,
    /// The plan's file.
    pub path: PathBuf,
    /// In the order of `inits`.
    pub arms: Vec<Arm>,
    /// In the order of their names.
    pub transfers: Vec<TransferArm>,
}

/// An init.
#[derive(Clone, Debug)]
pub struct Arm {
    /// The name in the plan.
    pub name: String,
    /// Where its weights come from.
    pub source: Source,
}

/// Where an init's backbone comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// No weights: all layers start at random.
    Random,
    /// A pretraining of the benchmark.
    Pretrained(Box<PretrainConfig>),
    /// A file.
    Weights(PathBuf),
}

impl Arm {
    /// The recipe of a pretrained init.
    pub fn recipe(&self) -> Option<&PretrainConfig> {
        match &self.source {
            Source::Pretrained(settings) => Some(settings),
            _ => None,
        }
    }

    /// The method of a pretrained init.
    pub fn method(&self) -> Option<MethodKind> {
        self.recipe().map(|settings| settings.method)
    }
}

/// A data set to fine-tune on.
#[derive(Clone, Debug)]
pub struct TransferArm {
    /// The name in the plan.
    pub name: String,
    /// As the recipe says; seed and subset are set for each cell.
    pub settings: TransferConfig,
    /// A COCO or VOC folder; the plan's detection data by default.
    pub data: Option<PathBuf>,
    /// In ascending order.
    pub fractions: Vec<f64>,
}

impl ResolvedPlan {
    /// Reads a plan and its recipes.
    ///
    /// # Errors
    /// Names the key that is unknown, missing or contradicts another, and what to write instead.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let plan = config::load::<BenchmarkPlan>(path, overrides)?;
        let reader = Reader { plan: &plan, path };
        reader.check_lists()?;
        let arms = plan.inits.iter().map(|name| reader.arm(name)).collect::<Result<Vec<_>>>()?;
        let transfers = reader.transfers()?;
        reader.check_data(&arms, &transfers)?;
        reader.check_networks(&arms, &transfers)?;
        reader.check_report_and_budget(&arms)?;
        reader.check_sweep()?;
        reader.check_lengths(&arms, &transfers)?;
        let precision = plan.precision;
        let resolved = Self { path: path.to_path_buf(), arms, transfers, plan };
        Ok(match precision {
            Some(precision) => resolved.compute_in(precision),
            None => resolved,
        })
    }

    /// The plan with networks that all compute with these numbers.
    pub fn compute_in(mut self, precision: Precision) -> Self {
        self.plan.precision = Some(precision);
        for arm in &mut self.arms {
            if let Source::Pretrained(settings) = &mut arm.source {
                settings.precision = precision;
            }
        }
        self.transfers.iter_mut().for_each(|transfer| transfer.settings.precision = precision);
        self
    }

    /// Whether a network computes with numbers of this precision.
    pub fn uses(&self, precision: Precision) -> bool {
        self.arms.iter().filter_map(Arm::recipe).any(|settings| settings.precision == precision)
            || self.transfers.iter().any(|transfer| transfer.settings.precision == precision)
    }

    /// The seed whose pretraining a seed's fine-tuning starts from.
    pub fn pretrain_seed(&self, seed: u64) -> u64 {
        let seeds = self.pretrain_seeds();
        let position = self.plan.seeds.iter().position(|s| *s == seed).unwrap_or(0);
        seeds[position % seeds.len()]
    }

    /// The seeds of pretrainings.
    pub fn pretrain_seeds(&self) -> &[u64] {
        let count = self.plan.pretrain_seeds.unwrap_or(self.plan.seeds.len());
        &self.plan.seeds[..count.clamp(1, self.plan.seeds.len())]
    }

    /// The init that is compared with the others.
    pub fn subject(&self) -> &str {
        let scrl = self.arms.iter().find(|arm| arm.method() == Some(MethodKind::Scrl));
        let chosen = scrl.or(self.arms.last()).map_or(RANDOM, |arm| arm.name.as_str());
        self.plan.report.subject.as_deref().unwrap_or(chosen)
    }

    /// What identifies the plan: its recipes' values, not their files.
    pub fn hash(&self) -> String {
        let recipes: Vec<_> = self.arms.iter().map(|arm| (&arm.name, arm.recipe())).collect();
        let transfers: Vec<_> =
            self.transfers.iter().map(|t| (&t.name, t.settings.fingerprint(), &t.fractions)).collect();
        let plan = &self.plan;
        config::hash(&(
            recipes,
            transfers,
            &plan.seeds,
            plan.pretrain_seeds,
            &plan.data,
            &plan.weights,
            &plan.lengths,
        ))
    }
}

/// Checks a plan and reads what it names.
struct Reader<'a> {
    plan: &'a BenchmarkPlan,
    path: &'a Path,
}

impl Reader<'_> {
    fn invalid(&self, key: &str, message: impl Into<String>) -> BenchmarkError {
        let place = self.path.display().to_string();
        ConfigError::Invalid { key: key.into(), place, message: message.into() }.into()
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn check_lists(&self) -> Result<()> {
        let plan = self.plan;
        let empty = |key: &str| Err(self.invalid(key, "the list is empty; name at least one"));
        if plan.inits.is_empty() {
            return empty("inits");
        }
        if plan.seeds.is_empty() {
            return empty("seeds");
        }
        for (index, init) in plan.inits.iter().enumerate() {
            if plan.inits[..index].contains(init) {
                return Err(self.invalid("inits", format!("`{init}` is named twice; leave one out")));
            }
            self.check_name("inits", init)?;
        }
        if plan.seeds.iter().collect::<BTreeSet<_>>().len() < plan.seeds.len() {
            return Err(self.invalid("seeds", "a seed is named twice; every seed is a run of its own"));
        }
        if let Some(count) = plan.pretrain_seeds
            && !(1..=plan.seeds.len()).contains(&count)
        {
            let message = format!("{count} is not between 1 and the number of `seeds`, {}", plan.seeds.len());
            return Err(self.invalid("pretrain_seeds", message));
        }
        self.check_fractions("label_fractions", &plan.label_fractions)
    }

    /// Names become folders.
    fn check_name(&self, key: &str, name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
            return Ok(());
        }
        Err(self.invalid(key, format!("`{name}` names a folder; use letters, digits, `_`, `-` and `.`")))
    }

    fn check_fractions(&self, key: &str, fractions: &[f64]) -> Result<()> {
        let valid = |f: &f64| *f > 0.0 && *f <= 1.0;
        if fractions.is_empty() || !fractions.iter().all(valid) {
            return Err(self.invalid(
                key,
                format!("{fractions:?} must be a list of numbers above 0 and at most 1, such as [0.1, 1.0]"),
            ));
        }
        let mut sorted = fractions.to_vec();
        sorted.sort_by(f64::total_cmp);
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(self.invalid(key, format!("{} is named twice; leave one out", pair[0]))),
            None => Ok(()),
        }
    }

    fn arm(&self, name: &str) -> Result<Arm> {
        let (recipe, weights) = (self.plan.pretrain.get(name), self.plan.weights.get(name));
        let source = match (recipe, weights) {
            (None, None) if name == RANDOM => Source::Random,
            (Some(_), _) | (_, Some(_)) if name == RANDOM => {
                return Err(
                    self.invalid("inits", "`random` takes no recipe and no weights; rename the entry")
                );
            }
            (Some(_), Some(_)) => {
                let message = format!("`{name}` stands in [pretrain] and in [weights]; remove one of them");
                return Err(self.invalid("inits", message));
            }
            (Some(recipe), None) => {
                let file = self.folder().join(&recipe.recipe);
                let settings = config::load::<PretrainConfig>(&file, &recipe.set)?.validate()?;
                self.check_method(name, &recipe.recipe, &settings)?;
                Source::Pretrained(Box::new(settings))
            }
            (None, Some(path)) => Source::Weights(path.clone()),
            (None, None) => {
                let names = self.plan.pretrain.keys().chain(self.plan.weights.keys());
                let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
                let message = format!(
                    "`{name}` has no recipe; add pretrain.{name} = \"RECIPE.toml\" or weights.{name} = \"FILE\" \
                     (the plan has {})",
                    if names.is_empty() { "none".into() } else { names.join(", ") }
                );
                return Err(self.invalid("inits", message));
            }
        };
        Ok(Arm { name: name.to_string(), source })
    }

    /// An init that bears a method's name is of that method.
    fn check_method(&self, name: &str, recipe: &Path, settings: &PretrainConfig) -> Result<()> {
        let Some(expected) = MethodKind::from_name(name) else { return Ok(()) };
        if settings.method == expected {
            return Ok(());
        }
        let found = settings.method.name();
        let message = format!(
            "`{}` has method = \"{found}\"; rename the init or take another recipe",
            recipe.display()
        );
        Err(self.invalid(&format!("pretrain.{name}"), message))
    }

    fn transfers(&self) -> Result<Vec<TransferArm>> {
        let plan = self.plan;
        match (&plan.transfer, plan.transfers.is_empty()) {
            (Some(_), false) => {
                Err(self.invalid("transfer", "it contradicts [transfers]; keep one of the two"))
            }
            (None, true) => Err(self.invalid(
                "transfer",
                "the plan fine-tunes nothing; add transfer = \"RECIPE.toml\" or [transfers.NAME]",
            )),
            (Some(recipe), true) => {
                let settings = self.transfer_settings("transfer", &recipe.recipe, &recipe.set)?;
                let fractions = sorted(&plan.label_fractions);
                Ok(vec![TransferArm { name: "detection".into(), settings, data: None, fractions }])
            }
            (None, false) => plan
                .transfers
                .iter()
                .map(|(name, transfer)| {
                    let key = format!("transfers.{name}");
                    self.check_name(&key, name)?;
                    let fractions = transfer.label_fractions.as_ref().unwrap_or(&plan.label_fractions);
                    self.check_fractions(&format!("{key}.label_fractions"), fractions)?;
                    Ok(TransferArm {
                        name: name.clone(),
                        settings: self.transfer_settings(&key, &transfer.recipe, &transfer.set)?,
                        data: transfer.data.clone(),
                        fractions: sorted(fractions),
                    })
                })
                .collect(),
        }
    }

    fn transfer_settings(&self, key: &str, recipe: &Path, set: &[String]) -> Result<TransferConfig> {
        let settings = config::load::<TransferConfig>(&self.folder().join(recipe), set)?;
        for (name, value, neutral) in
            [("fraction", settings.fraction, 1.0), ("subset_seed", settings.subset_seed as f64, 0.0)]
        {
            if value != neutral {
                let message =
                    format!("its recipe sets {name}, which the plan decides; remove it from the recipe");
                return Err(self.invalid(key, message));
            }
        }
        settings.validate()?;
        if self.plan.inits.iter().any(|init| init == RANDOM) {
            settings.check_random_init()?;
        }
        Ok(settings)
    }

    fn check_data(&self, arms: &[Arm], transfers: &[TransferArm]) -> Result<()> {
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
    fn check_networks(&self, arms: &[Arm], transfers: &[TransferArm]) -> Result<()> {
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

    fn check_report_and_budget(&self, arms: &[Arm]) -> Result<()> {
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
            (Some(_), Some(name)) if !arms.iter().any(|arm| arm.name == *name && arm.recipe().is_some()) => {
                Err(self.invalid(
                    "budget_reference",
                    format!("`{name}` is not a pretrained initialisation of `inits`; name one that is"),
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_lengths(&self, arms: &[Arm], transfers: &[TransferArm]) -> Result<()> {
        let Some(lengths) = &self.plan.lengths else { return Ok(()) };
        if lengths.inits.is_empty() || lengths.epochs.is_empty() || lengths.epochs.contains(&0) {
            let message = "it needs at least one of `inits` and of `epochs`, and epochs above zero";
            return Err(self.invalid("lengths", message));
        }
        if lengths.epochs.iter().collect::<BTreeSet<_>>().len() < lengths.epochs.len() {
            return Err(self.invalid("lengths.epochs", "a length is named twice; leave one out"));
        }
        let unknown = |name: &&String| !arms.iter().any(|arm| arm.name == **name && arm.recipe().is_some());
        if let Some(name) = lengths.inits.iter().find(unknown) {
            let message = format!("`{name}` is not a pretrained initialisation of `inits`; name one that is");
            return Err(self.invalid("lengths.inits", message));
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

    fn check_sweep(&self) -> Result<()> {
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

fn sorted(fractions: &[f64]) -> Vec<f64> {
    let mut sorted = fractions.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
