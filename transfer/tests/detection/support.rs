//! What the tests share: numbers by formula, small detectors, gradients by path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use scrl_core::models::Arch;
use scrl_core::models::parameters::{self, ModulePath, TensorMap};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_transfer::detection::{
    AnchorConfig, BackboneConfig, DetectorConfig, FpnConfig, Roi, RoiHeadsConfig, RpnConfig, Target,
};
use serde::de::DeserializeOwned;

/// A file below `fixtures`.
pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A JSON file below `fixtures`.
pub fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixture_path(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("fixture {name}: {error}"))
}

pub fn bbox([x1, y1, x2, y2]: [f32; 4]) -> BoxXyxy {
    BoxXyxy::new(x1, y1, x2, y2)
}

pub fn boxes(rows: &[[f32; 4]]) -> Vec<BoxXyxy> {
    rows.iter().copied().map(bbox).collect()
}

/// Host values of a tensor of floats.
pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// Differences are relative to the expected values, or absolute where these are below 1.
#[track_caller]
pub fn assert_near(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    let wrong = actual.iter().zip(expected).position(|(a, e)| {
        let near = (a - e).abs() <= tolerance * e.abs().max(1.0);
        !near
    });
    if let Some(index) = wrong {
        panic!("value {index} is {}, not {}", actual[index], expected[index]);
    }
}

/// Pseudo-random number in [-1, 1) from (index, key) alone; the finaliser of MurmurHash3.
pub fn noise(index: usize, key: u32) -> f64 {
    let mut h = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(key.wrapping_mul(40_503));
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    h as f64 / 2f64.powi(31) - 1.0
}

/// A tensor of noise.
pub fn noise_tensor<const D: usize>(shape: [usize; D], key: u32, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|index| noise(index, key) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The module with each tensor's values by `formula(path, shape, place among the sorted paths)`.
pub fn filled<M: Module>(module: M, formula: impl Fn(&str, &[usize], u32) -> Vec<f32>) -> M {
    let weights: TensorMap = parameters::collect(&module)
        .into_iter()
        .enumerate()
        .map(|(key, (name, tensor))| {
            let shape = tensor.shape().to_vec();
            let values = formula(&name, &shape, key as u32);
            (name, TensorData::new(values, shape))
        })
        .collect();
    let (module, report) = parameters::load(module, &weights);
    assert!(report.is_complete(), "{report:?}");
    module
}

/// As the parts' fixtures fill their modules: 0.5 times the noise of key `first` and the following ones.
pub fn half_noise(first: u32) -> impl Fn(&str, &[usize], u32) -> Vec<f32> {
    move |_, shape, key| {
        (0..shape.iter().product()).map(|index| 0.5 * noise(index, first + key) as f32).collect()
    }
}

/// Grids of the parts' feature maps, P2 to P6.
pub const GRIDS: [[usize; 2]; 5] = [[25, 33], [13, 17], [7, 9], [4, 5], [2, 3]];

/// The parts' feature maps of two images, one a channel count.
pub fn feature_maps(channels: &[usize], device: &Device) -> Vec<Tensor<4>> {
    let map = |(level, &channels): (usize, &usize)| {
        let [height, width] = GRIDS[level];
        noise_tensor([2, channels, height, width], 200 + level as u32, device)
    };
    channels.iter().enumerate().map(map).collect()
}

/// Of [`images`].
pub const SIZES: [Size; 3] =
    [Size { width: 128, height: 96 }, Size { width: 112, height: 80 }, Size { width: 96, height: 96 }];

/// Blocks of eight pixels and noise, zero outside each image's size.
pub fn images(device: &Device) -> Tensor<4> {
    let (height, width) = (96, 128);
    let mut pixels = vec![0.0; SIZES.len() * 3 * height * width];
    for (n, size) in SIZES.iter().enumerate() {
        let value =
            |c: usize, y: usize, x: usize| noise((c * height + y) * width + x, 1000 + n as u32) as f32;
        for c in 0..3 {
            for y in 0..size.height as usize {
                for x in 0..size.width as usize {
                    pixels[((n * 3 + c) * height + y) * width + x] =
                        value(c, y / 8 * 8, x / 8 * 8) + 0.5 * value(c, y, x);
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(pixels, [SIZES.len(), 3, height, width]), device)
}

pub fn targets() -> Vec<Target> {
    let first = [[10.0, 12.0, 50.0, 60.0], [60.0, 20.0, 120.0, 90.0], [30.5, 40.25, 62.0, 72.0]];
    vec![
        Target { boxes: boxes(&first), labels: vec![0, 2, 1], masks: Vec::new() },
        Target { boxes: boxes(&[[5.0, 8.0, 45.0, 40.0]]), labels: vec![1], masks: Vec::new() },
        Target::default(),
    ]
}

/// The gradient of each trainable parameter by path; `None` where it has none.
pub fn gradients_by_path<M: Module>(model: &M, gradients: &Gradients) -> BTreeMap<String, Option<Vec<f32>>> {
    struct Collect<'a> {
        path: ModulePath,
        gradients: &'a Gradients,
        found: BTreeMap<String, Option<Vec<f32>>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.found.insert(self.path.to_string(), param.val().grad(self.gradients).map(floats));
            }
        }
    }
    let mut visitor = Collect { path: ModulePath::default(), gradients, found: BTreeMap::new() };
    model.visit(&mut visitor);
    visitor.found
}

/// L2 norm of each trainable parameter's gradient by path; `None` where it has none.
pub fn gradient_norms<M: Module>(model: &M, gradients: &Gradients) -> BTreeMap<String, Option<f32>> {
    let found = gradients_by_path(model, gradients).into_iter();
    found.map(|(name, gradient)| (name, gradient.map(|values| norm(&values) as f32))).collect()
}

/// L2 norm.
pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| value as f64 * value as f64).sum::<f64>().sqrt()
}

/// A detector that trains in a blink.
pub fn tiny() -> DetectorConfig {
    DetectorConfig {
        backbone: BackboneConfig { arch: Arch::ResNet18, width: 0.125, ..Default::default() },
        fpn: FpnConfig { channels: 16, norm: true },
        roi_heads: RoiHeadsConfig {
            box_head_dim: 32,
            canonical_box_size: 56.0,
            batch: 64,
            ..Default::default()
        },
        anchors: AnchorConfig { sizes: vec![8.0, 16.0, 32.0, 64.0, 96.0], ..Default::default() },
        rpn: RpnConfig { post_nms_train: 100, post_nms_test: 50, batch: 64, ..Default::default() },
        num_classes: 3,
        ..Default::default()
    }
}

/// The regions of several images.
pub fn rois(images: &[Vec<[f32; 4]>]) -> Vec<Roi> {
    let of_image = |(image, rows): (usize, &Vec<[f32; 4]>)| {
        boxes(rows).into_iter().map(move |bbox| Roi { image, bbox }).collect::<Vec<_>>()
    };
    images.iter().enumerate().flat_map(of_image).collect()
}

/// From `[height, width]`.
pub fn sizes(rows: &[[u32; 2]]) -> Vec<Size> {
    rows.iter().map(|&[height, width]| Size { width, height }).collect()
}
