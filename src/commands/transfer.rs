//! `scrl transfer`

use anyhow::Result;
use scrl_core::config;
use scrl_core::engine::Monitor;
use scrl_transfer::{InitWeights, TransferConfig, TransferOutcome, train};

use super::{Ending, open_run};
use crate::cli::TransferArgs;
use crate::device;

pub fn run(args: TransferArgs, mut monitor: Monitor) -> Result<Ending> {
    let device = device::parse(&args.run.device)?;
    let mut settings = config::load::<TransferConfig>(&args.config, &args.run.overrides)?;
    if let Some(data) = &args.data {
        settings = settings.with_data_dir(data)?;
    }
    let init = InitWeights::parse(&args.init)?;
    let run = open_run(&args.run)?;
    match train(&settings, &init, &run, args.run.resume, &device, &mut monitor)? {
        TransferOutcome::Finished(report) => {
            super::print_metrics(&report.metrics);
            Ok(Ending::Done)
        }
        TransferOutcome::Interrupted { iteration } => {
            eprintln!("interrupted after iteration {iteration}; go on with --resume");
            Ok(Ending::Interrupted)
        }
    }
}
