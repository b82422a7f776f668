//! The online and target networks of SCRL and BYOL and one step of them.
//!
//! N images a batch, two views each; the networks see both views as one batch of 2N, so batch statistics mix them.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use scrl_core::models::parameters::{TensorMap, collect, load};
use scrl_core::models::{Features, ResNet};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;
use scrl_ops::ImageBox;

use super::accumulate::mean_gradients;
use super::frozen::{Frozen, Projection, pool_level};
use super::trace::{Seen, Trace, Tracer};
use super::whole::Whole;
use super::{
    PooledViews, Sample, StepReport, StepSettings, byol, load_network, micro_batches, scrl, stack_views,
};
use crate::config::{MethodKind, PoolLevel, PretrainConfig, TargetInit};
use crate::error::PretrainError;
use crate::heads::Mlp;
use crate::{ema, loss};

/// Backbone, projector and predictor; trained by gradients.
#[derive(Module, Debug)]
pub struct OnlineNetwork {
    pub encoder: ResNet,
    pub projector: Mlp,
    pub predictor: Mlp,
}

/// Backbone and projector; the moving average of the online ones.
#[derive(Module, Debug)]
pub struct TargetNetwork {
    pub encoder: ResNet,
    pub projector: Mlp,
}

/// The networks of SCRL and BYOL.
pub struct SelfSupervised {
    online: Whole<OnlineNetwork>,
    target: Whole<TargetNetwork>,
    method: MethodKind,
    level: PoolLevel,
    accumulate: usize,
    keeps_features: bool,
    device: Device,
}

impl SelfSupervised {
    pub fn init(config: &PretrainConfig, encoder: Option<ResNet>, rng: &mut Rng, device: &Device) -> Self {
        let (hidden, output) = (config.heads.hidden, config.heads.output);
        let channels = config.model.channels()[if config.heads.pool_level == PoolLevel::C4 { 2 } else { 3 }];
        let online = OnlineNetwork {
            encoder: encoder.unwrap_or_else(|| config.model.init(rng, device)),
            projector: Mlp::init(channels, hidden, output, rng, device),
            predictor: Mlp::init(output, hidden, output, rng, device),
        };
        // A clone would share the running statistics, so the target is always built anew.
        let mut target = TargetNetwork {
            encoder: config.model.init(rng, device),
            projector: Mlp::init(channels, hidden, output, rng, device),
        };
        if config.target_init() == TargetInit::Copy {
            target = load(target, &collect(&online)).0;
        }
        Self {
            online: Whole::new(online),
            target: Whole::new(target.no_grad()),
            method: config.method,
            level: config.heads.pool_level,
            accumulate: config.schedule.accumulate,
            keeps_features: false,
            device: device.clone(),
        }
    }

    /// Makes every later step report its pooled features.
    pub fn keep_features(&mut self) {
        self.keeps_features = true;
    }

    /// The backbone that gradients train.
    pub fn encoder(&self) -> &ResNet {
        &self.online.get().encoder
    }

    /// Online backbone and projector as an evaluation sees them.
    pub fn frozen(&self) -> Frozen {
        let online = self.online.get();
        let (projector, method, level) = (online.projector.valid(), self.method, self.level);
        let projection = Projection { projector, method, level };
        Frozen { encoder: online.encoder.valid(), projection: Some(projection) }
    }

    pub fn step(
        &mut self,
        batch: &[Sample],
        settings: StepSettings,
        optimizer: &mut Optimizer,
    ) -> Option<StepReport> {
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        let (loss, gradients) = self.gradients(batch, &mut |part, seen| {
            if let (true, Seen::Maps(maps)) = (self.keeps_features, seen) {
                features.push(byol::pool(maps.c5.clone().inner()));
                labels.extend([part, part].into_iter().flatten().map(|sample| sample.label));
            }
        })?;
        self.online.change(|online| optimizer.step(settings.lr, online, gradients));
        let online = self.online.get();
        self.target.change(|target| ema::update(target, online, settings.ema_momentum));
        Some(StepReport {
            loss,
            boxes: match self.method {
                MethodKind::Scrl => batch.iter().map(|sample| sample.boxes.len()).sum(),
                _ => batch.len(),
            },
            without_boxes: match self.method {
                MethodKind::Scrl => batch.iter().filter(|sample| sample.boxes.is_empty()).count(),
                _ => 0,
            },
            hits: None,
            pooled: self.keeps_features.then(|| PooledViews { features: Tensor::cat(features, 0), labels }),
        })
    }

    /// A step's forward and backward pass alone.
    pub fn trace(&self, batch: &[Sample]) -> Option<Trace> {
        let mut tracer = Tracer::default();
        let (loss, gradients) = self.gradients(batch, &mut |_, seen| tracer.see(seen))?;
        Some(tracer.finish(loss, self.online.get(), &gradients))
    }

    /// Mean loss and gradients; `look` sees what each micro-batch computes. `None` without any box.
    fn gradients(
        &self,
        batch: &[Sample],
        look: &mut dyn FnMut(&[Sample], Seen<'_>),
    ) -> Option<(Tensor<1>, GradientsParams)> {
        // A micro-batch without boxes has no loss, as an image without them has none.
        let parts: Vec<_> = micro_batches(batch, self.accumulate)
            .filter_map(|part| match self.method {
                MethodKind::Scrl => scrl::rois(part).map(|rois| (part, Some(rois))),
                _ => Some((part, None)),
            })
            .collect();
        let count = parts.len();
        let losses = parts.into_iter().map(|(part, rois)| {
            let views = [0, 1].map(|view| stack_views(part, view, &self.device));
            self.loss_seen(Tensor::cat(views.to_vec(), 0), rois.as_deref(), &mut |seen| look(part, seen))
        });
        mean_gradients(self.online.get(), count, losses)
    }

    /// The symmetrised loss of a batch: `views` `[2N, 3, S, S]`, `rois` of both views, or none for BYOL.
    pub fn loss(&self, views: Tensor<4>, rois: Option<&[ImageBox]>) -> Tensor<1> {
        self.loss_seen(views, rois, &mut |_| ())
    }

    fn loss_seen(
        &self,
        views: Tensor<4>,
        rois: Option<&[ImageBox]>,
        look: &mut dyn FnMut(Seen<'_>),
    ) -> Tensor<1> {
        let (online, target) = (self.online.get(), self.target.get());
        let target_features = target.encoder.forward(views.clone());
        let target = target.projector.forward(self.pool(target_features, rois)).detach();
        look(Seen::Vectors("target projection", &target));
        let features = online.encoder.forward(views);
        look(Seen::Maps(&features));
        let pooled = self.pool(features, rois);
        look(Seen::Vectors("pooled", &pooled));
        let projection = online.projector.forward(pooled);
        look(Seen::Vectors("projection", &projection));
        let prediction = online.predictor.forward(projection);
        look(Seen::Vectors("prediction", &prediction));
        loss::symmetric_loss(prediction, target)
    }

    fn pool(&self, features: Features, rois: Option<&[ImageBox]>) -> Tensor<2> {
        let (map, stride) = pool_level(features, self.level);
        match rois {
            Some(rois) => scrl::pool(map, rois, stride),
            None => byol::pool(map),
        }
    }

    pub fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![("online", collect(self.online.get())), ("target", collect(self.target.get()))]
    }

    pub fn load(self, tensors: &BTreeMap<String, TensorMap>) -> Result<Self, PretrainError> {
        let online = Whole::new(load_network(self.online.into_inner(), "online", tensors)?);
        let target = Whole::new(load_network(self.target.into_inner(), "target", tensors)?);
        Ok(Self { online, target, ..self })
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{BackendTensor, DispatchTensorKind};
    use burn::module::{ModuleVisitor, Param};
    use scrl_core::models::{Arch, ResNetConfig};
    use scrl_core::random::stream;
    use scrl_core::solver::{OptimizerConfig, OptimizerKind};

    use super::*;
    use crate::config::{HeadsConfig, ScheduleConfig};

    /// Where the values of each parameter lie; running statistics are not parameters.
    fn places<M: Module>(module: &M) -> BTreeMap<String, *const u8> {
        #[derive(Default)]
        struct Places(Vec<String>, BTreeMap<String, *const u8>);
        impl ModuleVisitor for Places {
            fn enter_module(&mut self, name: &str, _container_type: &str) {
                self.0.push(name.to_string());
            }
            fn exit_module(&mut self, _name: &str, _container_type: &str) {
                self.0.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let path = self.0.join(".");
                let kind = param.val().inner().into_dispatch().kind;
                if let (false, DispatchTensorKind::Flex(BackendTensor::Float(tensor))) =
                    (path.contains("running"), kind)
                {
                    self.1.insert(path, tensor.bytes().as_ptr());
                }
            }
        }
        let mut places = Places::default();
        module.visit(&mut places);
        places.1
    }

    fn config(kind: OptimizerKind) -> PretrainConfig {
        PretrainConfig {
            method: MethodKind::Byol,
            seed: 1,
            compat: Default::default(),
            model: ResNetConfig { arch: Arch::ResNet18, width: 0.125 },
            data: Default::default(),
            augment: Default::default(),
            boxes: Default::default(),
            heads: HeadsConfig { hidden: 16, output: 8, ..Default::default() },
            optimizer: OptimizerConfig { kind, weight_decay: 1e-4, ..Default::default() },
            schedule: ScheduleConfig {
                epochs: 1,
                batch_size: 2,
                base_lr: 1.0,
                warmup_epochs: 0.0,
                accumulate: 1,
            },
            ema: Default::default(),
            supervised: Default::default(),
            log: Default::default(),
        }
    }

    #[test]
    fn a_step_changes_the_parameters_of_both_networks_where_they_lie() {
        let device = Device::flex().autodiff();
        let pixels = |phase: f32| (0..3 * 32 * 32).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
        let sample =
            |phase| Sample { views: vec![pixels(phase), pixels(2.0 * phase)], boxes: vec![], label: None };
        for kind in [OptimizerKind::Sgd, OptimizerKind::Lars] {
            let config = config(kind);
            let mut learner = SelfSupervised::init(&config, None, &mut stream(1, &[]), &device);
            let mut optimizer = Optimizer::new(config.optimizer);
            let settings = StepSettings { lr: 0.1, ema_momentum: 0.9 };
            let mut step = |learner: &mut SelfSupervised| {
                learner.step(&[sample(1.0), sample(2.0)], settings, &mut optimizer).unwrap()
            };
            let before = (places(learner.online.get()), places(learner.target.get()));
            let values = (collect(learner.online.get()), collect(learner.target.get()));
            assert!(before.0.len() > 60 && before.1.len() > 60);
            step(&mut learner);
            assert_eq!((places(learner.online.get()), places(learner.target.get())), before, "{kind:?}");
            assert_ne!((collect(learner.online.get()), collect(learner.target.get())), values);
        }
    }
}
