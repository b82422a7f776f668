//! `scrl inspect`

mod run;
mod sheet;
mod similarity;
mod views;

use anyhow::Result;

use super::Ending;
use crate::cli::{InspectArgs, InspectCommand};

pub fn run(args: InspectArgs) -> Result<Ending> {
    match args.what {
        InspectCommand::Views(args) => views::run(&args),
        InspectCommand::Run(args) => run::run(&args),
    }
}
