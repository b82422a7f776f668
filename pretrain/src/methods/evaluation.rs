//! The networks as an evaluation sees them: running statistics, no gradients.

use burn::tensor::{Device, Tensor};
use scrl_core::models::{Features, ResNet};

use super::{Sample, byol, scrl, stack_views};
use crate::config::{MethodKind, PoolLevel};
use crate::heads::Mlp;
use crate::health::{Inspection, MatchedRows, Rows};

/// Backbone and, for SCRL and BYOL, the projector of the online network. It shares memory with the networks in training,
/// so it must be gone before their next step.
pub struct Frozen {
    pub(super) encoder: ResNet,
    pub(super) projection: Option<Projection>,
}

/// How feature maps become the vectors that are compared.
pub(super) struct Projection {
    pub(super) projector: Mlp,
    pub(super) method: MethodKind,
    pub(super) level: PoolLevel,
}

impl Frozen {
    /// Features of whole images and of both views' boxes; `device` must not be an autodiff device.
    pub fn inspect(&self, batch: &[Sample], device: &Device) -> Inspection {
        let Some(projection) = &self.projection else {
            let features = self.encoder.forward(stack_views(batch, 0, device));
            return Inspection { features: Rows::from_tensor(byol::pool(features.c5)), ..Default::default() };
        };
        let views = [0, 1].map(|view| stack_views(batch, view, device));
        let maps = self.encoder.forward(Tensor::cat(views.to_vec(), 0));
        let first = maps.c5.clone().narrow(0, 0, batch.len());
        let features = Rows::from_tensor(byol::pool(first));
        let (projected, backbone) = projection.matched(batch, maps).unwrap_or_default();
        Inspection { features, projected, backbone }
    }
}

impl Projection {
    /// Projections and backbone features of the boxes; `None` without any box.
    fn matched(&self, batch: &[Sample], features: Features) -> Option<(MatchedRows, MatchedRows)> {
        let (map, stride) = pool_level(features, self.level);
        let (pooled, images) = if self.method == MethodKind::Scrl {
            let boxes = |(image, sample): (usize, &Sample)| vec![image; sample.boxes.len()];
            let images = batch.iter().enumerate().flat_map(boxes).collect();
            (scrl::pool(map, &scrl::rois(batch)?, stride), images)
        } else {
            (byol::pool(map), (0..batch.len()).collect::<Vec<_>>())
        };
        let projected = self.projector.forward(pooled.clone());
        Some((split_views(projected, images.clone()), split_views(pooled, images)))
    }
}

/// Vectors of the boxes of view 1 and then of view 2, `[2·boxes, dims]`, by view.
fn split_views(vectors: Tensor<2>, images: Vec<usize>) -> MatchedRows {
    let half = images.len();
    let first = Rows::from_tensor(vectors.clone().narrow(0, 0, half));
    MatchedRows { first, second: Rows::from_tensor(vectors.narrow(0, half, half)), images }
}

/// The map of a level and its stride in view pixels.
pub(crate) fn pool_level(features: Features, level: PoolLevel) -> (Tensor<4>, usize) {
    match level {
        PoolLevel::C4 => (features.c4, 16),
        PoolLevel::C5 => (features.c5, 32),
    }
}
