//! Several processes, here threads, against one: a detector's weights and losses after a few steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use scrl_core::data::sampler::shares;
use scrl_core::models::Arch;
use scrl_core::models::parameters::{TensorMap, collect};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_ops::{Group, threads};
use scrl_transfer::data::Batch;
use scrl_transfer::detection::{
    Architecture, BackboneConfig, DetectorConfig, FpnConfig, Norm, RoiHeadsConfig, RpnConfig, Target,
};
use scrl_transfer::mask::{ObjectMask, Segmentation};
use scrl_transfer::train::Training;
use scrl_transfer::{InitWeights, SolverConfig, TransferConfig};

use crate::support::*;

const STEPS: usize = 5;
/// Weights to start from; see [`TOLERANCE`].
const SEEDS: u64 = 3;
/// Relative to the largest element of a tensor, for most of the starts. Sums are grouped by processes, which makes 1e-6; where the
/// input of a ReLU is zero or two proposals score the same but for rounding, a step differs by more, and all keep within
/// [`FLIPPED`].
const TOLERANCE: f32 = 1e-4;
const FLIPPED: f32 = 1e-2;
/// The least that a tensor's largest element counts as: biases start at zero and move by 1e-3 in these steps.
const SIZE: f32 = 0.02;

fn config(base: DetectorConfig, seed: u64) -> TransferConfig {
    let backbone = BackboneConfig {
        arch: Arch::ResNet18,
        width: 0.125,
        norm: Norm::BatchNorm,
        freeze_at: 0,
        ..base.backbone
    };
    TransferConfig {
        seed,
        batch_size: 2 * SIZES.len(),
        solver: SolverConfig { lr: 1e-3, ..Default::default() },
        model: DetectorConfig {
            backbone,
            fpn: FpnConfig { channels: 8, norm: true },
            rpn: RpnConfig { pre_nms_train: 100, post_nms_train: 50, batch: 32, ..base.rpn },
            roi_heads: RoiHeadsConfig { box_head_dim: 16, batch: 16, ..base.roi_heads },
            num_classes: 3,
            ..base
        },
        ..Default::default()
    }
}

/// This process's part of six images, of which three are the others upside down without objects.
fn batch(device: &Device, group: &Group) -> Batch {
    let first = images(device);
    let all = Tensor::cat(vec![first.clone(), first.flip([2])], 0);
    let own = shares(2 * SIZES.len(), 1, group).swap_remove(0);
    let sizes = [SIZES, SIZES].concat();
    let with_masks = targets().into_iter().zip(&sizes).map(|(target, &size)| with_masks(target, size));
    let targets: Vec<_> = with_masks.chain(SIZES.map(|_| Default::default())).collect();
    Batch {
        images: all.slice([own.clone()]),
        sizes: sizes[own.clone()].to_vec(),
        targets: targets[own.clone()].to_vec(),
        indices: own.clone().collect(),
        sources: sizes[own].to_vec(),
    }
}

/// Each object is a triangle, but for the last of an image, which has no mask.
fn with_masks(target: Target, size: Size) -> Target {
    let mask = |bbox: &BoxXyxy| {
        let [x1, y1, x2, y2] = bbox.to_array().map(f64::from);
        let segmentation = Arc::new(Segmentation::Polygons(vec![vec![x1, y1, x2, y1, x1, y2]]));
        Some(ObjectMask { segmentation, source: size, input: size, mirrored: false })
    };
    let mut masks: Vec<_> = target.boxes.iter().map(mask).collect();
    if masks.len() > 1 {
        masks.pop();
        masks.push(None);
    }
    Target { masks, ..target }
}

struct Trained {
    weights: TensorMap,
    /// The sums over the ranks of each term, step by step.
    losses: Vec<f64>,
}

fn train(base: &DetectorConfig, seed: u64, group: &Group) -> Trained {
    let device = Device::flex().autodiff();
    let config = config(base.clone(), seed);
    let mut training = Training::start(&config, &InitWeights::Random, &device).unwrap().over(group);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let step;
        (training, step) = training.step(batch(&device, group), config.solver.lr, seed, false);
        let mut total = [step.read().total()];
        group.sum_f64(&mut total);
        losses.extend(total);
    }
    Trained { weights: collect(&training.model), losses }
}

/// The largest deviation, relative, and where it is.
fn deviation(found: &Trained, expected: &Trained) -> (f32, String) {
    let losses = found.losses.iter().zip(&expected.losses);
    let losses = losses.map(|(found, expected)| ((found - expected).abs() / expected.abs()) as f32);
    let mut worst = (losses.fold(0.0, f32::max), "losses".to_string());
    assert_eq!(found.weights.keys().collect::<Vec<_>>(), expected.weights.keys().collect::<Vec<_>>());
    for (path, expected) in &expected.weights {
        let [found, expected] =
            [&found.weights[path], expected].map(|data| data.iter::<f32>().collect::<Vec<_>>());
        let largest = expected.iter().fold(SIZE, |largest, value| largest.max(value.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            let deviation = (found - expected).abs() / largest;
            // Also where it is not a number.
            if deviation > worst.0 || deviation.is_nan() {
                worst = (deviation, path.clone());
            }
        }
    }
    worst
}

#[test]
fn any_number_of_processes_trains_a_detector_alike() {
    let detectors = BTreeMap::from([
        ("torchvision's Faster R-CNN", DetectorConfig::torchvision()),
        ("detectron2's Faster R-CNN", DetectorConfig::default()),
        (
            "Mask R-CNN",
            DetectorConfig { architecture: Architecture::MaskRcnn, ..DetectorConfig::torchvision() },
        ),
        ("RetinaNet", DetectorConfig::retinanet()),
    ]);
    for (name, base) in detectors {
        let alone: Vec<Trained> = (0..SEEDS).map(|seed| train(&base, seed, &Group::alone())).collect();
        for size in 1..=4 {
            let what = format!("{name} on {size} processes");
            let compare = |(alone, seed): (&Trained, u64)| {
                let ranks = threads(size, |group| train(&base, seed, &group));
                assert!(
                    ranks.iter().all(|rank| rank.weights == ranks[0].weights),
                    "{what}: the ranks differ"
                );
                deviation(&ranks[0], alone)
            };
            let mut deviations: Vec<_> = alone.iter().zip(0..).map(compare).collect();
            deviations.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(deviations[deviations.len() / 2].0 < TOLERANCE, "{what}: {deviations:?}");
            assert!(deviations.iter().all(|(deviation, _)| *deviation < FLIPPED), "{what}: {deviations:?}");
        }
    }
}
