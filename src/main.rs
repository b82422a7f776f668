//! `scrl`: self-supervised pretraining that makes object detectors better, end to end.

#![recursion_limit = "256"]

#[cfg(target_os = "linux")]
mod allocator;
mod benchmark;
mod cli;
mod commands;
mod device;
mod logging;
mod plots;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use commands::Ending;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::CachingAllocator = allocator::CachingAllocator::new();

/// Exit code of an interrupted command, as shells use it for SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::init(cli.quiet);
    match run(cli) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::from(commands::exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Ending> {
    let monitor = progress::monitor(cli.quiet)?;
    match cli.command {
        Command::Synth(args) => commands::synth::run(args),
        Command::Pretrain(args) => commands::pretrain::run(args, monitor),
        Command::Transfer(args) => commands::transfer::run(args, monitor),
        Command::Evaluate(args) => commands::evaluate::run(args, monitor),
        Command::Export(args) => commands::export::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Benchmark(args) => commands::benchmark::run(args, monitor, cli.quiet),
        Command::BenchmarkCell(args) => commands::benchmark::cell(args, monitor),
        Command::Convert(args) => commands::convert::run(args),
        Command::Predict(args) => commands::predict::run(args, monitor),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Probe(args) => commands::probe::run(args, monitor),
        Command::Replay(args) => commands::replay::run(&args),
    }
}

/// The error and its causes, without the causes that a message quotes already.
fn describe(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}
