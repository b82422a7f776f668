//! `scrl export`

use std::path::PathBuf;

use anyhow::Result;
use scrl_core::checkpoint::weights;
use scrl_core::data::image_folder::ImageFolder;
use scrl_export::{BackboneOutput, ExportOptions, ValidationInputs, export_backbone, validate_backbone};

use super::Ending;
use crate::cli::{ExportArgs, ExportBackboneArgs, ExportCommand, OutputArg};
use crate::device;

/// Images of `--images` that take part in the validation.
const VALIDATION_IMAGES: usize = 8;

pub fn run(args: ExportArgs) -> Result<Ending> {
    match args.what {
        ExportCommand::Backbone(args) => backbone(args),
    }
}

fn backbone(args: ExportBackboneArgs) -> Result<Ending> {
    let output = match args.output {
        OutputArg::C5 => BackboneOutput::C5,
        OutputArg::Pooled => BackboneOutput::Pooled,
        OutputArg::Pyramid => BackboneOutput::Pyramid,
    };
    let images = match &args.images {
        Some(folder) => validation_images(folder)?,
        None => Vec::new(),
    };
    let (model, config, metadata) = weights::load_backbone(&args.weights, &device::parse("cpu")?)?;
    export_backbone(&model, &config, &metadata, output, &args.out, &ExportOptions::default())?;
    let inputs = ValidationInputs { images, ..ValidationInputs::new(metadata.image_size) };
    let report = validate_backbone(&args.out, &model, &metadata, &inputs)?;
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

/// Evenly spaced images of a folder.
fn validation_images(folder: &PathBuf) -> Result<Vec<PathBuf>> {
    let samples = ImageFolder::scan(std::slice::from_ref(folder))?.samples;
    let stride = samples.len().div_ceil(VALIDATION_IMAGES).max(1);
    Ok(samples.into_iter().step_by(stride).map(|sample| sample.path).collect())
}
