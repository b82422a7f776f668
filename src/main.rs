//! `scrl`: self-supervised pretraining that makes object detectors better, end to end.

#![recursion_limit = "256"]

mod allocator;
mod cli;
mod commands;
mod device;
mod distributed;
mod logging;
mod progress;
mod progress_table;
mod threads;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use commands::Ending;

/// Exit code of an interrupted command, as shells use it for SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Benchmark(_) | Command::BenchmarkCell(_)) {
        end_with_the_reader();
    }
    logging::init(cli.quiet);
    let code = match run(cli) {
        Ok(Ending::Done) => 0,
        Ok(Ending::Interrupted) => INTERRUPTED,
        Err(error) => {
            distributed::let_root_speak();
            eprintln!("error: {}", describe(&error));
            let code = commands::exit_code(&error);
            distributed::end_all(code);
            return ExitCode::from(code);
        }
    };
    distributed::end();
    ExitCode::from(code)
}

/// Ends the program quietly, as other programs end, when it prints to a pipe that nobody reads any more (`scrl … | head`);
/// Rust ignores SIGPIPE, and `println!` panics. `benchmark` and its processes talk to each other over pipes and go on when
/// one of them ends, so they keep Rust's way.
fn end_with_the_reader() {
    // SAFETY: the default action is not a function of ours, and no other thread runs yet.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

fn run(cli: Cli) -> anyhow::Result<Ending> {
    // Only for commands that look at it: the others end at the first signal.
    let monitor = || progress::monitor(cli.quiet);
    // For commands that several processes carry out; only rank 0 shows how far they are.
    let together = |with_others: bool| -> anyhow::Result<_> {
        let group = distributed::connect(with_others)?;
        Ok((group, progress::monitor(cli.quiet || distributed::is_silent())?))
    };
    // What computes alone takes all threads; `connect` and `bench` find out how many they may have.
    let alone = || threads::start(0);
    match cli.command {
        Command::Synth(args) => commands::synth::run(args),
        Command::Pretrain(args) => {
            let (group, monitor) = together(args.run.distributed)?;
            commands::pretrain::run(args, &group, monitor)
        }
        Command::Transfer(args) => {
            let (group, monitor) = together(args.run.distributed)?;
            commands::transfer::run(args, &group, monitor)
        }
        Command::Evaluate(args) => {
            let (group, monitor) = together(args.distributed)?;
            commands::evaluate::run(args, &group, monitor)
        }
        Command::Export(args) => {
            alone()?;
            commands::export::run(args)
        }
        Command::Bench(args) => commands::speed::run(args),
        Command::Benchmark(args) => commands::benchmark::run(args, monitor()?, cli.quiet),
        Command::BenchmarkCell(args) => {
            alone()?;
            commands::benchmark::cell(args, monitor()?)
        }
        Command::Convert(args) => commands::convert::run(args),
        Command::Predict(args) => {
            alone()?;
            commands::predict::run(args, monitor()?)
        }
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Pack(args) => commands::pack::run(args, monitor()?),
        Command::Probe(args) => {
            let (group, monitor) = together(args.distributed)?;
            commands::probe::run(args, &group, monitor)
        }
        Command::Replay(args) => {
            alone()?;
            commands::replay::run(&args)
        }
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
