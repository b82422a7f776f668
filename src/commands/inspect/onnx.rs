//! `scrl inspect onnx`

use anyhow::{Context, Result};
use scrl_export::inspect::inspect;
use scrl_export::runtime::runtime;

use crate::cli::InspectOnnxArgs;
use crate::commands::Ending;

pub fn run(args: &InspectOnnxArgs) -> Result<Ending> {
    let summary = inspect(&args.model)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{summary}");
    }
    if args.run {
        let runtime = runtime()?;
        runtime.session(&args.model, 0).context("the file was read, but it does not run")?;
        println!("ONNX Runtime opens it");
    }
    Ok(Ending::Done)
}
