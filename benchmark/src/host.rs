//! What a benchmark borrows from the program that it is part of.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

/// What the program lends: itself, for the processes of cells, and what only it knows.
#[derive(Clone, Debug)]
pub struct Host {
    /// A program that does the work of a cell when it is started with the arguments `benchmark-cell --job FILE --device
    /// NAME`: it calls [`JobFile::run`](crate::job::JobFile::run) and exits with 0, or with 130 after an interrupt.
    pub program: PathBuf,
    /// Another command, which runs its arguments on some machine and ends with their exit code, such as `srun -n 1`; or none.
    ///
    /// The machines see the benchmark's folder and the data under the same paths. Cells are then started with `--remote`: they listen
    /// to a [`Pulse`](crate::process::Pulse) instead of their standard input.
    pub launcher: Vec<String>,
    /// The device of a name, or why there is none.
    pub device: fn(&str) -> Result<Device, String>,
    /// Sends log lines to this file from now on.
    pub open_log: fn(&Path) -> std::io::Result<()>,
    /// Most memory that this process has held so far, GiB, where the system tells.
    pub peak_gib: fn() -> Option<f64>,
}
