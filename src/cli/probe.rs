//! Options of `scrl probe`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scrl_core::models::Precision;

/// Evaluate a frozen backbone on labelled images: k-nearest neighbours and a linear classifier.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl probe runs/scrl --data photos-by-class\n\nBoth are measured unless --knn or --linear names one. \
    Accuracy here says little about detection; choose no checkpoint by it."
)]
pub struct ProbeArgs {
    /// A pretraining run; the result goes to its probe.json.
    #[arg(required_unless_present = "weights", conflicts_with = "weights")]
    pub run: Option<PathBuf>,
    /// Weights instead of a run: a .safetensors, .pth or .pt file.
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Folder with one sub-folder of images per class.
    #[arg(long)]
    pub data: PathBuf,
    /// Held-out images in folders of the same names; otherwise a share of --data is held out.
    #[arg(long)]
    pub val: Option<PathBuf>,
    /// Share of each class that is held out, chosen by a hash of the file names.
    #[arg(long, default_value_t = 0.2, conflicts_with = "val")]
    pub val_fraction: f64,
    /// Evaluate the nearest neighbours.
    #[arg(long)]
    pub knn: bool,
    /// Evaluate the linear classifier.
    #[arg(long)]
    pub linear: bool,
    /// Neighbours that vote.
    #[arg(long, default_value_t = 20)]
    pub k: usize,
    /// A neighbour of cosine c has weight exp(c / temperature).
    #[arg(long, default_value_t = 0.07)]
    pub temperature: f64,
    /// Epochs of the linear classifier.
    #[arg(long, default_value_t = 80)]
    pub epochs: u64,
    /// Batch size of the linear classifier.
    #[arg(long, default_value_t = 256)]
    pub batch: usize,
    /// Learning rate of the linear classifier for a batch of 256; 0.2, and 0.05 for BYOL, by default.
    #[arg(long)]
    pub lr: Option<f64>,
    /// Seed of the linear classifier.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Side of the centre crop, in pixels; that of the pretraining views by default.
    #[arg(long)]
    pub size: Option<u32>,
    /// Feature map that is pooled; by default the one that the run trained, and c5 for --weights. A run with
    /// `heads.pool_level = "c4"` leaves the last stage untrained.
    #[arg(long, value_enum)]
    pub level: Option<ProbeLevel>,
    /// JSON file for the result; RUN/probe.json by default, none for --weights.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Share the images with the other processes that `mpirun` or `srun` has started, in builds with the feature `mpi`.
    #[arg(long)]
    pub distributed: bool,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Numbers that the backbone computes with: `f32`, or `bf16` on processors with AMX and on CUDA.
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
}

/// A feature map of the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeLevel {
    C4,
    C5,
}
