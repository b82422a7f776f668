//! The facts in which detectron2 differs from torchvision, by formula.

use crate::device::device;
use burn::tensor::Tensor;
use scrl_core::models::parameters;
use scrl_core::random::stream;
use scrl_core::structures::BoxXyxy;
use scrl_ops::Group;
use scrl_transfer::detection::{
    AnchorConfig, AnchorGenerator, Anchors, DetectorConfig, FpnConfig, Match, Matcher, Pooler, Roi, RoiHeads,
    RoiHeadsConfig, RpnConfig, RpnPredictions, Target, Variant, box_loss,
};

use crate::support::*;

const BOTH: [Variant; 2] = [Variant::Detectron2, Variant::Torchvision];

fn anchors(variant: Variant) -> AnchorGenerator {
    AnchorGenerator::new(&variant.config())
}

/// The last numbers are those of detectron2's `tests/modeling/test_anchor_generator.py`.
#[test]
fn anchors_are_not_rounded_and_centred_on_the_corner_of_their_cell() {
    let [detectron2, torchvision] = BOTH.map(|variant| anchors(variant).cell_anchors(0)[0].to_array());
    let (half_width, half_height) = (16.0 * 2.0f32.sqrt(), 16.0 / 2.0f32.sqrt());
    assert_near(&detectron2, &[-half_width, -half_height, half_width, half_height], 1e-6);
    assert_eq!(torchvision, [-23.0, -11.0, 23.0, 11.0]);
    let config = DetectorConfig {
        anchors: AnchorConfig { ratios: vec![0.25, 1.0, 4.0], ..Default::default() },
        ..Default::default()
    };
    let cells: Vec<[f32; 4]> =
        AnchorGenerator::new(&config).cell_anchors(0).iter().map(|b| b.to_array()).collect();
    let published = [[-32.0, -8.0, 32.0, 8.0], [-16.0, -16.0, 16.0, 16.0], [-8.0, -32.0, 8.0, 32.0]];
    assert_eq!(cells, published);
}

#[test]
fn strides_of_anchors_are_those_of_the_network_where_torchvision_divides_image_by_grid() {
    let step = |variant| {
        let Anchors { boxes, levels } =
            anchors(variant).generate([96, 160], &[[24, 40], [12, 20], [6, 10], [3, 5], [2, 3]]);
        let p6 = &boxes[levels[4].clone()];
        [p6[3].x1 - p6[0].x1, p6[9].y1 - p6[0].y1]
    };
    assert_eq!(BOTH.map(step), [[64.0, 64.0], [53.0, 48.0]]);
}

/// A ramp's mean over a cell is its value at the cell's centre; a pixel's centre is half a pixel from its corner.
#[test]
fn aligned_pooling_reads_half_a_cell_further_left_and_up() {
    let device = device();
    let ramp = Tensor::<1>::from_data(std::array::from_fn::<f32, 64, _>(|x| x as f32), &device);
    let map = ramp.reshape([1, 1, 1, 64]).expand([1, 1, 64, 64]);
    let roi = Roi { image: 0, bbox: BoxXyxy::new(40.0, 40.0, 96.0, 96.0) };
    // 56 pixels at stride 4 are 14 cells, two a bin: the first bin's centre is cell 10 + 1.
    let first = |variant: Variant| {
        let (pooled, _) = Pooler::new(&variant.config()).forward(&vec![map.clone(); 4], &[roi]);
        floats(pooled)[0]
    };
    let [detectron2, torchvision] = BOTH.map(first);
    assert!((detectron2 - 10.5).abs() < 1e-5, "{detectron2}");
    assert!((torchvision - 11.0).abs() < 1e-5, "{torchvision}");
}

/// Sampling points a bin and axis: ⌈bin⌉ in detectron2 (ratio 0), 2 in torchvision. On the squares of whole numbers the
/// mean over them tells how many there are.
#[test]
fn sampling_is_adaptive_where_torchvision_takes_two_points() {
    let device = device();
    let square = |x: f32| x * x;
    let row = Tensor::<1>::from_data(std::array::from_fn::<f32, 64, _>(|x| square(x as f32)), &device);
    let map = row.reshape([1, 1, 1, 64]).expand([1, 1, 64, 64]);
    // 84 pixels are 21 cells, three a bin; the first bin spans cells 10 to 13, aligned 9.5 to 12.5.
    let roi = Roi { image: 0, bbox: BoxXyxy::new(40.0, 40.0, 124.0, 124.0) };
    let interpolated = |x: f32| {
        let (left, part) = (x.floor(), x.fract());
        square(left) * (1.0 - part) + square(left + 1.0) * part
    };
    let mean = |start: f32, points: usize| {
        let place = |index: usize| start + (index as f32 + 0.5) * 3.0 / points as f32;
        (0..points).map(|index| interpolated(place(index))).sum::<f32>() / points as f32
    };
    let expected = [mean(9.5, 3), mean(10.0, 2)];
    for (variant, expected) in BOTH.into_iter().zip(expected) {
        let (pooled, _) = Pooler::new(&variant.config()).forward(&vec![map.clone(); 4], &[roi]);
        let pooled = floats(pooled);
        assert!((pooled[0] - expected).abs() < 1e-3, "{variant:?}: {} is not {expected}", pooled[0]);
    }
}

/// Lin et al., equation 1; detectron2 `poolers.py::assign_boxes_to_levels`: `⌊4 + log2(√area / 224 + ε)⌋`, P2 to P5.
#[test]
fn a_region_of_224_pixels_is_pooled_from_p4_and_half_of_it_from_p3() {
    let pooler = Pooler::new(&DetectorConfig::default());
    let level =
        |width: f32, height: f32| 2 + pooler.level(&BoxXyxy::new(7.0, 9.0, 7.0 + width, 9.0 + height));
    assert_eq!([level(224.0, 224.0), level(112.0, 448.0), level(223.0, 224.0)], [4, 4, 3]);
    assert_eq!([level(112.0, 112.0), level(111.0, 111.0), level(1.0, 1.0)], [3, 2, 2]);
    assert_eq!([level(448.0, 448.0), level(5000.0, 5000.0)], [5, 5]);
}

#[test]
fn box_losses_are_plain_l1_where_torchvision_is_quadratic_below_a_ninth() {
    let deltas = Tensor::<2>::from_data([[0.05f32, -0.1, 0.0, 2.0]], &device());
    let loss = |variant: Variant| {
        let beta = variant.numerics().smooth_l1_beta;
        box_loss(deltas.clone(), &[0], &[[0.0; 4]], beta).into_scalar::<f32>()
    };
    let [detectron2, torchvision] = BOTH.map(loss);
    assert!((detectron2 - 2.15).abs() < 1e-6);
    let ninth = 1.0f32 / 9.0;
    let expected = (0.05f32.powi(2) + 0.1f32.powi(2)) * 0.5 / ninth + 2.0 - 0.5 * ninth;
    assert!((torchvision - expected).abs() < 1e-6);
}

/// detectron2 `rpn.py::losses` divides by `batch_size_per_image · images`, torchvision by the anchors that were drawn.
#[test]
fn proposal_losses_are_divided_by_the_batch_size_even_if_fewer_anchors_are_drawn() {
    let device = device();
    let grids = [[4, 4], [2, 2], [1, 1], [1, 1], [1, 1]];
    for variant in BOTH {
        let config =
            DetectorConfig { rpn: RpnConfig { batch: 500, ..variant.config().rpn }, ..variant.config() };
        let anchors = AnchorGenerator::new(&config).generate([16, 16], &grids);
        let count = anchors.boxes.len();
        let predictions = RpnPredictions {
            objectness: Tensor::zeros([2 * count], &device),
            deltas: Tensor::zeros([2 * count, 4], &device),
            grids: grids.to_vec(),
        };
        let target = Target { boxes: boxes(&[[0.0, 0.0, 16.0, 16.0]]), labels: vec![0], masks: Vec::new() };
        let ignored = Matcher::ANCHORS.assign(&anchors.boxes, &target.boxes);
        let ignored = ignored.iter().filter(|found| **found == Match::Ignored).count();
        let drawn = (2 * count - ignored) as f32;
        let targets = [target, Target::default()];
        let losses = predictions.losses(&anchors, &targets, &config, &Group::ALONE, &mut stream(0, &[]));
        let divisor = if variant == Variant::Detectron2 { 1000.0 } else { drawn };
        // Every anchor with a logit of 0 costs ln 2.
        let expected = std::f32::consts::LN_2 * drawn / divisor;
        assert_near(&[losses.objectness.into_scalar::<f32>()], &[expected], 1e-5);
    }
}

/// detectron2: `c2_xavier_fill` in the box head (uniform, variance 1 / fan-in), standard deviations 0.01 and 0.001 in
/// `FastRCNNOutputLayers`, 0.01 in `StandardRPNHead`; biases 0.
#[test]
fn initial_weights_have_detectron2s_spread() {
    let config = DetectorConfig {
        fpn: FpnConfig { channels: 32, ..Default::default() },
        roi_heads: RoiHeadsConfig { box_head_dim: 256, ..Default::default() },
        ..Default::default()
    };
    let device = device();
    let heads = parameters::collect(&RoiHeads::init(&config, &mut stream(5, &[]), &device));
    let rpn =
        parameters::collect(&scrl_transfer::detection::Rpn::init(&config, &mut stream(6, &[]), &device));
    let deviation = |values: &[f32]| norm(values) / (values.len() as f64).sqrt();
    let fan_in = [32.0 * 49.0, 256.0f64];
    let expected = [
        (&heads, "box_head.fc6", (1.0 / fan_in[0]).sqrt()),
        (&heads, "box_head.fc7", (1.0 / fan_in[1]).sqrt()),
        (&heads, "box_predictor.cls_score", 0.01),
        (&heads, "box_predictor.bbox_pred", 0.001),
        (&rpn, "head.conv.0.0", 0.01),
    ];
    for (tensors, layer, expected) in expected {
        let values = |kind: &str| tensors[&format!("{layer}.{kind}")].clone().try_to_vec::<f32>().unwrap();
        let (weight, bias) = (values("weight"), values("bias"));
        let found = deviation(&weight);
        // More than 9,000 numbers each: the deviation is known to better than a hundredth.
        assert!((found / expected - 1.0).abs() < 0.03, "{layer}: {found}, not {expected}");
        assert!(bias.iter().all(|&value| value == 0.0), "{layer}");
    }
    let xavier: Vec<f32> = heads["box_head.fc7.weight"].clone().try_to_vec().unwrap();
    let bound = (3.0 / fan_in[1]).sqrt() as f32;
    assert!(xavier.iter().all(|value| value.abs() <= bound), "fc7 is uniform");
}

#[test]
fn numbers_of_proposals_in_training_are_the_published_ones() {
    let numbers = |variant: Variant| {
        let config = variant.config();
        [
            config.rpn.pre_nms_train,
            config.rpn.post_nms_train,
            config.rpn.pre_nms_test,
            config.rpn.post_nms_test,
        ]
    };
    assert_eq!(BOTH.map(numbers), [[2000, 1000, 1000, 1000], [2000, 2000, 1000, 1000]]);
}
