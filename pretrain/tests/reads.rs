//! A step of pretraining on a GPU reads nothing back, so that the host prepares the next one meanwhile.
#![cfg(feature = "wgpu")]

#[path = "../../ops/tests/support/reads.rs"]
mod reads;

use std::path::Path;

use burn::tensor::{Device, DeviceKind};
use scrl_core::random::stream;
use scrl_core::solver::Optimizer;
use scrl_core::structures::BoxXyxy;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::box_generator::MatchedBox;
use scrl_pretrain::image_views::{ImageViews, ViewPixels};
use scrl_pretrain::methods::{self, StepSettings};

const SIDE: u32 = 32;

fn image(index: usize) -> ImageViews {
    let view = |phase: f32| {
        let values = (0..3 * SIDE * SIDE).map(|i| (i as f32 * 0.37 + phase).sin());
        ViewPixels::square(values.collect(), SIDE)
    };
    let bbox = BoxXyxy::new(2.0, 3.0, 30.0, 28.0);
    ImageViews {
        views: vec![view(index as f32), view(0.5 + index as f32)],
        boxes: vec![MatchedBox { view1: bbox, view2: bbox }],
        label: Some(index % 2),
    }
}

#[test]
fn a_step_reads_nothing_from_the_device() {
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    let batch: Vec<_> = (0..4).map(image).collect();
    for method in ["scrl", "byol", "supervised", "densecl"] {
        let text = format!(
            "method = \"{method}\"\n[model]\narch = \"resnet18\"\nwidth = 0.125\n[augment]\nview_size = {SIDE}\n\
             [boxes]\nmin_size = 8.0\n[heads]\nhidden = 16\noutput = 8\n[schedule]\nepochs = 1\nbatch_size = 4\nbase_lr = 0.1\n"
        );
        let config: PretrainConfig = scrl_core::config::parse(&text, Path::new("test.toml"), &[]).unwrap();
        let config = config.validate().unwrap();
        let mut network = methods::init(&config, 2, None, &mut stream(1, &[]), &device);
        let mut optimizer = Optimizer::new(config.optimizer.clone());
        let settings = StepSettings { lr: 0.1, ema_momentum: 0.9 };
        let mut step = || network.step(&batch, settings, &mut optimizer).expect("the batch has boxes");
        step();
        let (report, count) = reads::counted(step);
        assert_eq!(count, 0, "{method}");
        // The count counts.
        let (loss, count) = reads::counted(|| report.loss.into_scalar::<f32>());
        assert!(loss.is_finite() && count == 1, "{method}: {count} reads of the loss");
    }
}
