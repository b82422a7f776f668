//! `scrl replay`

use std::path::Path;

use anyhow::{Context, Result, bail};
use scrl_core::config;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::image_views::ImageViews;
use scrl_pretrain::methods::{Extent, Trace};
use scrl_pretrain::replay::{self, ReplayInfo, Rerun, rerun};

use super::Ending;
use crate::cli::ReplayArgs;
use crate::device;

pub fn run(args: &ReplayArgs) -> Result<Ending> {
    let device = device::parse(&args.device)?;
    let own = args.batch.parent().and_then(Path::parent);
    let run = args.run.as_deref().or(own).context("pass the run of the batch by --run")?;
    let saved = replay::load(&args.batch)?;
    let settings = config::load::<PretrainConfig>(&run.join("config.toml"), &[])?.validate()?;
    let found = rerun(&settings, &run.join("checkpoints/last"), &saved, &device)?;
    let (batch, info) = &saved;
    print(batch, info, &found);
    match (first_not_finite(info, &found), &found.trace) {
        (Some(place), _) => bail!("not finite first: {place}"),
        (None, None) => bail!("no image of the batch has boxes, so it has no loss"),
        (None, Some(_)) => println!("{}", explain_finite(info, &found)),
    }
    Ok(Ending::Done)
}

fn print(batch: &[ImageViews], info: &ReplayInfo, found: &Rerun) {
    println!("step {}: the loss was {} at learning rate {:.4e}", info.step, info.loss, info.lr);
    let boxes: usize = batch.iter().map(|sample| sample.boxes.len()).sum();
    let largest = found.pixels.iter().fold(0f64, |largest, image| largest.max(image.largest));
    println!("batch: {} images, {boxes} boxes, normalised pixels up to {largest:.3}", batch.len());
    match found.step {
        0 => {
            println!("networks: at their start, from the seed and without --init (the run has no checkpoint)")
        }
        step => println!("networks: the checkpoint of step {step}"),
    }
    if let Some(trace) = &found.trace {
        println!("loss now: {}", trace.loss);
        print_tables(trace);
    }
}

fn print_tables(trace: &Trace) {
    println!("\n{:<24} {:>12}", "activation", "largest");
    for (name, extent) in &trace.activations {
        println!("{name:<24} {:>12}", shown(*extent));
    }
    println!("\n{:<24} {:>12} {:>12}", "layer", "parameter", "gradient");
    for layer in &trace.layers {
        println!("{:<24} {:>12} {:>12}", layer.name, shown(layer.parameters), shown(layer.gradients));
    }
    println!();
}

/// The largest absolute value, or how many are not finite.
fn shown(extent: Extent) -> String {
    match extent.not_finite {
        0 => format!("{:.3e}", extent.largest),
        count => format!("{count} bad"),
    }
}

/// Pixels, parameters, activations, loss, gradients: what comes first makes the others bad.
fn first_not_finite(info: &ReplayInfo, found: &Rerun) -> Option<String> {
    let image = found.pixels.iter().position(|image| image.not_finite > 0);
    if let Some(image) = image {
        let path = info.paths.get(image).map(|path| path.display().to_string());
        return Some(format!("pixels of image {image}, `{}`", path.unwrap_or_default()));
    }
    let trace = found.trace.as_ref()?;
    let parameters = trace.layers.iter().find(|layer| layer.parameters.not_finite > 0);
    if let Some(layer) = parameters {
        return Some(format!("parameters of `{}`; go back to an earlier checkpoint", layer.name));
    }
    if let Some((name, _)) = trace.activations.iter().find(|(_, extent)| extent.not_finite > 0) {
        return Some(format!("activations of `{name}`, while pixels and trained parameters are finite"));
    }
    if !trace.loss.is_finite() {
        return Some("the loss, from finite activations".to_string());
    }
    // The backward pass goes from the last layer to the first.
    let gradients = trace.layers.iter().rev().find(|layer| layer.gradients.not_finite > 0);
    gradients.map(|layer| format!("gradients of `{}`, from a finite loss", layer.name))
}

fn explain_finite(info: &ReplayInfo, found: &Rerun) -> String {
    match info.step.saturating_sub(found.step) {
        0 => "all is finite with the weights of that very step: the failure does not repeat".to_string(),
        steps => {
            let steps = if steps == 1 { "one step".to_string() } else { format!("{steps} steps") };
            format!(
                "all is finite with the weights of {steps} earlier: the batch is fine, the updates since then are not"
            )
        }
    }
}
