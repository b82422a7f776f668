//! The methods of pretraining, each in a file of its own, behind one trait.

pub mod bootstrap;
mod byol;
pub mod densecl;
mod evaluation;
mod gradients;
mod method;
mod scrl;
pub mod supervised;
mod trace;

use burn::tensor::Device;
use scrl_core::models::{Backbone, Level};
use scrl_core::random::{Rng, stream};

use crate::config::{MethodKind, PretrainConfig};
pub use evaluation::EvaluationNetworks;
pub use method::{
    Gradients, Init, Method, MethodFacts, MomentumNetwork, MomentumSchedule, PooledViews, StepReport,
    StepSettings, Tap,
};
pub use trace::{Activation, Extent, LayerTrace, Trace};

/// Names the random stream of parameter initialisation.
const INIT: u64 = 1;

impl MethodKind {
    /// Every method.
    pub const ALL: [Self; 4] = [Self::Scrl, Self::Byol, Self::DenseCl, Self::Supervised];

    /// What there is to know about the method. This is the list of methods: everything else asks the facts.
    pub fn facts(self) -> &'static MethodFacts {
        match self {
            Self::Scrl => &scrl::FACTS,
            Self::Byol => &byol::FACTS,
            Self::DenseCl => &densecl::FACTS,
            Self::Supervised => &supervised::FACTS,
        }
    }

    /// The name in configurations and weight files.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The method of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

impl PretrainConfig {
    /// The feature map whose vectors the method uses.
    pub fn level(&self) -> Level {
        (self.method.facts().level)(self)
    }

    /// Channels of [`level`](Self::level).
    pub fn level_channels(&self) -> usize {
        self.model.channels()[self.level().index()]
    }
}

/// Fresh networks; `device` must be an autodiff device. `encoder` replaces the random backbone.
pub fn init(
    settings: &PretrainConfig,
    classes: usize,
    encoder: Option<Backbone>,
    rng: &mut Rng,
    device: &Device,
) -> Box<dyn Method> {
    (settings.method.facts().init)(settings, classes, encoder, rng, device)
}

/// The networks at the start of a run: [`init`] with the run's own random stream.
pub fn init_for_run(
    settings: &PretrainConfig,
    classes: usize,
    encoder: Option<Backbone>,
    device: &Device,
) -> Box<dyn Method> {
    init(settings, classes, encoder, &mut stream(settings.seed, &[INIT]), device)
}
