//! Options of `scrl pack`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

/// Pack a folder of images into a few tar archives, for file systems on which many small files are slow.
///
/// The packed folder is a `--data` like the folder itself: the images have the same names, order and labels, so that a run gives
/// the same result, and may be resumed on one or the other. The archives are named and built as WebDataset's.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl pack --data photos --out packed\n  \
    scrl pretrain --config configs/pretrain/scrl_small.toml --data packed --out runs/scrl")]
pub struct PackArgs {
    /// Folder of images, read recursively.
    #[arg(long)]
    pub data: PathBuf,
    /// Folder to write to; must be empty or absent.
    #[arg(long)]
    pub out: PathBuf,
    /// Size that an archive is closed at, MiB.
    #[arg(long, default_value_t = 1024, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 20))]
    pub archive_mib: u64,
}
