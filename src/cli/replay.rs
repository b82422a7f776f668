//! Options of `scrl replay`.

use std::path::PathBuf;

use clap::Args;

/// Run the batch again at which a pretraining's loss became infinite or no number, and show where.
///
/// The batch goes forward and backward through the networks of the run's last checkpoint. Printed are the loss, the
/// largest activations by stage, the largest parameters and gradients by layer, and what is not finite first. Nothing is
/// written.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl replay runs/scrl/replay/step_120.safetensors\n\nExits with 0 when the loss and all gradients are finite now, with 1 otherwise."
)]
pub struct ReplayArgs {
    /// A batch that a pretraining saved: RUN/replay/step_N.safetensors.
    pub batch: PathBuf,
    /// The run; that which the batch lies in by default.
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Where to compute: `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}
