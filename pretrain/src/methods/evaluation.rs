//! The networks as an evaluation sees them: running statistics, no gradients.

use burn::tensor::{Device, Tensor};
use scrl_core::models::{Backbone, Level, in_f32};

use crate::image_views::{ImageViews, stack_views};
use crate::inspection::{Inspection, MatchedRows, Rows};
use crate::pooling::{Pooling, global_average};

/// Backbone and, for methods that compare two views, the projector of the trained network. They share memory with the
/// networks in training, so they must be dropped before the next step.
pub struct EvaluationNetworks {
    pub(super) encoder: Backbone,
    /// The method's feature map.
    pub(super) level: Level,
    /// What is compared between two views.
    pub(super) projection: Option<Projection>,
}

/// How regions of a feature map become the vectors that are compared.
pub(super) struct Projection {
    /// `[regions, channels]` to `[regions, dims]`.
    pub(super) projector: Box<dyn Fn(Tensor<2>) -> Tensor<2>>,
    pub(super) pooling: Pooling,
}

impl EvaluationNetworks {
    /// Features of whole images and of the regions of both views; `device` must not be an autodiff device.
    pub fn inspect(&self, batch: &[ImageViews], device: &Device) -> Inspection {
        let Some(projection) = &self.projection else {
            let map = self.map(stack_views(batch, 0, device));
            return Inspection {
                features: Rows::from_tensor(global_average(in_f32(map))),
                ..Default::default()
            };
        };
        let views = [0, 1].map(|view| stack_views(batch, view, device));
        let map = self.map(Tensor::cat(views.to_vec(), 0));
        let first = map.clone().narrow(0, 0, batch.len());
        let features = Rows::from_tensor(global_average(in_f32(first)));
        let (projected, backbone) = projection.matched(batch, map, self.level.stride()).unwrap_or_default();
        Inspection { features, projected, backbone }
    }

    fn map(&self, views: Tensor<4>) -> Tensor<4> {
        self.encoder.forward_to(self.level, views).at(self.level)
    }
}

impl Projection {
    /// Projections and backbone features of the regions; `None` without any region.
    fn matched(
        &self,
        batch: &[ImageViews],
        map: Tensor<4>,
        stride: usize,
    ) -> Option<(MatchedRows, MatchedRows)> {
        let pooled = self.pooling.regions(batch)?.pool(map, stride);
        let images = batch.iter().enumerate();
        let images: Vec<usize> =
            images.flat_map(|(index, image)| vec![index; self.pooling.count(image)]).collect();
        let projected = (self.projector)(pooled.clone());
        Some((split_views(projected, images.clone()), split_views(pooled, images)))
    }
}

/// Vectors of the regions of view 1 and then of view 2, `[2·regions, dims]`, by view.
fn split_views(vectors: Tensor<2>, images: Vec<usize>) -> MatchedRows {
    let half = images.len();
    let first = Rows::from_tensor(vectors.clone().narrow(0, 0, half));
    MatchedRows { first, second: Rows::from_tensor(vectors.narrow(0, half, half)), images }
}
