//! `scrl export`

mod backbone;
mod detector;

use std::path::PathBuf;

use anyhow::Result;
use scrl_core::data::image_folder::ImageFolder;

use super::Ending;
use crate::cli::{ExportArgs, ExportCommand};

pub fn run(args: ExportArgs) -> Result<Ending> {
    match args.what {
        ExportCommand::Backbone(args) => backbone::run(&args),
        ExportCommand::Detector(args) => detector::run(&args),
    }
}

/// At most `count` evenly spaced images of a folder; none of no folder.
fn validation_images(folder: Option<&PathBuf>, count: usize) -> Result<Vec<PathBuf>> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let samples = ImageFolder::scan(std::slice::from_ref(folder))?.samples;
    let stride = samples.len().div_ceil(count).max(1);
    Ok(samples.into_iter().step_by(stride).map(|sample| sample.path).collect())
}
