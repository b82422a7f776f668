//! What a step and a detection on a GPU read back: the host waits for the GPU once where it chooses regions, and else never.

use burn::module::Module;
use burn::tensor::{Device, DeviceKind};
use scrl_core::models::Arch;
use scrl_transfer::InitWeights;
use scrl_transfer::config::TransferConfig;
use scrl_transfer::data::Batch;
use scrl_transfer::detection::{BackboneConfig, DetectorConfig, FpnConfig, Norm, RoiHeadsConfig};
use scrl_transfer::train::Training;

use crate::support::*;

#[path = "../../../ops/tests/support/reads.rs"]
mod counter;

fn model(base: DetectorConfig) -> DetectorConfig {
    let norm = Norm::BatchNorm;
    DetectorConfig {
        backbone: BackboneConfig { arch: Arch::ResNet18, width: 0.125, norm, ..base.backbone },
        fpn: FpnConfig { channels: 8, norm: true },
        roi_heads: RoiHeadsConfig { box_head_dim: 16, batch: 16, ..base.roi_heads },
        num_classes: 3,
        ..base
    }
}

#[test]
fn a_step_waits_once_for_proposals_and_never_for_losses() {
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    for (config, step_reads, detection_reads) in
        [(DetectorConfig::torchvision(), 1, 2), (DetectorConfig::retinanet(), 0, 1)]
    {
        let architecture = config.architecture;
        let config = TransferConfig { model: model(config), batch_size: 3, ..Default::default() };
        let batch = || Batch {
            images: images(&device),
            sizes: SIZES.to_vec(),
            targets: targets(),
            indices: vec![0, 1, 2],
            sources: SIZES.to_vec(),
        };
        let training = Training::start(&config, &InitWeights::Random, &device).unwrap();
        let (training, _losses) = training.step(batch(), 0.001, 1, false);
        let ((training, losses), count) = counter::counted(|| training.step(batch(), 0.001, 1, false));
        assert_eq!(count, step_reads, "a step of {architecture:?}");
        let (losses, count) = counter::counted(|| losses.read());
        assert!(losses.total().is_finite());
        assert_eq!(count, 1, "the losses of {architecture:?}");

        let detector = training.model.valid();
        let plain = device.clone().inner();
        let (_found, count) = counter::counted(|| detector.detect(images(&plain), &SIZES));
        assert_eq!(count, detection_reads, "a detection of {architecture:?}");
    }
}
