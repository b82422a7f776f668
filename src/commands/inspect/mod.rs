//! `scrl inspect`

mod dataset;
mod onnx;
mod run;
mod views;

use anyhow::Result;

use super::Ending;
use crate::cli::{InspectArgs, InspectCommand};

pub fn run(args: InspectArgs) -> Result<Ending> {
    match args.what {
        InspectCommand::Dataset(args) => dataset::run(&args),
        InspectCommand::Views(args) => views::run(&args),
        InspectCommand::Run(args) => run::run(&args),
        InspectCommand::Onnx(args) => onnx::run(&args),
    }
}
