//! What must be the same when a run goes on, and what may change.

use scrl_core::config::{self, ChangedSettings, changes};
use scrl_core::engine::RunDir;

use crate::config::TransferConfig;
use crate::error::TransferError;

/// The settings that may differ when a run is prolonged.
const PROLONGING: [&str; 2] = ["iterations", "solver.milestones"];

/// Refuses a checkpoint of other settings, of which it has the fingerprint. With `prolong`, more iterations and other
/// milestones are no difference.
pub(super) fn check(
    fingerprint: &str,
    iteration: u64,
    config: &TransferConfig,
    run: &RunDir,
    prolong: bool,
) -> Result<(), TransferError> {
    if fingerprint == config.fingerprint() {
        return Ok(());
    }
    let path = run.file("config.toml");
    let then = config::load::<TransferConfig>(&path, &[]).ok();
    let then = then.filter(|then| then.fingerprint() == fingerprint);
    let then = then.ok_or(TransferError::OtherRun { path })?;
    let longer = config.iterations > then.iterations;
    let mut prolonged = then.clone();
    prolonged.iterations = config.iterations;
    prolonged.solver.milestones.clone_from(&config.solver.milestones);
    if !(prolong && longer && prolonged.fingerprint() == config.fingerprint()) {
        let changes = changes(&then.of_the_result(), &config.of_the_result());
        return Err(ChangedSettings::on_resume(changes, if longer { &PROLONGING } else { &[] }).into());
    }
    let (old, new) = (then.schedule(), config.schedule());
    tracing::warn!(
        "prolonged from {} to {} iterations: from iteration {iteration} on, the learning rate follows the longer schedule \
         with milestones {:?}; there it is {:.3e}, where the shorter one, with {:?}, had {:.3e}",
        then.iterations,
        config.iterations,
        new.milestones,
        new.lr(iteration),
        old.milestones,
        old.lr(iteration),
    );
    Ok(())
}
