//! SCRL's pooling: the boxes that both views show, by RoIAlign.

use burn::tensor::Tensor;
use scrl_ops::{ImageBox, RoiAlignOptions, roi_align};

use super::Sample;

/// All boxes: first those of view 1, images `0..N`, then those of view 2, images `N..2N`, in the same order; `None`
/// where there are none.
pub fn rois(batch: &[Sample]) -> Option<Vec<ImageBox>> {
    let of_view = |view: usize| {
        batch.iter().enumerate().flat_map(move |(image, sample)| {
            sample.boxes.iter().map(move |matched| {
                let bbox = if view == 0 { matched.view1 } else { matched.view2 };
                ImageBox { image: view * batch.len() + image, corners: bbox.to_array() }
            })
        })
    };
    let rois: Vec<ImageBox> = (0..2).flat_map(of_view).collect();
    (!rois.is_empty()).then_some(rois)
}

/// One vector per box: RoIAlign 1×1, adaptive sampling, not aligned.
///
/// # Shapes
/// - `features`: `[2N, C, H, W]` of stride `stride`; output `[rois, C]`
pub fn pool(features: Tensor<4>, rois: &[ImageBox], stride: usize) -> Tensor<2> {
    let options = RoiAlignOptions {
        output_size: [1, 1],
        spatial_scale: 1.0 / stride as f32,
        sampling_ratio: -1,
        aligned: false,
    };
    roi_align(features, rois, options).flatten(1, 3)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use burn::tensor::Device;
    use scrl_core::data::image_folder::ImageFolder;
    use scrl_core::engine::{Monitor, OpenMode, Progress, RunDir, TrainEnd};
    use scrl_core::models::parameters::TensorMap;
    use scrl_core::random::stream;
    use scrl_core::structures::BoxXyxy;
    use scrl_core::transforms::RgbImage;
    use serde_json::json;

    use super::*;
    use crate::box_generator::MatchedBox;
    use crate::config::PretrainConfig;
    use crate::methods::{Learner, StepSettings};

    fn config() -> PretrainConfig {
        serde_json::from_value(json!({
            "method": "scrl",
            "model": {"arch": "resnet18", "width": 0.125},
            // Two crops of a quarter of an image seldom share nearly all of a view.
            "augment": {"view_size": 32, "crop_scale": [0.2, 0.3]},
            "boxes": {"min_size": 31.0},
            "heads": {"hidden": 16, "output": 8},
            "schedule": {"epochs": 2, "batch_size": 2, "base_lr": 1.0},
            "log": {"interval": 1, "health_every": 0},
        }))
        .expect("settings")
    }

    fn sample(phase: f32, boxes: usize) -> Sample {
        let pixels = |phase: f32| (0..3 * 32 * 32).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
        let whole = BoxXyxy::new(0.0, 0.0, 32.0, 32.0);
        let boxes = vec![MatchedBox { view1: whole, view2: whole }; boxes];
        Sample { views: vec![pixels(phase), pixels(2.0 * phase)], boxes, label: None }
    }

    #[test]
    fn a_batch_without_any_box_changes_nothing_and_one_box_is_enough_for_a_step() {
        let device = Device::flex().autodiff();
        let config = config();
        let mut learner = Learner::init(&config, 0, None, &mut stream(1, &[]), &device);
        let mut optimizer = config.new_optimizer();
        let settings = StepSettings { lr: 0.1, ema_momentum: 0.9 };
        // Running statistics are among the tensors.
        let before: Vec<(&str, TensorMap)> = learner.tensors();
        assert!(learner.step(&[sample(1.0, 0), sample(2.0, 0)], settings, &mut optimizer).is_none());
        assert_eq!(learner.tensors(), before);

        let report =
            learner.step(&[sample(1.0, 0), sample(2.0, 1)], settings, &mut optimizer).expect("a step");
        assert_eq!((report.boxes, report.without_boxes), (1, 1));
        assert!(report.loss.into_scalar::<f32>().is_finite());
        assert_ne!(learner.tensors(), before);
    }

    /// Counts the steps that it is told of.
    struct Steps(Arc<Mutex<Vec<u64>>>);

    impl Progress for Steps {
        fn start(&mut self, _total: u64, _done: u64, _message: &str) {}
        fn update(&mut self, done: u64, _message: &str) {
            self.0.lock().expect("the list").push(done);
        }
        fn finish(&mut self, _message: &str) {}
    }

    #[test]
    fn a_run_whose_batches_have_no_boxes_skips_and_counts_them_and_finishes() {
        let folder = tempfile::tempdir().expect("a folder");
        for i in 0..4u8 {
            let image = RgbImage::from_fn(64, 48, |x, y| [x as u8 * 3, y as u8 * 5, 40 * i].into());
            image.save(folder.path().join(format!("{i}.png"))).expect("a file");
        }
        let data = ImageFolder::scan(&[folder.path().to_path_buf()]).expect("images");
        let runs = tempfile::tempdir().expect("a folder");
        let run = RunDir::open(&runs.path().join("run"), OpenMode::New).expect("a run directory");
        let steps = Arc::new(Mutex::new(Vec::new()));
        let mut monitor = Monitor { progress: Box::new(Steps(steps.clone())), ..Monitor::silent() };
        let end =
            crate::train(&config(), &data, None, &run, false, &Device::flex(), &mut monitor).expect("a run");
        assert!(matches!(end, TrainEnd::Finished));
        assert_eq!(*steps.lock().expect("the list"), [1, 2, 3, 4]);
        let saved: serde_json::Value = scrl_core::checkpoint::state::load(&run.checkpoints().join("last"))
            .map(|(_, cursor)| cursor)
            .expect("a checkpoint");
        assert_eq!((&saved["skipped_batches"], &saved["images_without_boxes"]), (&json!(4), &json!(8)));
    }
}
