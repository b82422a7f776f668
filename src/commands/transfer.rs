//! `scrl transfer`

use anyhow::Result;
use scrl_core::config;
use scrl_core::engine::Monitor;
use scrl_ops::Group;
use scrl_transfer::{InitWeights, Transfer, TransferConfig, TransferOutcome};

use super::{Ending, open_run};
use crate::cli::TransferArgs;
use crate::device;

pub fn run(args: TransferArgs, group: &Group, mut monitor: Monitor) -> Result<Ending> {
    let device = device::parse(&args.run.device)?;
    let mut settings = config::load::<TransferConfig>(&args.config, &args.run.overrides)?;
    if let Some(data) = &args.data {
        settings = settings.with_data_dir(data)?;
    }
    settings.validate()?;
    settings.precision = args.run.usable_precision(settings.precision)?;
    let init = InitWeights::parse(&args.init)?;
    let run = open_run(&args.run, group)?;
    let transfer =
        Transfer::new(&settings, &init, &run).resume(args.run.resume).prolong(args.run.prolong).over(group);
    match transfer.run(&device, &mut monitor)? {
        TransferOutcome::Finished(_) if !group.is_root() => Ok(Ending::Done),
        TransferOutcome::Interrupted { .. } if !group.is_root() => Ok(Ending::Interrupted),
        TransferOutcome::Finished(report) => {
            super::print_metrics(&report.metrics);
            if let Some(best) = &report.best {
                let ap = best.metrics.coco.ap.map_or("–".into(), |ap| format!("{:.2} %", 100.0 * ap));
                println!(
                    "      best  AP {ap} after iteration {}, chosen on the evaluation data and so optimistic",
                    best.iteration
                );
            }
            // A run of days is not lost for want of a picture.
            if let Err(error) = scrl_figures::run::write(run.path(), &run.file("plots")) {
                tracing::warn!("{error:#}");
            }
            Ok(Ending::Done)
        }
        TransferOutcome::Interrupted { iteration } => {
            eprintln!("interrupted after iteration {iteration}; go on with --resume");
            Ok(Ending::Interrupted)
        }
    }
}
