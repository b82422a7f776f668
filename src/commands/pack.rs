//! `scrl pack`

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use scrl_core::data::DataError;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::engine::Monitor;
use scrl_core::packed::{self, is_packed};

use super::Ending;
use crate::cli::PackArgs;

pub fn run(args: PackArgs, mut monitor: Monitor) -> Result<Ending> {
    ensure!(!is_packed(&args.data), "`{}` is packed already", args.data.display());
    let folder = ImageFolder::scan(std::slice::from_ref(&args.data))?;
    let name = |path: PathBuf| path.strip_prefix(&args.data).map(PathBuf::from).unwrap_or(path);
    let names: Vec<PathBuf> = folder.samples.into_iter().map(|image| name(image.path)).collect();
    std::fs::create_dir_all(&args.out).map_err(|reason| DataError::write(&args.out, reason))?;
    let mut entries = std::fs::read_dir(&args.out).map_err(|reason| DataError::read(&args.out, reason))?;
    ensure!(
        entries.next().is_none(),
        "`{}` is not empty; choose another --out, or remove what a broken-off packing has left there",
        args.out.display()
    );
    monitor.progress.start(names.len() as u64, 0, "packing");
    let mut interrupted = false;
    let summary = packed::pack(&args.data, &names, &args.out, args.archive_mib << 20, |done| {
        monitor.progress.update(done as u64, "");
        interrupted |= monitor.interrupt.is_requested();
        !interrupted
    });
    let Some(summary) = summary? else {
        std::fs::remove_dir_all(&args.out)
            .with_context(|| format!("cannot remove `{}`", args.out.display()))?;
        monitor.progress.finish("interrupted; nothing is left of it");
        return Ok(Ending::Interrupted);
    };
    monitor.progress.finish("");
    println!(
        "{} images, {:.1} MiB, in {} archives: {}",
        summary.files,
        summary.bytes as f64 / f64::from(1 << 20),
        summary.archives,
        args.out.display()
    );
    Ok(Ending::Done)
}
