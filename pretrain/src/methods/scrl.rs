//! SCRL (Roh et al., CVPR 2021, arXiv 2103.06122): boxes that two views share are compared, each pooled by RoIAlign.

use super::bootstrap::Bootstrap;
use super::method::{MethodFacts, MomentumNetwork, MomentumSchedule};
use crate::pooling::Pooling;

pub(super) const FACTS: MethodFacts = MethodFacts {
    name: "scrl",
    views: 2,
    online_views: 2,
    momentum_network: Some(MomentumNetwork { views: 2, schedule: MomentumSchedule::RisingToOne }),
    needs_boxes: true,
    needs_labels: false,
    level: |settings| settings.heads.pool_level.into(),
    probe_lr: 0.2,
    init: |settings, _, encoder, rng, device| {
        Box::new(Bootstrap::init(settings, Pooling::MatchedBoxes, encoder, rng, device))
    },
};

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use scrl_core::data::image_folder::ImageFolder;
    use scrl_core::engine::{Monitor, OpenMode, Progress, RunDir, TrainEnd};
    use scrl_core::models::parameters::TensorMap;
    use scrl_core::random::stream;
    use scrl_core::structures::BoxXyxy;
    use scrl_core::transforms::RgbImage;
    use serde_json::json;

    use burn::tensor::Device;

    use crate::box_generator::MatchedBox;
    use crate::config::PretrainConfig;
    use crate::image_views::{ImageViews, ViewPixels};
    use crate::methods::{self, StepSettings};

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

    fn image(phase: f32, boxes: usize) -> ImageViews {
        let pixels = |phase: f32| {
            let values = (0..3 * 32 * 32).map(|i| (i as f32 * 0.37 + phase).sin());
            ViewPixels::square(values.collect(), 32)
        };
        let whole = BoxXyxy::new(0.0, 0.0, 32.0, 32.0);
        let boxes = vec![MatchedBox { view1: whole, view2: whole }; boxes];
        ImageViews { views: vec![pixels(phase), pixels(2.0 * phase)], boxes, label: None }
    }

    #[test]
    fn a_batch_without_any_box_changes_nothing_and_one_box_is_enough_for_a_step() {
        let device = Device::flex().autodiff();
        let config = config();
        let mut method = methods::init(&config, 0, None, &mut stream(1, &[]), &device);
        let mut optimizer = config.new_optimizer();
        let settings = StepSettings { lr: 0.1, ema_momentum: 0.9 };
        // Running statistics are among the tensors.
        let before: Vec<(&str, TensorMap)> = method.tensors();
        assert!(method.step(&[image(1.0, 0), image(2.0, 0)], settings, &mut optimizer).is_none());
        assert_eq!(method.tensors(), before);

        let report = method.step(&[image(1.0, 0), image(2.0, 1)], settings, &mut optimizer).expect("a step");
        assert_eq!((report.regions, report.without_boxes), (1, 1));
        assert!(report.loss.into_scalar::<f32>().is_finite());
        assert_ne!(method.tensors(), before);
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
        let end = crate::Pretraining::new(&config(), &data, &run)
            .run(&Device::flex(), &mut monitor)
            .expect("a run");
        assert!(matches!(end, TrainEnd::Finished));
        assert_eq!(*steps.lock().expect("the list"), [1, 2, 3, 4]);
        let saved: serde_json::Value = scrl_core::checkpoint::state::load(&run.checkpoints().join("last"))
            .map(|(_, cursor)| cursor)
            .expect("a checkpoint");
        assert_eq!((&saved["skipped_batches"], &saved["images_without_boxes"]), (&json!(4), &json!(8)));
    }
}
