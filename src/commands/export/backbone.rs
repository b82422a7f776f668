//! `scrl export backbone`

use anyhow::Result;
use scrl_core::checkpoint::weights;
use scrl_export::{
    BackboneOutput, DetectorInfo, ExportOptions, ValidationInputs, ValidationReport, export_backbone,
    export_pyramid, proven, validate_backbone, validate_pyramid,
};
use scrl_transfer::load_detector;

use super::validation_images;
use crate::cli::{ExportBackboneArgs, OutputArg};
use crate::commands::Ending;
use crate::device;

/// Images of `--images` that take part in the validation.
const VALIDATION_IMAGES: usize = 8;

pub fn run(args: &ExportBackboneArgs) -> Result<Ending> {
    let images = validation_images(args.images.as_ref(), VALIDATION_IMAGES)?;
    let options = ExportOptions { opset: args.format.opset, fold_batch_norm: !args.format.no_fold };
    let report = match args.output {
        OutputArg::C5 => resnet(args, BackboneOutput::C5, &options, images)?,
        OutputArg::Pooled => resnet(args, BackboneOutput::Pooled, &options, images)?,
        OutputArg::Pyramid => resnet(args, BackboneOutput::Pyramid, &options, images)?,
        OutputArg::Fpn => fpn(args, &options, images)?,
    };
    for case in &report.cases {
        println!(
            "{} of {}: max abs error {:.2e}, allowed {:.2e}",
            case.output, case.name, case.max_abs_error, case.tolerance
        );
    }
    println!(
        "{}: reproduced by ONNX Runtime in {} comparisons, max abs error {:.2e}",
        args.out.display(),
        report.cases.len(),
        report.max_abs_error
    );
    Ok(Ending::Done)
}

fn resnet(
    args: &ExportBackboneArgs,
    output: BackboneOutput,
    options: &ExportOptions,
    images: Vec<std::path::PathBuf>,
) -> Result<ValidationReport> {
    let (model, config, metadata) = weights::load_backbone(&args.weights, &device::parse("cpu")?)?;
    let inputs = ValidationInputs { images, ..ValidationInputs::new(metadata.image_size) };
    Ok(proven(
        &args.out,
        |path| export_backbone(&model, &config, &metadata, output, path, options),
        |path| validate_backbone(path, &model, &metadata, &inputs),
    )?)
}

fn fpn(
    args: &ExportBackboneArgs,
    options: &ExportOptions,
    images: Vec<std::path::PathBuf>,
) -> Result<ValidationReport> {
    let loaded = load_detector(&args.weights, &device::parse("cpu")?)?;
    let info = DetectorInfo::new(loaded.metadata);
    let inputs = ValidationInputs { images, ..ValidationInputs::new(128) };
    Ok(proven(
        &args.out,
        |path| export_pyramid(&loaded.model, &info, path, options),
        |path| validate_pyramid(path, &loaded.model, &info, &inputs),
    )?)
}
