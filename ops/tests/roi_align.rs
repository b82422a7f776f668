//! RoIAlign against torchvision, its reference and finite differences.

#![cfg(feature = "flex")]

#[path = "support/device.rs"]
mod device;

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor, TensorData};
use device::device;
use proptest::prelude::*;
use safetensors::SafeTensors;
use scrl_ops::{ImageBox, RoiAlignOps, RoiAlignOptions, roi_align, roi_align_reference};

const FIXTURE: &[u8] = include_bytes!("fixtures/roi_align/roi_align.safetensors");

/// Sums of at most a few hundred f32 products of unit size, in another order than torchvision's.
const TOLERANCE: f32 = 1e-5;

type Pooling = fn(Tensor<4>, &[ImageBox], RoiAlignOptions) -> Tensor<4>;

/// One combination of options in the fixture.
struct Case {
    size: &'static str,
    stride: u32,
    name: String,
    options: RoiAlignOptions,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, output_size) in [("1x1", [1, 1]), ("7x7", [7, 7]), ("2x3", [2, 3])] {
        for stride in [32, 4, 1] {
            for sampling_ratio in [-1, 2] {
                for (kind, aligned) in [("legacy", false), ("aligned", true)] {
                    let name = format!("{size}.stride{stride}.sampling{sampling_ratio}.{kind}");
                    let spatial_scale = 1.0 / stride as f32;
                    let options = RoiAlignOptions { output_size, spatial_scale, sampling_ratio, aligned };
                    cases.push(Case { size, stride, name, options });
                }
            }
        }
    }
    cases
}

fn fixture<const D: usize>(name: &str) -> TensorData {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let shape: [usize; D] = view.shape().try_into().unwrap();
    TensorData::new(values, shape)
}

/// Boxes from rows of `(batch index, x1, y1, x2, y2)`.
fn fixture_boxes(name: &str) -> Vec<ImageBox> {
    let rows = values(fixture::<2>(name));
    let rows = rows.as_chunks::<5>().0.iter();
    rows.map(|&[image, x1, y1, x2, y2]| on_image(image as usize, [x1, y1, x2, y2])).collect()
}

fn on_image(image: usize, corners: [f32; 4]) -> ImageBox {
    ImageBox { image, corners }
}

fn values(data: TensorData) -> Vec<f32> {
    data.try_into_vec().unwrap()
}

fn assert_close(actual: TensorData, expected: TensorData, what: &str) {
    assert_eq!(actual.shape(), expected.shape(), "{what}");
    for (index, (a, b)) in values(actual).into_iter().zip(values(expected)).enumerate() {
        assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{what}: {a} is not {b} at {index}");
    }
}

/// Output and feature gradient of a pooling whose output is weighted by `weights`.
fn pool(
    pooling: Pooling,
    features: TensorData,
    boxes: &[ImageBox],
    weights: TensorData,
    options: RoiAlignOptions,
) -> (TensorData, TensorData) {
    let device = device().autodiff();
    let features = Tensor::<4>::from_data(features, &device).require_grad();
    let output = pooling(features.clone(), boxes, options);
    let grads = (output.clone() * Tensor::from_data(weights, &device)).sum().backward();
    (output.into_data(), features.grad(&grads).expect("features have a gradient").into_data())
}

fn assert_matches_torchvision(pooling: Pooling) {
    let cases = cases();
    assert_eq!(cases.len(), 36);
    for Case { size, stride, name, options } in cases {
        let weights = fixture::<4>(&format!("grad.{size}"));
        let boxes = fixture_boxes(&format!("boxes.{stride}"));
        let (output, grad) = pool(pooling, fixture::<4>("features"), &boxes, weights, options);
        assert_close(output, fixture::<4>(&format!("output.{name}")), &name);
        assert_close(grad, fixture::<4>(&format!("feature_grad.{name}")), &format!("gradient of {name}"));
    }
}

/// Values in [-1, 1) without a pattern, the same at every run.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn noise_of<const D: usize>(shape: [usize; D]) -> TensorData {
    TensorData::new(noise(shape.iter().product()), shape)
}

/// Boxes of all sizes over `images` images of `side` pixels.
fn random_boxes(rois: usize, images: usize, side: f32) -> Vec<ImageBox> {
    let corners = noise(rois * 4).into_iter().map(|v| (v + 1.0) * 0.5 * side).collect::<Vec<_>>();
    let corners =
        corners.as_chunks::<4>().0.iter().map(|&[a, b, c, d]| [a.min(c), b.min(d), a.max(c), b.max(d)]);
    corners.enumerate().map(|(roi, corners)| on_image(roi % images, corners)).collect()
}

fn box_options(output_size: [usize; 2]) -> RoiAlignOptions {
    RoiAlignOptions { output_size, spatial_scale: 1.0, sampling_ratio: -1, aligned: true }
}

#[test]
fn the_cpu_kernel_gives_the_outputs_and_gradients_of_torchvision() {
    assert_matches_torchvision(roi_align);
}

#[test]
fn the_reference_gives_the_outputs_and_gradients_of_torchvision() {
    assert_matches_torchvision(roi_align_reference);
}

#[test]
fn the_cpu_kernel_gives_the_outputs_and_gradients_of_the_reference() {
    let options = RoiAlignOptions { spatial_scale: 0.25, ..box_options([7, 7]) };
    let boxes = random_boxes(40, 3, 160.0);
    let weights = noise_of([40, 5, 7, 7]);
    let features = noise_of([3, 5, 30, 40]);
    let kernel = pool(roi_align, features.clone(), &boxes, weights.clone(), options);
    let reference = pool(roi_align_reference, features, &boxes, weights, options);
    assert_close(kernel.0, reference.0, "output");
    assert_close(kernel.1, reference.1, "gradient");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn maps_boxes_and_options_of_any_kind_match_the_reference(
        // Fewer channels than a block has, several blocks, and parts of one.
        shape in (1usize..4, prop_oneof![1usize..6, 30usize..70], 1usize..20, 1usize..20),
        grid in [1usize..8, 1usize..8],
        rois in 1usize..12,
        extent in 2.0f32..60.0,
        spatial_scale in prop_oneof![Just(1.0f32), Just(0.25), Just(1.0 / 32.0)],
        sampling_ratio in -1i32..4,
        aligned: bool,
    ) {
        let shape = [shape.0, shape.1, shape.2, shape.3];
        let options = RoiAlignOptions { output_size: grid, spatial_scale, sampling_ratio, aligned };
        let boxes = random_boxes(rois, shape[0], extent / spatial_scale);
        let weights = noise_of([rois, shape[1], grid[0], grid[1]]);
        let kernel = pool(roi_align, noise_of(shape), &boxes, weights.clone(), options);
        let reference = pool(roi_align_reference, noise_of(shape), &boxes, weights, options);
        assert_close(kernel.0, reference.0, "output");
        assert_close(kernel.1, reference.1, "gradient");
    }
}

#[test]
fn boxes_with_swapped_corners_match_the_reference() {
    let options = RoiAlignOptions { sampling_ratio: 2, ..box_options([3, 3]) };
    let boxes = [on_image(0, [7.5, 6.0, 1.25, 0.5])];
    let weights = noise_of([1, 3, 3, 3]);
    let kernel = pool(roi_align, noise_of([1, 3, 8, 9]), &boxes, weights.clone(), options);
    let reference = pool(roi_align_reference, noise_of([1, 3, 8, 9]), &boxes, weights, options);
    assert!(values(kernel.0.clone()).iter().any(|&value| value != 0.0));
    assert_close(kernel.0, reference.0, "output");
    assert_close(kernel.1, reference.1, "gradient");
}

#[test]
fn the_gradient_is_the_slope_of_the_output() {
    let shape = [1, 2, 4, 5];
    let options = RoiAlignOptions { sampling_ratio: 2, ..box_options([2, 2]) };
    let boxes = [on_image(0, [0.3, 0.8, 3.9, 3.1]), on_image(0, [-1.0, 2.0, 2.2, 6.0])];
    let weights = noise_of([2, 2, 2, 2]);
    let features = values(noise_of(shape));
    let (_, grad) =
        pool(roi_align, TensorData::new(features.clone(), shape), &boxes, weights.clone(), options);
    let loss = |features: Vec<f32>| {
        let device = device();
        let features = Tensor::<4>::from_data(TensorData::new(features, shape), &device);
        let output = roi_align(features, &boxes, options).into_data();
        values(output).iter().zip(values(weights.clone())).map(|(a, b)| (a * b) as f64).sum::<f64>()
    };
    // The operator is linear in the features, so a large step costs no accuracy.
    for (index, grad) in values(grad).into_iter().enumerate() {
        let moved = |step: f32| {
            let mut features = features.clone();
            features[index] += step;
            loss(features)
        };
        let slope = ((moved(1.0) - moved(-1.0)) / 2.0) as f32;
        assert!((slope - grad).abs() < 1e-5, "slope {slope} is not {grad} at {index}");
    }
}

#[test]
fn a_box_of_whole_pixels_is_the_mean_of_its_pixels() {
    let device = device();
    let features = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &device);
    let boxes = [on_image(0, [1.0, 1.0, 3.0, 3.0])];
    let output = roi_align(features.reshape([1, 1, 3, 3]), &boxes, box_options([1, 1]));
    assert_eq!(values(output.into_data()), [6.0]); // mean of 4, 5, 7 and 8
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool_of_threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool_of_threads.install(|| {
            let boxes = random_boxes(60, 2, 24.0);
            let (features, weights) = (noise_of([2, 70, 24, 24]), noise_of([60, 70, 7, 7]));
            let (output, grad) = pool(roi_align, features, &boxes, weights, box_options([7, 7]));
            (output.as_bytes().to_vec(), grad.as_bytes().to_vec())
        })
    };
    let single = run(1);
    assert!(run(2) == single);
    assert!(run(5) == single);
}

#[test]
fn features_that_are_not_contiguous_are_pooled_as_their_copy() {
    let device = device();
    let features = Tensor::<4>::from_data(noise_of([2, 6, 5, 3]), &device);
    let boxes = random_boxes(7, 1, 5.0);
    let view = features.clone().permute([0, 3, 2, 1]).slice([1..2, 0..3, 0..5, 1..6]);
    let copy = Tensor::<4>::from_data(view.clone().into_data(), &device);
    let options = box_options([2, 2]);
    let expected = values(roi_align(copy, &boxes, options).into_data());
    assert_eq!(values(roi_align(view, &boxes, options).into_data()), expected);
    assert!(expected.iter().any(|&v| v != 0.0));
}

#[test]
fn features_of_double_precision_are_pooled_in_double_precision() {
    let device = device();
    let options = box_options([3, 2]);
    let features = Tensor::<4>::from_data(noise_of([2, 3, 9, 9]), &device);
    let boxes = random_boxes(5, 2, 9.0);
    let single = roi_align(features.clone(), &boxes, options).into_data();
    let double = roi_align(features.cast(burn::tensor::DType::F64), &boxes, options).into_data();
    assert_eq!(double.dtype(), burn::tensor::DType::F64);
    assert_close(double.convert::<f32>(), single, "double precision");
}

#[test]
fn features_without_a_gradient_are_pooled_on_an_autodiff_device() {
    let device = device().autodiff();
    let features = Tensor::<4>::from_data(noise_of([1, 2, 6, 6]), &device);
    let boxes = random_boxes(3, 1, 6.0);
    let output = roi_align(features.clone(), &boxes, box_options([2, 2]));
    let plain = roi_align(features.without_autodiff(), &boxes, box_options([2, 2])).into_data();
    assert_eq!(values(output.into_data()), values(plain));
}

#[test]
fn no_boxes_give_an_empty_output_and_a_gradient_of_zero() {
    for pooling in [roi_align as Pooling, roi_align_reference] {
        let device = device();
        let features = Tensor::<4>::from_data(noise_of([2, 3, 4, 4]), &device);
        assert_eq!(pooling(features, &[], box_options([7, 7])).dims(), [0, 3, 7, 7]);
    }
    let weights = TensorData::new(Vec::<f32>::new(), [0, 3, 7, 7]);
    let (_, grad) = pool(roi_align, noise_of([2, 3, 4, 4]), &[], weights, box_options([7, 7]));
    assert_eq!(values(grad), [0.0; 2 * 3 * 4 * 4]);
}

#[test]
#[should_panic(expected = "names image 2 of a batch of 2")]
fn a_box_of_an_image_outside_the_batch_is_refused() {
    let device = device();
    let boxes = [on_image(2, [0.0, 0.0, 1.0, 1.0])];
    roi_align(Tensor::zeros([2, 1, 4, 4], &device), &boxes, box_options([1, 1]));
}

/// What is computed under capture has no values: a kernel that read some from the device would panic here.
#[test]
fn capture_records_standard_operators_forward_and_backward_without_reading_a_value() {
    let device = Device::capture();
    let (boxes, options) = (random_boxes(3, 1, 6.0), box_options([2, 2]));
    let captured = device.capture_scope(|scope| {
        let features = Tensor::<4>::from_data(noise_of([1, 2, 6, 6]), &device) * 2.0;
        let output = roi_align(features, &boxes, options);
        assert_eq!(output.dims(), [3, 2, 2, 2]);
        let gradient = <Dispatch as RoiAlignOps>::roi_align_backward(
            output.into_dispatch(),
            boxes.as_slice().into(),
            [1, 2, 6, 6],
            options,
        );
        assert_eq!(Tensor::<4>::from_dispatch(gradient).dims(), [1, 2, 6, 6]);
        scope.complete([], [])
    });
    let operations = captured.unwrap().graph.operations;
    assert!(!operations.is_empty());
    assert!(operations.iter().all(|operation| !format!("{operation:?}").starts_with("Custom")));
}
