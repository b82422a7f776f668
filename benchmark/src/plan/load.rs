//! A plan with every recipe it names read, and everything checked that can be checked without the images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{BenchmarkError, Result};
use scrl_core::config::{self, ConfigError};
use scrl_core::models::Precision;
use scrl_pretrain::{MethodKind, PretrainConfig};
use scrl_transfer::TransferConfig;

use super::{BenchmarkPlan, RANDOM};

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
pub(super) struct Reader<'a> {
    pub(super) plan: &'a BenchmarkPlan,
    path: &'a Path,
}

impl Reader<'_> {
    pub(super) fn invalid(&self, key: &str, message: impl Into<String>) -> BenchmarkError {
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
}

fn sorted(fractions: &[f64]) -> Vec<f64> {
    let mut sorted = fractions.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
