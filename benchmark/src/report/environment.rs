//! What a benchmark ran on, and how to run it again.

use std::fs;

use super::Finished;
use super::costs::places;
use scrl_figures::document::{Block, Table};

/// A table of the machine and a command.
pub fn blocks(finished: &Finished) -> Vec<Block> {
    let mut table = Table::new(&["", ""]);
    let cores = std::thread::available_parallelism().map_or("unknown".into(), |n| n.to_string());
    let rows = [
        ("program", format!("scrl {} ({})", env!("CARGO_PKG_VERSION"), profile())),
        ("processor", processor()),
        ("cores", cores),
        ("memory", memory().unwrap_or_else(|| "unknown".into())),
        ("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("matrix products", products()),
        ("plan", format!("`{}`", &finished.results.plan[..16])),
    ];
    rows.into_iter().for_each(|(name, value)| table.row([name.to_string(), value]));
    let command =
        format!("scrl benchmark --config {} --out {}", finished.plan.path.display(), finished.out.display());
    let mut words =
        "Numbers are in `results.json` and `results.csv`, times in `timings.json`; each cell's run has its \
                     log, its events and its resolved recipe."
            .to_string();
    if let Some(place) = places(finished).first() {
        words.push_str(&format!(" One of them: `{place}`."));
    }
    vec![
        Block::Subheading("Environment".into()),
        Block::Table(table),
        Block::Subheading("Again".into()),
        Block::Code(command),
        Block::Paragraph(words),
    ]
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "with debug assertions" } else { "release" }
}

#[cfg(feature = "flex")]
fn products() -> String {
    scrl_ops::cpu_products().to_string()
}

#[cfg(not(feature = "flex"))]
fn products() -> String {
    "none on the CPU".into()
}

/// The value of a key in a file of `key : value` lines.
fn entry(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn processor() -> String {
    entry("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into())
}

fn memory() -> Option<String> {
    let kib: f64 = entry("/proc/meminfo", "MemTotal")?.split(' ').next()?.parse().ok()?;
    Some(format!("{:.0} GiB", kib / f64::from(1 << 20)))
}
