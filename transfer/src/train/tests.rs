//! Whole runs of a tiny detector on a handful of generated images.

mod evaluation;

use std::path::PathBuf;
use std::sync::Arc;

use scrl_core::checkpoint::weights::{BackboneMetadata, read_safetensors, save_backbone};
use scrl_core::engine::{Interrupt, OpenMode, Progress};
use scrl_core::models::parameters::{self, TensorMap};
use scrl_core::models::{Arch, ResNetConfig};
use scrl_core::random::stream;
use scrl_core::transforms::RgbImage;

use super::*;
use crate::config::SolverConfig;
use crate::data::{DataSource, Labels};
use crate::detection::{
    AnchorConfig, BackboneConfig, DetectorConfig, FpnConfig, Norm, RoiHeadsConfig, RpnConfig, TestConfig,
};
use crate::evaluation::{PrecisionRecall, read_results};
use crate::inference::{EvaluateOptions, evaluate_weights};
use crate::weights::init_detector;

/// A VOC folder of six images with one bright square each, two of them for evaluation, and an empty one.
fn write_data(root: &Path) {
    for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for index in 0..6_u32 {
        let (x, y, side) = (6 * index, 30 - 5 * index, 20 + 2 * index);
        let (width, height) = if index == 3 { (64, 80) } else { (80, 64) };
        let inside = |px: u32, py: u32| (x..x + side).contains(&px) && (y..y + side).contains(&py);
        let color = if index % 2 == 0 { [230, 40, 40] } else { [40, 40, 230] };
        let image = RgbImage::from_fn(width, height, |px, py| {
            image::Rgb(if inside(px, py) { color } else { [90; 3] })
        });
        image.save(root.join(format!("JPEGImages/{index}.png"))).unwrap();
        let name = if index % 2 == 0 { "red" } else { "blue" };
        let xml = format!(
            "<annotation><size><width>{width}</width><height>{height}</height></size><object><name>{name}</name>\
             <difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>\
             </object></annotation>",
            x + 1,
            y + 1,
            x + side,
            y + side
        );
        std::fs::write(root.join(format!("Annotations/{index}.xml")), xml).unwrap();
    }
    let empty = "<annotation><size><width>80</width><height>64</height></size></annotation>";
    std::fs::write(root.join("Annotations/empty.xml"), empty).unwrap();
    RgbImage::new(80, 64).save(root.join("JPEGImages/empty.png")).unwrap();
    std::fs::write(root.join("ImageSets/Main/train.txt"), "0\n1\n2\n3\nempty\n").unwrap();
    std::fs::write(root.join("ImageSets/Main/val.txt"), "4\n5\n").unwrap();
}

fn tiny(data: &Path) -> TransferConfig {
    let config = TransferConfig {
        iterations: 6,
        batch_size: 2,
        min_sizes: vec![48, 64],
        max_size: 96,
        test_min_size: 64,
        test_max_size: 96,
        log_every: 1,
        checkpoint_every: 0,
        threads: 2,
        solver: SolverConfig { lr: 0.01, warmup_iterations: 2, milestones: Vec::new(), ..Default::default() },
        model: DetectorConfig {
            backbone: BackboneConfig { arch: Arch::ResNet18, width: 0.125, ..Default::default() },
            fpn: FpnConfig { channels: 8, norm: true },
            roi_heads: RoiHeadsConfig { box_head_dim: 16, batch: 16, ..Default::default() },
            anchors: AnchorConfig { sizes: vec![8.0, 16.0, 32.0, 64.0, 128.0], ..Default::default() },
            rpn: RpnConfig {
                pre_nms_train: 50,
                post_nms_train: 30,
                pre_nms_test: 50,
                post_nms_test: 30,
                batch: 32,
                ..Default::default()
            },
            test: TestConfig { score_threshold: 0.0, ..Default::default() },
            ..Default::default()
        },
        ..Default::default()
    };
    config.with_data_dir(data).unwrap()
}

/// A temporary folder with `data` in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_data(&folder.path().join("data"));
    folder
}

fn transfer(
    config: &TransferConfig,
    init: &InitWeights,
    out: &Path,
    resume: bool,
    monitor: &mut Monitor,
) -> Result<TransferOutcome, TransferError> {
    let mode = if resume { OpenMode::Resume } else { OpenMode::New };
    let run = RunDir::open(out, mode).unwrap();
    Transfer::new(config, init, &run).resume(resume).run(&Device::flex(), monitor)
}

fn finish(config: &TransferConfig, init: &InitWeights, out: &Path) -> TransferReport {
    match transfer(config, init, out, false, &mut Monitor::silent()).unwrap() {
        TransferOutcome::Finished(report) => *report,
        other => panic!("{other:?}"),
    }
}

fn tensors(run: &Path) -> TensorMap {
    read_safetensors(&run.join("weights").join(DETECTOR_FILE)).unwrap().0
}

fn events(run: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).collect()
}

/// Asks to stop after so many iterations.
struct StopAfter(u64, Interrupt);

impl Progress for StopAfter {
    fn start(&mut self, _total: u64, _done: u64, _title: &str) {}
    fn update(&mut self, done: u64, _message: &str) {
        if done == self.0 {
            self.1.request();
        }
    }
    fn finish(&mut self, _message: &str) {}
}

/// Asks to stop when the evaluation of this number starts.
struct StopAtEvaluation(u64, Interrupt);

impl Progress for StopAtEvaluation {
    fn start(&mut self, _total: u64, _done: u64, title: &str) {
        self.0 -= u64::from(title == "evaluation");
        if self.0 == 0 {
            self.1.request();
        }
    }
    fn update(&mut self, _done: u64, _message: &str) {}
    fn finish(&mut self, _message: &str) {}
}

fn stop_at_evaluation(number: u64) -> Monitor {
    let mut monitor = Monitor::silent();
    monitor.progress = Box::new(StopAtEvaluation(number, monitor.interrupt.clone()));
    monitor
}

fn stop_after(iterations: u64) -> Monitor {
    let mut monitor = Monitor::silent();
    monitor.progress = Box::new(StopAfter(iterations, monitor.interrupt.clone()));
    monitor
}

#[test]
fn a_run_writes_its_weights_results_metrics_and_events() {
    let folder = folder();
    let config = tiny(&folder.path().join("data"));
    let run = folder.path().join("run");
    let report = finish(&config, &InitWeights::Random, &run);
    // Four of the five training images have an object.
    assert_eq!((report.train_images, report.val_images, report.init.as_str()), (4, 2, "random"));
    let lines = events(&run, "train");
    assert_eq!(lines.len(), 6);
    for key in ["loss", "loss_rpn_box", "loss_classifier", "lr", "grad_norm"] {
        assert!(
            lines.iter().all(|line| line[key].as_f64().is_some_and(|v| v.is_finite() && v >= 0.0)),
            "{key}"
        );
    }
    assert_eq!(events(&run, "eval").len(), 1);
    let metrics: Value = serde_json::from_slice(&std::fs::read(run.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["AP"].as_f64(), report.metrics.coco.ap);
    assert_eq!(metrics["VOC07_mAP"].as_f64(), report.metrics.voc.eleven_points);
    let stored: TransferConfig = scrl_core::config::load(&run.join("config.toml"), &[]).unwrap();
    assert_eq!((stored.model.num_classes, stored.data), (2, config.data));
}

#[test]
fn the_stored_detector_gives_the_stored_results() {
    let folder = folder();
    let config = tiny(&folder.path().join("data"));
    let run = folder.path().join("run");
    let report = finish(&config, &InitWeights::Random, &run);
    let val = Arc::new(config.data.val.as_ref().unwrap().load(Labels::Boxes).unwrap());
    let (options, device) = (EvaluateOptions::default(), Device::flex());
    let again = evaluate_weights(&run, &val, options, &device, &mut Monitor::silent()).unwrap().unwrap();
    assert_eq!(again.metrics, report.metrics);
    let stored = read_results(&run.join("results.json"), &val).unwrap();
    assert!(stored.iter().map(|image| image.detections.len()).sum::<usize>() > 0);
    for (stored, again) in stored.iter().zip(&again.detections) {
        assert_eq!((stored.image_id, &stored.detections), (again.image_id, &again.detections));
    }
    let sizes: Vec<(f32, f32)> = val.images.iter().map(|i| (i.width as f32, i.height as f32)).collect();
    let inside =
        |image: usize, b: &scrl_core::structures::BoxXyxy| b.x2 <= sizes[image].0 && b.y2 <= sizes[image].1;
    assert!(
        again.detections.iter().enumerate().all(|(i, d)| d.detections.iter().all(|d| inside(i, &d.bbox)))
    );
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bits() {
    let folder = folder();
    let config = tiny(&folder.path().join("data"));
    let [straight, halved] = ["straight", "halved"].map(|name| folder.path().join(name));
    finish(&config, &InitWeights::Random, &straight);
    let outcome = transfer(&config, &InitWeights::Random, &halved, false, &mut stop_after(3)).unwrap();
    assert_eq!(outcome, TransferOutcome::Interrupted { iteration: 3 });
    assert!(!halved.join("metrics.json").exists());
    // Other threads, same result.
    let other = TransferConfig { threads: 1, prefetch: 1, ..config };
    // What the run started from is the checkpoint's to say.
    let init = InitWeights::Backbone(PathBuf::from("elsewhere"));
    let TransferOutcome::Finished(report) =
        transfer(&other, &init, &halved, true, &mut Monitor::silent()).unwrap()
    else {
        panic!("the resumed run did not finish");
    };
    assert_eq!(report.init, "random");
    assert_eq!(tensors(&straight), tensors(&halved));
    let losses =
        |run: &Path| events(run, "train").iter().map(|line| line["loss"].clone()).collect::<Vec<_>>();
    assert_eq!(losses(&straight), losses(&halved));
    assert_eq!(losses(&straight).len(), 6);
}

#[test]
fn a_run_refuses_to_resume_with_another_config() {
    let folder = folder();
    let config = tiny(&folder.path().join("data"));
    let run = folder.path().join("run");
    transfer(&config, &InitWeights::Random, &run, false, &mut stop_after(1)).unwrap();
    let other = TransferConfig { seed: 5, ..config };
    let error = transfer(&other, &InitWeights::Random, &run, true, &mut Monitor::silent()).unwrap_err();
    assert!(matches!(&error, TransferError::Changed(changed) if changed.changes[0].key == "seed"), "{error}");
}

/// AP of each evaluation by its step.
#[test]
fn a_pretrained_backbone_is_taken_over_and_checked() {
    let folder = folder();
    let config = TransferConfig { iterations: 1, ..tiny(&folder.path().join("data")) };
    let resnet = ResNetConfig { arch: Arch::ResNet18, width: 0.125 };
    let backbone = resnet.init(&mut stream(99, &[]), &Device::flex());
    let path = folder.path().join("backbone.safetensors");
    save_backbone(&path, &backbone, &BackboneMetadata::unknown(resnet)).unwrap();
    let init = InitWeights::parse(path.to_str().unwrap()).unwrap();
    assert_eq!(init, InitWeights::Backbone(path.clone()));

    // Frozen as a whole, the backbone leaves the run as it came.
    let mut frozen = config.clone();
    (frozen.model.backbone.freeze_at, frozen.model.backbone.norm) = (5, Norm::FrozenBatchNorm);
    let run = folder.path().join("frozen");
    finish(&frozen, &init, &run);
    let trained = tensors(&run);
    for (key, value) in parameters::collect(&backbone) {
        assert_eq!(trained[&format!("backbone.body.{key}")], value, "{key}");
    }

    // Trained, it moves away from where it came from, weights and statistics.
    let run = folder.path().join("trained");
    let mut full_rate = config.clone();
    full_rate.solver.warmup_iterations = 0;
    finish(&full_rate, &init, &run);
    let (trained, before) = (tensors(&run), parameters::collect(&backbone));
    for key in ["layer1.0.conv1.weight", "bn1.running_mean", "layer4.1.bn2.weight"] {
        assert_ne!(trained[&format!("backbone.body.{key}")], before[key], "{key}");
    }

    let mut wider = config.clone();
    wider.model.backbone.width = 0.25;
    let error =
        transfer(&wider, &init, &folder.path().join("wider"), false, &mut Monitor::silent()).unwrap_err();
    assert!(error.to_string().contains("model.width = 0.125"), "{error}");
}

#[test]
fn a_detector_is_a_start_for_another_run() {
    let folder = folder();
    let config = TransferConfig { iterations: 1, ..tiny(&folder.path().join("data")) };
    let first = folder.path().join("first");
    finish(&config, &InitWeights::Random, &first);
    let init = InitWeights::parse(first.to_str().unwrap()).unwrap();
    assert_eq!(init, InitWeights::Detector(first.clone()));
    let mut config = config;
    config.model.num_classes = 2;
    let model = init_detector(&config, &init, &Device::flex()).unwrap();
    assert_eq!(parameters::collect(&model), tensors(&first));
    // Other classes keep all but the predictor.
    config.model.num_classes = 7;
    let model = parameters::collect(&init_detector(&config, &init, &Device::flex()).unwrap());
    assert_eq!(model["rpn.head.bbox_pred.weight"], tensors(&first)["rpn.head.bbox_pred.weight"]);
    assert_eq!(model["roi_heads.box_predictor.cls_score.bias"].shape()[..], [8]);
    config.model.fpn.norm = false;
    let error = init_detector(&config, &init, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("left over") && error.contains("fpn"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_names_the_iteration_and_its_images() {
    let folder = folder();
    let mut config = tiny(&folder.path().join("data"));
    config.solver = SolverConfig { lr: 1e30, warmup_iterations: 0, ..config.solver };
    let run = folder.path().join("run");
    let error = transfer(&config, &InitWeights::Random, &run, false, &mut Monitor::silent()).unwrap_err();
    let TransferError::NonFinite { iteration, images, .. } = &error else { panic!("{error}") };
    assert!((1..6).contains(iteration), "{error}");
    assert!(images.contains(".png, "), "{error}");
}

#[test]
fn the_learned_detector_is_better_than_the_random_one() {
    let folder = folder();
    let mut config = tiny(&folder.path().join("data"));
    config.data.val = match config.data.train.clone() {
        Some(DataSource::Voc { root, .. }) => Some(DataSource::Voc { root, split: "train".into() }),
        other => other,
    };
    // Always the same four images, unchanged: over seeds, AP50 ends between 0.5 and 0.7.
    config = TransferConfig { min_sizes: vec![64], flip: 0.0, batch_size: 4, ..config };
    let [first, last] = ["first", "last"].map(|name| folder.path().join(name));
    let before = finish(&TransferConfig { iterations: 1, ..config.clone() }, &InitWeights::Random, &first);
    config.iterations = 120;
    config.solver.lr = 0.02;
    let after = finish(&config, &InitWeights::Random, &last);
    let losses: Vec<f64> = events(&last, "train").iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    assert!(losses[119] < 0.7 * losses[0], "{} {}", losses[0], losses[119]);
    let (before, after) = (before.metrics.coco.ap50.unwrap(), after.metrics.coco.ap50.unwrap());
    assert!(after > before + 0.2, "AP50 from {before} to {after}");
}
