//! Bootstrap your own latent (Grill et al. 2020, arXiv 2006.07733): whole views are compared.

use super::bootstrap::Bootstrap;
use super::method::{MethodFacts, MomentumNetwork, MomentumSchedule};
use crate::pooling::Pooling;

pub(super) const FACTS: MethodFacts = MethodFacts {
    name: "byol",
    views: 2,
    online_views: 2,
    momentum_network: Some(MomentumNetwork { views: 2, schedule: MomentumSchedule::RisingToOne }),
    needs_boxes: false,
    needs_labels: false,
    level: |settings| settings.heads.pool_level.into(),
    probe_lr: 0.05,
    init: |settings, _, encoder, rng, device| {
        Box::new(Bootstrap::init(settings, Pooling::WholeMap, encoder, rng, device))
    },
};
