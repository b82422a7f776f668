//! `scrl synth`

use std::path::Path;

use anyhow::Result;
use scrl_core::config;
use scrl_synth::{self as synth, SynthConfig};

use super::Ending;
use crate::cli::SynthArgs;

pub fn run(args: SynthArgs) -> Result<Ending> {
    let settings = match &args.config {
        Some(path) => config::load::<SynthConfig>(path, &args.overrides)?,
        None => config::parse::<SynthConfig>("", Path::new("--set"), &args.overrides)?,
    };
    let write = if args.overwrite { synth::overwrite } else { synth::write };
    let summary = write(&settings, &args.out)?;
    println!("{} images with {} objects in {}", summary.images, summary.objects, args.out.display());
    Ok(Ending::Done)
}
