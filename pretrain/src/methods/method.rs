//! What a pretraining method is to the rest of the crate.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use scrl_core::models::parameters::{TensorMap, load};
use scrl_core::models::{Backbone, Level};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;
use scrl_ops::Group;

use super::evaluation::EvaluationNetworks;
use super::trace::{Activation, LayerTrace, Trace, Tracer};
use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::image_views::ImageViews;
use crate::in_place::InPlace;

/// What tells one method from another before its networks exist.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MethodFacts {
    /// Its name in configurations, weight files and on screens.
    pub name: &'static str,
    /// Views of an image that a step needs.
    pub views: usize,
    /// Views of an image that go through the network that gradients train.
    pub online_views: usize,
    /// The network that follows the trained one, if there is one.
    pub momentum_network: Option<MomentumNetwork>,
    /// Whether it compares boxes that both views show; without any, an image has no loss.
    pub needs_boxes: bool,
    /// Whether it learns from class labels.
    pub needs_labels: bool,
    /// The feature map whose vectors it uses. Its signs of life are taken from the same map.
    pub level: fn(&PretrainConfig) -> Level,
    /// Learning rate of a linear classifier on its backbone, for a batch of 256.
    pub probe_lr: f64,
    /// Its networks at the start of a run.
    pub init: Init,
}

/// Networks from the configuration, the number of classes, a backbone that replaces the random one, the random stream of
/// initialisation, and an autodiff device.
pub type Init = fn(&PretrainConfig, usize, Option<Backbone>, &mut Rng, &Device) -> Box<dyn Method>;

/// A network whose parameters are a moving average of the trained one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MomentumNetwork {
    /// Views of an image that go through it.
    pub views: usize,
    /// How its momentum goes over a run.
    pub schedule: MomentumSchedule,
}

/// The momentum of a moving average over a run, from `ema.base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentumSchedule {
    /// Rises to 1 along a cosine.
    RisingToOne,
    /// Stays the same.
    Constant,
}

/// The networks of a run in training.
///
/// A step is [`gradients`](Self::gradients), then [`apply`](Self::apply). What changes gradients for all methods alike
/// (clipping) goes between the two.
pub trait Method: Send {
    /// Trains together with the other processes of `group`: batches are then this process's part of the group's (see
    /// [`shares`](scrl_core::data::sampler::shares)), statistics of batch norms and gradients are those of all. Losses and counts of
    /// the reports are this process's part, whose sum over the ranks is the whole.
    fn join(&mut self, group: &Group);

    /// Forward and backward pass; `None` where no image of the batch has a loss. `tap` sees what is computed on the way.
    ///
    /// With `schedule.accumulate` the batch goes through in micro-batches, each with batch statistics of its own; loss and
    /// gradients are means over those that have a loss. Parameters and queues stay as they are; batch norms update their
    /// running statistics.
    ///
    /// # Panics
    /// If an image lacks a view or a label that the method needs; callers check the data first.
    fn gradients(&self, batch: &[ImageViews], tap: &mut Tap<'_>) -> Option<Gradients>;

    /// One update: the optimiser's step, then the momentum network and the queues.
    fn apply(&mut self, gradients: Gradients, settings: StepSettings, optimizer: &mut Optimizer);

    /// The backbone that gradients train: the one that transfer starts from.
    fn encoder(&self) -> &Backbone;

    /// The networks as an evaluation sees them.
    fn evaluation_networks(&self) -> EvaluationNetworks;

    /// Everything that a step changes, by part, for a checkpoint: networks, and queues or centres beside them.
    fn tensors(&self) -> Vec<(&'static str, TensorMap)>;

    /// Restores [`tensors`](Self::tensors), to the bit.
    ///
    /// # Errors
    /// When a part is missing or has other layers or sizes; parts before it have then been replaced.
    fn load(&mut self, tensors: &BTreeMap<String, TensorMap>) -> Result<(), PretrainError>;

    /// The trained network's layers with the size of their parameters and of `gradients`.
    fn layers(&self, gradients: &GradientsParams) -> Vec<LayerTrace>;
}

impl dyn Method + '_ {
    /// [`gradients`](Method::gradients) and [`apply`](Method::apply); `None` where nothing was learned.
    pub fn step(
        &mut self,
        batch: &[ImageViews],
        settings: StepSettings,
        optimizer: &mut Optimizer,
    ) -> Option<StepReport> {
        let gradients = self.gradients(batch, &mut |_| ())?;
        let report = gradients.report.clone();
        self.apply(gradients, settings, optimizer);
        Some(report)
    }

    /// Forward and backward pass without an update; `None` where no image of the batch has a loss.
    pub fn trace(&self, batch: &[ImageViews]) -> Option<Trace> {
        let mut tracer = Tracer::default();
        let Gradients { parameters, report, .. } =
            self.gradients(batch, &mut |activation| tracer.add(activation))?;
        Some(tracer.finish(report.loss, self.layers(&parameters)))
    }
}

/// Sees what a pass computes.
pub type Tap<'a> = dyn FnMut(Activation<'_>) + 'a;

/// What a forward and backward pass leaves for the update.
pub struct Gradients {
    /// Of the trained network's parameters.
    pub parameters: GradientsParams,
    /// Vectors that the update puts into the method's queues, `[rows, dims]` each, in the order of the queues.
    pub keys: Vec<Tensor<2>>,
    /// What there is to say about the step.
    pub report: StepReport,
}

/// What one step did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StepReport {
    /// The loss, `[1]`, on the device and without its graph.
    pub loss: Tensor<1>,
    /// Regions of a view that were compared: boxes, or whole images.
    pub regions: usize,
    /// Images that had no box where the method needs one.
    pub without_boxes: usize,
    /// Images whose label is among the 1 and among the 5 largest logits, `[2]` on the device, of methods that classify.
    pub hits: Option<Tensor<1>>,
    /// What an online probe learns from, of methods that learn without labels.
    pub pooled: Option<PooledViews>,
}

/// The globally averaged map of the trained backbone for the views of a step, at the method's level and without gradient.
#[derive(Clone, Debug)]
pub struct PooledViews {
    /// `[rows, channels]`, on the device; all views of every image that took part.
    pub features: Tensor<2>,
    /// The class of each row's image.
    pub labels: Vec<Option<usize>>,
}

impl PooledViews {
    /// The views of all processes.
    pub fn gathered(&self, group: &Group) -> Self {
        if group.is_alone() {
            return self.clone();
        }
        let labels: Vec<i64> =
            self.labels.iter().map(|label| label.map_or(-1, |label| label as i64)).collect();
        let labels = group.gather(&labels).into_iter().map(|label| usize::try_from(label).ok());
        Self { features: group.gather_rows(self.features.clone()), labels: labels.collect() }
    }
}

/// Learning rate and momentum of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// Of the momentum network; 1 for methods without one.
    pub ema_momentum: f64,
}

/// Loads one network of a checkpoint completely.
pub(super) fn load_network<M: Module>(
    network: &mut InPlace<M>,
    name: &str,
    tensors: &BTreeMap<String, TensorMap>,
) -> Result<(), PretrainError> {
    let other = |difference| PretrainError::OtherConfig { difference };
    let map = tensors.get(name).ok_or_else(|| other(format!("it has no `{name}` network")))?;
    let mut complete = false;
    network.change(|network| {
        let (network, report) = load(network, map);
        complete = report.is_complete();
        network
    });
    match complete {
        true => Ok(()),
        false => Err(other(format!("its `{name}` network has other layers or sizes"))),
    }
}
