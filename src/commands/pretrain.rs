//! `scrl pretrain`

use anyhow::Result;
use scrl_core::config;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::engine::{Monitor, TrainEnd};
use scrl_ops::Group;
use scrl_pretrain::init_weights::check_init;
use scrl_pretrain::{PretrainConfig, Pretraining};

use super::{Ending, open_run};
use crate::cli::PretrainArgs;
use crate::device;

pub fn run(args: PretrainArgs, group: &Group, mut monitor: Monitor) -> Result<Ending> {
    let device = device::parse(&args.run.device)?;
    let mut settings = config::load::<PretrainConfig>(&args.config, &args.run.overrides)?.validate()?;
    settings.precision = args.run.usable_precision(settings.precision)?;
    let data = ImageFolder::scan(&args.data)?;
    let held_out =
        args.held_out.as_ref().map(|folder| ImageFolder::scan(std::slice::from_ref(folder))).transpose()?;
    if let Some(init) = &args.init {
        check_init(init, &settings)?;
    }
    let run = open_run(&args.run, group)?;
    let outcome = Pretraining::new(&settings, &data, &run)
        .held_out(held_out.as_ref())
        .init(args.init.as_deref())
        .resume(args.run.resume)
        .prolong(args.run.prolong)
        .over(group)
        .run(&device, &mut monitor)?;
    match outcome {
        TrainEnd::Finished if !group.is_root() => Ok(Ending::Done),
        TrainEnd::Interrupted { .. } if !group.is_root() => Ok(Ending::Interrupted),
        TrainEnd::Finished => {
            println!("weights: {}", run.weights().join("backbone.safetensors").display());
            Ok(Ending::Done)
        }
        TrainEnd::Interrupted { step } => {
            eprintln!("interrupted after step {step}; go on with --resume");
            Ok(Ending::Interrupted)
        }
    }
}
