//! Options of `scrl replay`.

use std::path::PathBuf;

use clap::Args;

/// Re-run the saved batch whose loss became NaN or infinite, and show where it starts.
///
/// The batch goes forward and backward through the networks of the run's last checkpoint. Prints the loss, the largest
/// activations by stage, the largest parameters and gradients by layer, and the first tensor that is not finite. Writes
/// nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl replay runs/scrl/replay/step_120.safetensors\n\nExits with 0 when the loss and all gradients are finite now, with 1 otherwise."
)]
pub struct ReplayArgs {
    /// A batch that a pretraining saved: RUN/replay/step_N.safetensors.
    pub batch: PathBuf,
    /// Run directory; by default the one that contains the batch.
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}
