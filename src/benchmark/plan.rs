//! What a benchmark compares, as read from TOML.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use scrl_core::config;
use scrl_core::data::synth::SynthConfig;
use scrl_pretrain::{MethodKind, PretrainConfig};
use scrl_transfer::TransferConfig;
use serde::{Deserialize, Serialize};

/// How a detector's backbone starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    Random,
    Supervised,
    Byol,
    Scrl,
}

impl Init {
    pub fn name(self) -> &'static str {
        match self {
            Init::Random => "random",
            Init::Supervised => "supervised",
            Init::Byol => "byol",
            Init::Scrl => "scrl",
        }
    }

    /// The pretraining method behind the init, if there is one.
    pub fn method(self) -> Option<MethodKind> {
        match self {
            Init::Random => None,
            Init::Supervised => Some(MethodKind::Supervised),
            Init::Byol => Some(MethodKind::Byol),
            Init::Scrl => Some(MethodKind::Scrl),
        }
    }
}

/// A benchmark plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkPlan {
    pub inits: Vec<Init>,
    /// Shares of the labelled training images, each in (0, 1].
    pub label_fractions: Vec<f64>,
    pub seeds: Vec<u64>,
    pub data: DataPlan,
    /// Recipe of each pretraining, relative to the plan's file.
    pub pretrain: PretrainRecipes,
    /// Recipe of every transfer, relative to the plan's file.
    pub transfer: PathBuf,
    /// What the exported backbones return.
    #[serde(default)]
    pub export: ExportPlan,
}

/// Recipe files by init; an init that the plan does not use needs none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainRecipes {
    pub supervised: Option<PathBuf>,
    pub byol: Option<PathBuf>,
    pub scrl: Option<PathBuf>,
}

/// Where the images come from: procedural scenes or the user's folders.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum DataPlan {
    /// Scenes written once to `OUT/data`.
    Synth(SynthConfig),
    /// Existing folders.
    Folders {
        /// Images for SCRL and BYOL, read recursively.
        unlabelled: Vec<PathBuf>,
        /// Class folders for supervised pretraining.
        classes: Option<PathBuf>,
        /// A COCO or VOC folder for transfer.
        detection: PathBuf,
    },
}

/// Export of every pretrained backbone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportPlan {
    pub enabled: bool,
    /// Real images used for validation beside random inputs.
    pub images: usize,
}

impl Default for ExportPlan {
    fn default() -> Self {
        Self { enabled: true, images: 4 }
    }
}

/// A plan with every recipe it names read and checked.
pub struct ResolvedPlan {
    pub plan: BenchmarkPlan,
    pub transfer: TransferConfig,
    recipes: Vec<(Init, PretrainConfig)>,
}

impl ResolvedPlan {
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let plan = config::load::<BenchmarkPlan>(path, overrides)?;
        ensure!(!plan.inits.is_empty(), "`inits` in `{}` is empty; name at least one", path.display());
        ensure!(!plan.seeds.is_empty(), "`seeds` in `{}` is empty; name at least one", path.display());
        ensure!(
            !plan.label_fractions.is_empty() && plan.label_fractions.iter().all(|f| *f > 0.0 && *f <= 1.0),
            "`label_fractions` in `{}` must be a list of numbers above 0 and at most 1",
            path.display()
        );
        let folder = path.parent().unwrap_or(Path::new("."));
        let transfer = config::load::<TransferConfig>(&folder.join(&plan.transfer), &[])?;
        let mut recipes = Vec::new();
        for &init in &plan.inits {
            let Some(method) = init.method() else { continue };
            let recipe = recipe_path(&plan.pretrain, init).with_context(|| {
                format!("the plan `{}` uses init `{}` without pretrain.{0}", path.display(), init.name())
            })?;
            let settings = config::load::<PretrainConfig>(&folder.join(recipe), &[])?.validate()?;
            if settings.method != method {
                bail!(
                    "`{}` has method = \"{}\", the plan uses it for init `{}`",
                    recipe.display(),
                    settings.method.name(),
                    init.name()
                );
            }
            recipes.push((init, settings));
        }
        Ok(Self { plan, transfer, recipes })
    }

    /// The recipe of a pretrained init, with this seed.
    pub fn recipe(&self, init: Init, seed: u64) -> Option<PretrainConfig> {
        let settings = self.recipes.iter().find(|(of, _)| *of == init).map(|(_, recipe)| recipe.clone())?;
        Some(PretrainConfig { seed, ..settings })
    }
}

fn recipe_path(recipes: &PretrainRecipes, init: Init) -> Option<&PathBuf> {
    match init {
        Init::Random => None,
        Init::Supervised => recipes.supervised.as_ref(),
        Init::Byol => recipes.byol.as_ref(),
        Init::Scrl => recipes.scrl.as_ref(),
    }
}
