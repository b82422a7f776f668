//! `scrl export detector`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use scrl_core::checkpoint::weights::read_tensors;
use scrl_core::config;
use scrl_core::engine::atomic;
use scrl_export::{
    DetectorInfo, DetectorInputs, DetectorOptions, DetectorReport, ExportError, export_detector, file_sha256,
    proven, validate_detector,
};
use scrl_transfer::data::{Category, Preprocessing};
use scrl_transfer::detection::{Architecture, BackboneConfig, DetectorConfig, Variant};
use scrl_transfer::weights::DETECTOR_FILE;
use scrl_transfer::{DetectorMetadata, LoadedDetector, TransferConfig, load_detector, load_state_dict};

use super::validation_images;
use crate::cli::{ExportDetectorArgs, VariantArg};
use crate::commands::Ending;
use crate::device;

/// One bias for each class and the background.
const CLASS_BIAS: &str = "roi_heads.box_predictor.cls_score.bias";

/// Images of `--images` that take part in the validation, each by itself and all together.
const VALIDATION_IMAGES: usize = 4;

pub fn run(args: &ExportDetectorArgs) -> Result<Ending> {
    let device = device::parse("cpu")?;
    let source = args.run.as_ref().or(args.weights.as_ref()).context("--run or --weights is needed")?;
    let images = validation_images(args.images.as_ref(), VALIDATION_IMAGES)?;
    let LoadedDetector { model, metadata } = match args.variant {
        Some(variant) => state_dict(args, source, variant.into(), &device)?,
        None => load_detector(source, &device)?,
    };
    let info = DetectorInfo {
        metadata,
        weights_sha256: Some(file_sha256(&weights_file(source))?),
        protocol: protocol(source),
        label_offset: i64::from(args.variant == Some(VariantArg::Torchvision)),
    };
    let options = DetectorOptions {
        opset: args.format.opset,
        input: args.input.into(),
        image_sizes: !args.no_image_sizes,
        fold_batch_norm: !args.format.no_fold,
        half: args.fp16,
    };
    let inputs = DetectorInputs { images, ..Default::default() };
    let proof = proven(
        &args.out,
        |path| export_detector(&model, &info, path, &options),
        |path| validate_detector(path, &model, &info, &inputs),
    );
    match proof {
        Ok(report) => {
            record(&args.out, &report)?;
            println!(
                "{}: reproduced by ONNX Runtime: {} parts agree, {} detections matched, {} ties, {} others",
                args.out.display(),
                report.stages.len(),
                report.total.matched,
                report.total.ties,
                report.total.unexplained
            );
            Ok(Ending::Done)
        }
        Err(ExportError::DetectorMismatch { path, report }) => {
            record(&args.out, &report)?;
            Err(ExportError::DetectorMismatch { path, report }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints the report's table and writes it beside the model.
fn record(out: &Path, report: &DetectorReport) -> Result<()> {
    print!("{}", report.table());
    let mut name = out.as_os_str().to_owned();
    name.push(".validation.json");
    let path = PathBuf::from(name);
    atomic::write(&path, serde_json::to_string_pretty(report)?.as_bytes())
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// A detector of torchvision's keys, which says nothing about itself.
fn state_dict(
    args: &ExportDetectorArgs,
    path: &Path,
    variant: Variant,
    device: &Device,
) -> Result<LoadedDetector> {
    let names = class_names(args.classes.as_deref().unwrap_or_default())?;
    let (tensors, _) = read_tensors(path)?;
    let outputs = tensors.get(CLASS_BIAS).and_then(|bias| bias.shape().iter().next().copied());
    let names = without_background(names, outputs);
    let categories: Vec<_> = (1..).zip(names).map(|(id, name)| Category { id, name }).collect();
    let mut config = DetectorConfig {
        backbone: BackboneConfig { arch: args.arch, ..variant.config().backbone },
        num_classes: categories.len(),
        architecture: match tensors.keys().any(|key| key.contains("roi_heads.mask_")) {
            true => Architecture::MaskRcnn,
            false => Architecture::FasterRcnn,
        },
        ..variant.config()
    };
    // A batch norm that trained counts its batches and adds its usual epsilon; torchvision's frozen ones do neither.
    let trained_norms = tensors.keys().any(|key| key.ends_with(".num_batches_tracked"));
    let usual = trained_norms.then(|| DetectorConfig::default().backbone.frozen_norm_epsilon);
    config.backbone.frozen_norm_epsilon =
        args.norm_epsilon.or(usual).unwrap_or(config.backbone.frozen_norm_epsilon);
    let model = load_state_dict(path, &config, device)?;
    let metadata = DetectorMetadata { config, categories, preprocessing: Preprocessing::default() };
    Ok(LoadedDetector { model, metadata })
}

/// From a number of classes, or the names in a file.
fn class_names(text: &str) -> Result<Vec<String>> {
    let names: Vec<String> = match text.parse::<usize>() {
        Ok(count) => (1..=count).map(numbered_class).collect(),
        Err(_) => {
            let lines = std::fs::read_to_string(text).with_context(|| {
                format!("--classes is `{text}`, neither a number nor a file that can be read")
            })?;
            lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
        }
    };
    ensure!(!names.is_empty(), "--classes gives no class; give their number without the background");
    Ok(names)
}

fn numbered_class(number: usize) -> String {
    format!("class {number}")
}

/// As many names as the classifier has `outputs` count the background, which torchvision's lists have first.
/// Names that only number the classes go on from 1.
fn without_background(mut names: Vec<String>, outputs: Option<usize>) -> Vec<String> {
    if Some(names.len()) == outputs && names.len() > 1 {
        tracing::info!("--classes counts the background: the state dict has {} classes", names.len() - 1);
        let numbered = names.first().is_some_and(|name| *name == numbered_class(1));
        names.remove(if numbered { names.len() - 1 } else { 0 });
    }
    names
}

fn weights_file(source: &Path) -> PathBuf {
    if source.is_dir() { source.join("weights").join(DETECTOR_FILE) } else { source.to_path_buf() }
}

/// The recipe of a run, where the weights lie in one.
fn protocol(source: &Path) -> Option<String> {
    let run = if source.is_dir() { source } else { source.parent()?.parent()? };
    let config = config::load::<TransferConfig>(&run.join("config.toml"), &[]).ok()?;
    Some(serde_json::to_value(config.protocol).ok()?.as_str()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_classes_may_count_the_background_and_names_come_from_a_file() {
        let names = |text: &str, outputs| without_background(class_names(text).unwrap(), outputs);
        assert_eq!(names("2", Some(3)), ["class 1", "class 2"]);
        assert_eq!(names("3", Some(3)), ["class 1", "class 2"]);
        assert_eq!(names("2", None), ["class 1", "class 2"]);
        // Any other number is left to the check of shapes, whose error names the tensor.
        assert_eq!(names("5", Some(3)).len(), 5);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("classes.txt");
        std::fs::write(&file, "__background__\n\ncat\n dog \n").unwrap();
        assert_eq!(names(file.to_str().unwrap(), Some(3)), ["cat", "dog"]);
        assert!(class_names("0").unwrap_err().to_string().contains("gives no class"));
    }
}
