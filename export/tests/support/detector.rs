//! Small detectors with random weights, exported and validated.

use std::path::PathBuf;

use burn::module::Param;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::models::{Arch, parameters};
use scrl_core::random::{RngExt, standard_normal, stream};
use scrl_core::structures::Size;
use scrl_export::{
    DetectorInfo, DetectorInputs, DetectorOptions, DetectorReport, ExportError, export_detector,
    validate_detector,
};
use scrl_transfer::DetectorMetadata;
use scrl_transfer::data::{Category, Preprocessing};
use scrl_transfer::detection::{
    AnchorConfig, BackboneConfig, BoxHead, Detector, DetectorConfig, FasterRcnn, FpnConfig, Pooler, Roi,
    RoiHeadsConfig, RpnConfig, Variant,
};

pub struct Case {
    pub model: Detector,
    pub info: DetectorInfo,
    pub folder: tempfile::TempDir,
}

impl Case {
    pub fn new(config: DetectorConfig) -> Self {
        let categories =
            (0..config.num_classes as u64).map(|id| Category { id: id + 1, name: format!("class {id}") });
        let metadata = DetectorMetadata {
            categories: categories.collect(),
            preprocessing: Preprocessing { min_size: 96, max_size: 160, ..Default::default() },
            config: config.clone(),
        };
        let folder = tempfile::tempdir().unwrap();
        Self { model: Detector::FasterRcnn(random_model(&config)), info: DetectorInfo::new(metadata), folder }
    }

    pub fn export(&self, options: &DetectorOptions) -> PathBuf {
        let path = self.folder.path().join("detector.onnx");
        let report = export_detector(&self.model, &self.info, &path, options).unwrap();
        assert_eq!(report.bytes, std::fs::metadata(&path).unwrap().len());
        path
    }

    pub fn validate(&self, options: &DetectorOptions) -> Result<DetectorReport, ExportError> {
        validate_detector(&self.export(options), &self.model, &self.info, &DetectorInputs::default())
    }
}

/// A narrow detector for small images.
pub fn small(arch: Arch, width: f64, variant: Variant) -> DetectorConfig {
    DetectorConfig {
        backbone: BackboneConfig { arch, width, ..variant.config().backbone },
        fpn: FpnConfig { channels: 32, ..variant.config().fpn },
        roi_heads: RoiHeadsConfig {
            box_head_dim: 64,
            canonical_box_size: 56.0,
            ..variant.config().roi_heads
        },
        anchors: AnchorConfig { sizes: vec![16.0, 32.0, 64.0, 96.0, 128.0], ..variant.config().anchors },
        rpn: RpnConfig { pre_nms_test: 200, post_nms_test: 100, ..variant.config().rpn },
        num_classes: 3,
        ..variant.config()
    }
}

/// Weights that give detections of every class: normal ones of unit gain, batch norms with statistics of their own.
pub fn random_model(config: &DetectorConfig) -> FasterRcnn {
    let mut rng = stream(5, &[]);
    let model = FasterRcnn::init(config, &mut rng, &Device::flex());
    let mut tensors = parameters::collect(&model);
    // The mask head has a stream of its own.
    let mut of_masks = stream(7, &[]);
    for (path, data) in &mut tensors {
        let rng = if path.contains(".mask_") { &mut of_masks } else { &mut rng };
        let shape = data.shape().to_vec();
        let fan_in: usize = shape[1..].iter().product();
        let gains = [("cls_logits", 0.3), ("bbox_pred", 0.2), ("fpn", 0.5), ("box_head", 1.0)];
        let gain = gains.iter().find(|(part, _)| path.contains(part)).map_or(1.4, |(_, gain)| *gain);
        let mut sample = || match shape.len() {
            1 if path.ends_with("running_var") => rng.random_range(0.5..1.5),
            1 if path.ends_with("bn3.weight") || path.ends_with("bn2.weight") => rng.random_range(0.3..0.7),
            1 if path.ends_with("weight") => rng.random_range(0.7..1.3),
            1 => 0.1 * standard_normal(rng),
            _ => gain * standard_normal(rng) / (fan_in as f32).sqrt(),
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| sample()).collect();
        *data = TensorData::new(values, shape);
    }
    let (model, report) = parameters::load(model, &tensors);
    assert!(report.is_complete(), "{report:?}");
    with_spread_scores(model)
}

/// The model with class scores that spread whatever the width: logits of deviation 2 on the proposals of a noisy image.
pub fn with_spread_scores(mut model: FasterRcnn) -> FasterRcnn {
    let mut rng = stream(6, &[]);
    let pixels: Vec<f32> = (0..3 * 96 * 128).map(|_| standard_normal(&mut rng)).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, 96, 128]), &Device::flex());
    let features = model.backbone.forward(images.clone());
    let proposals = model.proposals(images, &[Size { width: 128, height: 96 }]);
    let rois: Vec<Roi> = proposals[0].iter().map(|&bbox| Roi { image: 0, bbox }).collect();
    let (pooled, _) = Pooler::new(&model.config).forward(&features, &rois);
    let pooled = pooled.flatten(1, 3);
    let BoxHead { fc6, fc7 } = &model.roi_heads.box_head;
    let predictor = &mut model.roi_heads.box_predictor;
    let logits = predictor.cls_score.forward(relu(fc7.forward(relu(fc6.forward(pooled)))));
    let deviation = logits.clone().sub(logits.mean_dim(0)).square().mean().sqrt().into_scalar::<f32>();
    let weight = predictor.cls_score.weight.val();
    predictor.cls_score.weight = Param::from_tensor(weight.mul_scalar(2.0 / deviation));
    model
}

#[track_caller]
pub fn assert_reproduced(report: &DetectorReport) {
    println!("{}", report.table());
    assert!(report.passed && report.total.unexplained == 0);
    // What finds nothing would agree whatever the weights are.
    assert!(report.total.matched > 100, "{}", report.table());
    assert!(report.total.ties * 20 <= report.total.matched, "{}", report.table());
}
