//! The networks that BYOL and SCRL share: a trained one predicts what its moving average says of the other view. The two
//! methods differ in what of a view is compared, their [`Pooling`].
//!
//! N images in the batch, two views each; the networks see both views as one batch of 2N, so batch statistics mix them.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use scrl_core::models::parameters::{TensorMap, collect, load};
use scrl_core::models::{Backbone, Level, in_f32};
use scrl_core::random::Rng;
use scrl_core::solver::Optimizer;
use scrl_ops::Group;

use super::evaluation::{EvaluationNetworks, Projection};
use super::gradients::Sharing;
use super::method::{Gradients, Method, PooledViews, StepReport, StepSettings, Tap, load_network};
use super::trace::{self, Activation, LayerTrace};
use crate::config::{PretrainConfig, TargetInit};
use crate::error::PretrainError;
use crate::heads::Mlp;
use crate::image_views::{ImageViews, stack_views};
use crate::in_place::InPlace;
use crate::pooling::{Pooling, Regions, global_average};
use crate::{ema, loss};

/// Backbone, projector and predictor; trained by gradients.
#[derive(Module, Debug)]
pub struct OnlineNetwork {
    /// The backbone.
    pub encoder: Backbone,
    /// From pooled features to the vectors that are compared.
    pub projector: Mlp,
    /// From projections to predictions of the other view's.
    pub predictor: Mlp,
}

/// Backbone and projector; the moving average of the online ones.
#[derive(Module, Debug)]
pub struct TargetNetwork {
    /// The backbone.
    pub encoder: Backbone,
    /// From pooled features to the vectors that are predicted.
    pub projector: Mlp,
}

/// Online and target network of BYOL or SCRL.
pub struct Bootstrap {
    online: InPlace<OnlineNetwork>,
    target: InPlace<TargetNetwork>,
    pooling: Pooling,
    level: Level,
    sharing: Sharing,
    device: Device,
}

impl Bootstrap {
    /// Fresh networks; `device` must be an autodiff device. `encoder` replaces the random backbone.
    pub fn init(
        config: &PretrainConfig,
        pooling: Pooling,
        encoder: Option<Backbone>,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        let (hidden, output) = (config.heads.hidden, config.heads.output);
        let channels = config.level_channels();
        let online = OnlineNetwork {
            encoder: encoder.unwrap_or_else(|| config.model.init(rng, device)).compute_in(config.precision),
            projector: Mlp::init(channels, hidden, output, rng, device),
            predictor: Mlp::init(output, hidden, output, rng, device),
        };
        // A clone would share the running statistics, so the target is always built anew.
        let mut target = TargetNetwork {
            encoder: config.model.init(rng, device).compute_in(config.precision),
            projector: Mlp::init(channels, hidden, output, rng, device),
        };
        if config.target_init() == TargetInit::Copy {
            target = load(target, &collect(&online)).0;
        }
        Self {
            online: InPlace::new(online),
            target: InPlace::new(target.no_grad()),
            pooling,
            level: config.level(),
            sharing: Sharing::alone(config.schedule.accumulate),
            device: device.clone(),
        }
    }

    /// The symmetrised loss of `views`, `[2N, 3, S, S]`: view 1 stacked on view 2.
    pub fn loss(&self, views: Tensor<4>, regions: &Regions, tap: &mut Tap<'_>) -> Tensor<1> {
        self.counting_loss(views, regions, true, tap)
    }

    /// [`loss`](Self::loss) of regions that are part of the group's statistics only if they `count`.
    fn counting_loss(
        &self,
        views: Tensor<4>,
        regions: &Regions,
        counts: bool,
        tap: &mut Tap<'_>,
    ) -> Tensor<1> {
        let (online, target) = (self.online.get(), self.target.get());
        let (level, stride) = (self.level, self.level.stride());
        let target_map = target.encoder.forward_to(level, views.clone()).at(level);
        let target = target.projector.forward_counting(regions.pool(target_map, stride), counts).detach();
        tap(Activation::Vectors("target projection", &target));
        let features = online.encoder.forward_to(level, views);
        tap(Activation::Maps(&features));
        let pooled = regions.pool(features.at(level), stride);
        tap(Activation::Vectors("pooled", &pooled));
        let projection = online.projector.forward_counting(pooled, counts);
        tap(Activation::Vectors("projection", &projection));
        let prediction = online.predictor.forward_counting(projection, counts);
        tap(Activation::Vectors("prediction", &prediction));
        loss::symmetric_loss(in_f32(prediction), in_f32(target))
    }
}

impl Method for Bootstrap {
    fn gradients(&self, batch: &[ImageViews], tap: &mut Tap<'_>) -> Option<Gradients> {
        // A micro-batch without boxes has no loss, as an image without them has none.
        let parts = self.sharing.parts(batch, |image| self.pooling.count(image));
        let (count, mut pooled) = (parts.len(), Vec::new());
        let images = parts.iter().flat_map(|part| part.images.iter().chain(part.images));
        let labels = images.map(|image| image.label).collect();
        let losses = parts.iter().map(|part| {
            let views = [0, 1].map(|view| stack_views(part.images, view, &self.device));
            // A process that has no box goes along with one that does not count.
            let regions = self.pooling.regions(part.images);
            let counts = regions.is_some();
            let regions = regions.unwrap_or_else(|| Regions::placeholder(part.images.len()));
            let loss =
                self.counting_loss(Tensor::cat(views.to_vec(), 0), &regions, counts, &mut |activation| {
                    if let Activation::Maps(features) = activation {
                        pooled.push(global_average(in_f32(features.at(self.level).inner())));
                    }
                    tap(activation);
                });
            part.weighed(loss)
        });
        let (loss, parameters) = self.sharing.mean_gradients(self.online.get(), count, losses)?;
        let report = StepReport {
            loss,
            regions: batch.iter().map(|image| self.pooling.count(image)).sum(),
            without_boxes: batch.iter().filter(|image| self.pooling.count(image) == 0).count(),
            hits: None,
            pooled: Some(PooledViews { features: Tensor::cat(pooled, 0), labels }),
        };
        Some(Gradients { parameters, keys: Vec::new(), report })
    }

    fn join(&mut self, group: &Group) {
        self.sharing.group = group.clone();
        self.online.change(|online| OnlineNetwork {
            encoder: online.encoder.over(group),
            projector: online.projector.over(group),
            predictor: online.predictor.over(group),
        });
        self.target.change(|target| TargetNetwork {
            encoder: target.encoder.over(group),
            projector: target.projector.over(group),
        });
    }

    fn apply(&mut self, gradients: Gradients, settings: StepSettings, optimizer: &mut Optimizer) {
        self.online.change(|online| optimizer.step(settings.lr, online, gradients.parameters));
        let online = self.online.get();
        self.target.change(|target| ema::update(target, online, settings.ema_momentum));
    }

    fn encoder(&self) -> &Backbone {
        &self.online.get().encoder
    }

    fn evaluation_networks(&self) -> EvaluationNetworks {
        let online = self.online.get();
        let projector = online.projector.valid();
        let projector = Box::new(move |pooled| projector.forward(pooled));
        EvaluationNetworks {
            encoder: online.encoder.valid(),
            level: self.level,
            projection: Some(Projection { projector, pooling: self.pooling }),
        }
    }

    fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        vec![("online", collect(self.online.get())), ("target", collect(self.target.get()))]
    }

    fn load(&mut self, tensors: &BTreeMap<String, TensorMap>) -> Result<(), PretrainError> {
        load_network(&mut self.online, "online", tensors)?;
        load_network(&mut self.target, "target", tensors)
    }

    fn layers(&self, gradients: &GradientsParams) -> Vec<LayerTrace> {
        trace::layers(self.online.get(), gradients)
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
    use crate::config::{HeadsConfig, MethodKind, ScheduleConfig};
    use crate::image_views::ViewPixels;

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
            init: None,
            compat: Default::default(),
            precision: Default::default(),
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
            densecl: Default::default(),
            log: Default::default(),
        }
    }

    #[test]
    fn a_step_changes_the_parameters_of_both_networks_where_they_lie() {
        let device = Device::flex().autodiff();
        let pixels = |phase: f32| {
            let values = (0..3 * 32 * 32).map(|i| (i as f32 * 0.37 + phase).sin());
            ViewPixels::square(values.collect(), 32)
        };
        let image = |phase| ImageViews {
            views: vec![pixels(phase), pixels(2.0 * phase)],
            boxes: vec![],
            label: None,
        };
        for kind in [OptimizerKind::Sgd, OptimizerKind::Lars] {
            let config = config(kind);
            let mut method = Bootstrap::init(&config, Pooling::WholeMap, None, &mut stream(1, &[]), &device);
            let mut optimizer = Optimizer::new(config.optimizer);
            let settings = StepSettings { lr: 0.1, ema_momentum: 0.9 };
            let mut step = |method: &mut Bootstrap| {
                let gradients = method.gradients(&[image(1.0), image(2.0)], &mut |_| ()).unwrap();
                method.apply(gradients, settings, &mut optimizer);
            };
            let before = (places(method.online.get()), places(method.target.get()));
            let values = (collect(method.online.get()), collect(method.target.get()));
            assert!(before.0.len() > 60 && before.1.len() > 60);
            step(&mut method);
            assert_eq!((places(method.online.get()), places(method.target.get())), before, "{kind:?}");
            assert_ne!((collect(method.online.get()), collect(method.target.get())), values);
        }
    }
}
