//! Training of a tiny detector.

use crate::device::device;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::TensorData;
use scrl_core::models::parameters;
use scrl_core::random::stream;
use scrl_transfer::detection::{FasterRcnn, Target};

use crate::support::*;

#[test]
fn training_on_two_images_reaches_every_parameter_and_lowers_the_loss() {
    let device = device().autodiff();
    let mut model = FasterRcnn::init(&tiny(), &mut stream(1, &[]), &device);
    let mut optimizer = SgdConfig::new().init();
    let batch = images(&device).narrow(0, 0, 2);
    let mut rng = stream(2, &[]);
    let mut history = Vec::new();
    for _ in 0..15 {
        let losses = model.forward_train(batch.clone(), &SIZES[..2], &targets()[..2], &mut rng);
        assert!(losses.counts.iter().all(|&(_, count)| count > 0), "{:?}", losses.counts);
        history.push(losses.total().into_scalar::<f32>());
        let gradients = losses.total().backward();
        if history.len() == 1 {
            for (name, norm) in gradient_norms(&model, &gradients) {
                let norm = norm.unwrap_or_else(|| panic!("{name} has no gradient"));
                assert!(norm.is_finite(), "the gradient of {name} is {norm}");
            }
        }
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(0.05, model, gradients);
    }
    let (first, last) = (history[0], history[14]);
    assert!(last < 0.6 * first, "the loss went from {first} to {last}: {history:?}");
}

#[test]
fn a_batch_without_any_object_trains_with_finite_losses() {
    let device = device().autodiff();
    let model = FasterRcnn::init(&tiny(), &mut stream(1, &[]), &device);
    let none = vec![Target::default(); 3];
    let losses = model.forward_train(images(&device), &SIZES, &none, &mut stream(2, &[]));
    assert_eq!(losses.counts, [("foreground_anchors", 0), ("foreground_rois", 0)]);
    assert_eq!(losses.term("loss_box_regression").unwrap().clone().into_scalar::<f32>(), 0.0);
    let norms = gradient_norms(&model, &losses.total().backward());
    assert!(norms.values().all(|norm| norm.is_some_and(f32::is_finite)), "{norms:?}");
}

#[test]
fn the_same_stream_gives_the_same_losses_to_the_bit() {
    let device = device().autodiff();
    let losses = || {
        let model = FasterRcnn::init(&tiny(), &mut stream(1, &[]), &device);
        let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(2, &[]));
        losses.total().into_scalar::<f32>()
    };
    assert_eq!(losses().to_bits(), losses().to_bits());
}

#[test]
fn a_network_that_has_diverged_detects_nothing_and_does_not_panic() {
    let device = device();
    let model = FasterRcnn::init(&tiny(), &mut stream(1, &[]), &device);
    let mut weights = parameters::collect(&model);
    let bias = weights.get_mut("rpn.head.bbox_pred.bias").unwrap();
    *bias = TensorData::new(vec![f32::NAN; 12], [12]);
    let (model, _) = parameters::load(model, &weights);
    assert_eq!(model.detect(images(&device), &SIZES), vec![Vec::new(); 3]);
}
