//! DenseCL (Wang et al., CVPR 2021, arXiv 2011.09157) on MoCo v2 (Chen et al., arXiv 2003.04297): places of two views are
//! compared with each other and with queues of earlier images.
//!
//! View 1 goes through the trained network and gives queries, view 2 through its moving average and gives keys. One head
//! makes a vector of a view, another one of every place. Each vector is told from a queue of negatives; the key of a place
//! is the place of the other view whose backbone features have the largest cosine. Facts follow the official code
//! (WXinlong/DenseCL 5d1c456, `openselfsup/models/{densecl,necks}.py`); `docs/parity.md` lists the deviations.
//!
//! N images in the batch, P places of a feature map, C channels, D dimensions of the vectors, K negatives in a queue.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::models::layers::{Init, Linear};
use scrl_core::models::parameters::{TensorMap, collect, load};
use scrl_core::models::{Backbone, Level, in_f32};
use scrl_core::random::{Rng, standard_normal};
use scrl_core::solver::Optimizer;
use scrl_ops::Group;

use super::evaluation::{EvaluationNetworks, Projection};
use super::gradients::Sharing;
use super::method::{
    Gradients, Method, MethodFacts, MomentumNetwork, MomentumSchedule, PooledViews, StepReport, StepSettings,
    Tap, load_network,
};
use super::trace::{self, Activation, LayerTrace};
use crate::config::{DenseClConfig, PretrainConfig, TargetInit};
use crate::ema;
use crate::error::PretrainError;
use crate::image_views::{ImageViews, stack_views};
use crate::in_place::InPlace;
use crate::loss::{cross_entropy, normalise};
use crate::pooling::{Pooling, global_average};

pub(super) const FACTS: MethodFacts = MethodFacts {
    name: "densecl",
    views: 2,
    online_views: 1,
    momentum_network: Some(MomentumNetwork { views: 1, schedule: MomentumSchedule::Constant }),
    needs_boxes: false,
    needs_labels: false,
    level: |settings| settings.heads.pool_level.into(),
    // MoCo's is 30, for normalised features; here features are as they are.
    probe_lr: 0.2,
    init: |settings, _, encoder, rng, device| Box::new(DenseCl::init(settings, encoder, rng, device)),
};

/// Linear, ReLU, linear: MoCo v2's head. On every place of a map it is a stack of 1×1 convolutions.
#[derive(Module, Debug)]
pub struct ContrastiveHead {
    linear1: Linear,
    linear2: Linear,
}

impl ContrastiveHead {
    fn init([inputs, hidden, outputs]: [usize; 3], init: [Init; 2], rng: &mut Rng, device: &Device) -> Self {
        Self {
            linear1: Linear::init([inputs, hidden], true, init[0], rng, device),
            linear2: Linear::init([hidden, outputs], true, init[1], rng, device),
        }
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.linear2.forward(relu(self.linear1.forward(input)))
    }
}

/// Backbone and heads: the one that makes queries and the one that makes keys.
#[derive(Module, Debug)]
pub struct ContrastiveNetwork {
    /// The backbone.
    pub encoder: Backbone,
    /// From the average of a feature map to a vector.
    pub global_head: ContrastiveHead,
    /// From the features of a place to a vector.
    pub dense_head: ContrastiveHead,
}

/// What the network makes of a batch; vectors have length 1.
struct Vectors {
    /// The backbone's features of every place, `[N, P, C]`.
    places: Tensor<3>,
    /// `[N, D]`
    global: Tensor<2>,
    /// `[N, P, D]`
    dense: Tensor<3>,
    /// The mean of the dense head's output over the places, `[N, D]`: a negative for other images.
    dense_mean: Tensor<2>,
}

impl ContrastiveNetwork {
    fn init(config: &PretrainConfig, encoder: Option<Backbone>, rng: &mut Rng, device: &Device) -> Self {
        let sizes = [config.level_channels(), config.heads.hidden, config.heads.output];
        let kaiming = [sizes[0], sizes[1]].map(|fan_in| Init::Normal((2.0 / fan_in as f64).sqrt()));
        Self {
            encoder: encoder.unwrap_or_else(|| config.model.init(rng, device)).compute_in(config.precision),
            global_head: ContrastiveHead::init(sizes, kaiming, rng, device),
            dense_head: ContrastiveHead::init(sizes, [Init::TorchDefault; 2], rng, device),
        }
    }

    /// `map` is `[N, C, H, W]`.
    fn vectors(&self, map: Tensor<4>) -> Vectors {
        let [images, channels, height, width] = map.dims();
        let places = height * width;
        let rows = map.clone().flatten::<3>(2, 3).swap_dims(1, 2);
        let dense = in_f32(self.dense_head.forward(rows.clone().reshape([images * places, channels])));
        let [_, dims] = dense.dims();
        let dense_mean = dense.clone().reshape([images, places, dims]).mean_dim(1).squeeze_dim(1);
        Vectors {
            places: normalise(in_f32(rows.reshape([images * places, channels])))
                .reshape([images, places, channels]),
            global: normalise(in_f32(self.global_head.forward(global_average(map)))),
            dense: normalise(dense).reshape([images, places, dims]),
            dense_mean: normalise(dense_mean),
        }
    }
}

/// The negatives: vectors of length 1 of the images before, the oldest of which make room for new ones.
struct Queue {
    /// `[K, D]`, without gradient; rows from `next` on are the oldest.
    rows: Tensor<2>,
    next: usize,
}

impl Queue {
    /// Random directions.
    fn init(length: usize, dims: usize, rng: &mut Rng, device: &Device) -> Self {
        let values: Vec<f32> = (0..length * dims).map(|_| standard_normal(rng)).collect();
        let rows = Tensor::from_data(TensorData::new(values, [length, dims]), device);
        Self { rows: normalise(rows), next: 0 }
    }

    /// Replaces the oldest rows by `keys`, `[rows, D]`, at most K of them.
    fn enqueue(&mut self, keys: Tensor<2>) {
        let [length, dims] = self.rows.dims();
        let count = keys.dims()[0].min(length);
        let until_end = count.min(length - self.next);
        self.replace(self.next, keys.clone().slice([0..until_end, 0..dims]));
        if until_end < count {
            self.replace(0, keys.slice([until_end..count, 0..dims]));
        }
        self.next = (self.next + count) % length;
    }

    fn replace(&mut self, first: usize, keys: Tensor<2>) {
        let [count, dims] = keys.dims();
        self.rows.inplace(|rows| rows.slice_assign([first..first + count, 0..dims], keys));
    }

    /// InfoNCE (van den Oord et al., arXiv 1807.03748): the mean cross-entropy of finding each query's key among the
    /// queue.
    ///
    /// # Shapes
    /// - `queries`, `keys`: `[rows, D]`; output `[1]`
    fn loss(&self, queries: Tensor<2>, keys: Tensor<2>, temperature: f64) -> Tensor<1> {
        let positive = (queries.clone() * keys).sum_dim(1);
        let negative = queries.matmul(Tensor::from_inner(self.rows.clone()).transpose());
        let logits = Tensor::cat(vec![positive, negative], 1).div_scalar(temperature);
        let first = Tensor::<1, Int>::zeros([logits.dims()[0]], &logits.device());
        cross_entropy(logits, first, 0.0)
    }
}

/// The networks and queues of DenseCL.
pub struct DenseCl {
    query: InPlace<ContrastiveNetwork>,
    key: InPlace<ContrastiveNetwork>,
    global_queue: Queue,
    dense_queue: Queue,
    config: DenseClConfig,
    level: Level,
    sharing: Sharing,
    device: Device,
}

impl DenseCl {
    /// Fresh networks and queues of random directions; `device` must be an autodiff device. `encoder` replaces the random
    /// backbone.
    pub fn init(config: &PretrainConfig, encoder: Option<Backbone>, rng: &mut Rng, device: &Device) -> Self {
        let query = ContrastiveNetwork::init(config, encoder, rng, device);
        let mut key = ContrastiveNetwork::init(config, None, rng, device);
        if config.target_init() == TargetInit::Copy {
            key = load(key, &collect(&query)).0;
        }
        let inner = device.clone().without_autodiff();
        let mut queue = || Queue::init(config.densecl.queue, config.heads.output, rng, &inner);
        Self {
            query: InPlace::new(query),
            key: InPlace::new(key.no_grad()),
            global_queue: queue(),
            dense_queue: queue(),
            config: config.densecl.clone(),
            level: config.level(),
            sharing: Sharing::alone(config.schedule.accumulate),
            device: device.clone(),
        }
    }

    /// Loss of a micro-batch, its keys for both queues and the averages of its maps.
    fn loss(&self, part: &[ImageViews], tap: &mut Tap<'_>) -> (Tensor<1>, [Tensor<2>; 2], Tensor<2>) {
        let (network, views) = (self.query.get(), [0, 1].map(|view| stack_views(part, view, &self.device)));
        let [first, second] = views;
        let keys = self.key.get();
        let keys = keys.vectors(keys.encoder.forward_to(self.level, second).at(self.level));
        tap(Activation::Vectors("keys", &keys.global));
        let features = network.encoder.forward_to(self.level, first);
        tap(Activation::Maps(&features));
        let map = features.at(self.level);
        let pooled = global_average(in_f32(map.clone().inner()));
        let queries = network.vectors(map);
        tap(Activation::Vectors("queries", &queries.global));
        let [images, places, dims] = queries.dense.dims();
        let dense = queries.dense.reshape([images * places, dims]);
        tap(Activation::Vectors("dense queries", &dense));
        let matched = matched_keys(queries.places.inner(), keys.places.inner(), keys.dense.inner());
        let matched = Tensor::from_inner(matched.reshape([images * places, dims]));
        let (temperature, share) = (self.config.temperature, self.config.dense_weight);
        let global_loss = self.global_queue.loss(queries.global, keys.global.clone().detach(), temperature);
        let dense_loss = self.dense_queue.loss(dense, matched, temperature);
        let loss = global_loss.mul_scalar(1.0 - share) + dense_loss.mul_scalar(share);
        (loss, [keys.global.inner(), keys.dense_mean.inner()], pooled)
    }
}

/// Of every place of view 1 the dense key of that place of view 2 whose backbone features are most alike.
///
/// # Shapes
/// - `queries`, `keys`: `[N, P, C]` of length 1, `dense_keys`: `[N, P, D]`; output `[N, P, D]`
fn matched_keys(queries: Tensor<3>, keys: Tensor<3>, dense_keys: Tensor<3>) -> Tensor<3> {
    let [_, _, dims] = dense_keys.dims();
    let nearest = queries.matmul(keys.swap_dims(1, 2)).argmax(2);
    dense_keys.gather(1, nearest.expand([-1, -1, dims as i64]))
}

impl Method for DenseCl {
    fn gradients(&self, batch: &[ImageViews], tap: &mut Tap<'_>) -> Option<Gradients> {
        let parts = self.sharing.parts(batch, |_| 1);
        let (mut global_keys, mut dense_keys, mut pooled) = (Vec::new(), Vec::new(), Vec::new());
        let group = &self.sharing.group;
        let losses = parts.iter().map(|part| {
            let (loss, [global, dense], features) = self.loss(part.images, tap);
            // The queues of all processes are the same, in the order of the images.
            global_keys.push(group.gather_rows(global));
            dense_keys.push(group.gather_rows(dense));
            pooled.push(features);
            part.weighed(loss)
        });
        let (loss, parameters) = self.sharing.mean_gradients(self.query.get(), parts.len(), losses)?;
        let labels = batch.iter().map(|image| image.label).collect();
        let report = StepReport {
            loss,
            regions: batch.len(),
            without_boxes: 0,
            hits: None,
            pooled: Some(PooledViews { features: Tensor::cat(pooled, 0), labels }),
        };
        let keys = vec![Tensor::cat(global_keys, 0), Tensor::cat(dense_keys, 0)];
        Some(Gradients { parameters, keys, report })
    }

    fn join(&mut self, group: &Group) {
        self.sharing.group = group.clone();
        let over = |network: ContrastiveNetwork| ContrastiveNetwork {
            encoder: network.encoder.over(group),
            ..network
        };
        self.query.change(over);
        self.key.change(over);
    }

    fn apply(&mut self, gradients: Gradients, settings: StepSettings, optimizer: &mut Optimizer) {
        self.query.change(|query| optimizer.step(settings.lr, query, gradients.parameters));
        // The official code averages before the next step's forward pass, of the same weights.
        let query = self.query.get();
        self.key.change(|key| ema::update(key, query, settings.ema_momentum));
        for (queue, keys) in [&mut self.global_queue, &mut self.dense_queue].into_iter().zip(gradients.keys) {
            queue.enqueue(keys);
        }
    }

    fn encoder(&self) -> &Backbone {
        &self.query.get().encoder
    }

    fn evaluation_networks(&self) -> EvaluationNetworks {
        let query = self.query.get();
        let head = query.global_head.valid();
        let projector = Box::new(move |pooled| head.forward(pooled));
        EvaluationNetworks {
            encoder: query.encoder.valid(),
            level: self.level,
            projection: Some(Projection { projector, pooling: Pooling::WholeMap }),
        }
    }

    fn tensors(&self) -> Vec<(&'static str, TensorMap)> {
        let next = TensorData::new(vec![self.global_queue.next as f32], [1]);
        let queues = TensorMap::from([
            ("global".to_string(), self.global_queue.rows.clone().into_data()),
            ("dense".to_string(), self.dense_queue.rows.clone().into_data()),
            ("next".to_string(), next),
        ]);
        vec![("query", collect(self.query.get())), ("key", collect(self.key.get())), ("queues", queues)]
    }

    fn load(&mut self, tensors: &BTreeMap<String, TensorMap>) -> Result<(), PretrainError> {
        load_network(&mut self.query, "query", tensors)?;
        load_network(&mut self.key, "key", tensors)?;
        let other = || PretrainError::OtherConfig { difference: "its queues have other sizes".to_string() };
        let queues = tensors.get("queues").ok_or_else(other)?;
        let next = queues.get("next").and_then(|next| next.iter::<f32>().next()).ok_or_else(other)?;
        for (name, queue) in [("global", &mut self.global_queue), ("dense", &mut self.dense_queue)] {
            let rows = queues.get(name).ok_or_else(other)?;
            if rows.shape()[..] != queue.rows.dims() {
                return Err(other());
            }
            queue.rows = Tensor::from_data(rows.clone(), &self.device.clone().without_autodiff());
            queue.next = next as usize % queue.rows.dims()[0];
        }
        Ok(())
    }

    fn layers(&self, gradients: &GradientsParams) -> Vec<LayerTrace> {
        trace::layers(self.query.get(), gradients)
    }
}

#[cfg(test)]
mod tests {
    use scrl_core::random::stream;

    use super::*;

    fn rows(tensor: &Tensor<2>) -> Vec<f32> {
        tensor.clone().into_data().iter::<f32>().collect()
    }

    #[test]
    fn the_oldest_rows_make_room_also_where_the_batch_does_not_divide_the_queue() {
        let device = Device::flex();
        let mut queue = Queue::init(5, 1, &mut stream(1, &[]), &device);
        let keys = |values: &[f32]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), [values.len(), 1]), &device)
        };
        let before = rows(&queue.rows);
        queue.enqueue(keys(&[10.0, 11.0, 12.0]));
        assert_eq!(rows(&queue.rows), [10.0, 11.0, 12.0, before[3], before[4]]);
        queue.enqueue(keys(&[20.0, 21.0, 22.0]));
        assert_eq!(rows(&queue.rows), [22.0, 11.0, 12.0, 20.0, 21.0]);
        assert_eq!(queue.next, 1);
        queue.enqueue(keys(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]));
        assert_eq!(rows(&queue.rows), [5.0, 1.0, 2.0, 3.0, 4.0], "no more than the queue holds");
    }

    #[test]
    fn a_query_that_equals_its_key_and_nothing_else_costs_next_to_nothing() {
        let device = Device::flex().autodiff();
        let unit = |x: f32, y: f32| Tensor::<2>::from_floats([[x, y]], &device);
        let mut queue = Queue::init(3, 2, &mut stream(2, &[]), &Device::flex());
        queue.rows = Tensor::from_floats([[-1.0, 0.0]; 3], &Device::flex());
        let loss = |key| f64::from(queue.loss(unit(1.0, 0.0), key, 0.1).into_scalar::<f32>());
        assert!(loss(unit(1.0, 0.0)) < 1e-7);
        // Its key is not nearer than the three negatives.
        assert!((loss(unit(-1.0, 0.0)) - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_place_is_matched_with_the_place_whose_features_point_the_same_way() {
        let device = Device::flex();
        let queries = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]], &device);
        let keys = Tensor::<3>::from_floats([[[0.0, 1.0], [0.8, 0.6], [1.0, 0.0]]], &device);
        let dense = Tensor::<3>::from_floats([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]], &device);
        let matched = matched_keys(queries, keys, dense).into_data();
        assert_eq!(matched.iter::<f32>().collect::<Vec<_>>(), [5.0, 6.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
