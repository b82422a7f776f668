//! What must be the same when a run goes on, and what may change.

use scrl_core::config::{self, ChangedSettings, changes};
use scrl_core::engine::{DataList, RunDir};

use super::state::Cursor;
use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::schedule::Schedule;

/// The settings that may differ when a run is prolonged.
const PROLONGING: [&str; 1] = ["schedule.epochs"];

/// Refuses a checkpoint of other settings or other data. With `prolong`, more epochs are no difference.
pub(super) fn check(
    cursor: &mut Cursor,
    settings: &PretrainConfig,
    data: &DataList,
    run: &RunDir,
    prolong: bool,
) -> Result<(), PretrainError> {
    let hash = settings.result_hash();
    if cursor.config_hash != hash {
        let file = run.file("config.toml");
        let then = config::load::<PretrainConfig>(&file, &[]).ok();
        let then = then.filter(|then| then.result_hash() == cursor.config_hash).ok_or_else(|| {
            let difference = format!("`{}` is not the one that it was made with", file.display());
            PretrainError::OtherConfig { difference }
        })?;
        let longer = settings.schedule.epochs > then.schedule.epochs;
        let mut prolonged = then.clone();
        prolonged.schedule.epochs = settings.schedule.epochs;
        if !(prolong && longer && prolonged.result_hash() == hash) {
            let changes = changes(&then.of_the_result(), &settings.of_the_result());
            return Err(ChangedSettings::on_resume(changes, if longer { &PROLONGING } else { &[] }).into());
        }
        announce(&then, settings, cursor);
        cursor.config_hash = hash;
    }
    Ok(data.check(cursor.data_hash.as_deref(), run)?)
}

/// Says how the schedule changes.
fn announce(then: &PretrainConfig, now: &PretrainConfig, cursor: &Cursor) {
    let steps = cursor.images / now.schedule.batch_size;
    let at = |settings| Schedule::new(settings, steps).settings(cursor.step);
    let (old, new) = (at(then), at(now));
    tracing::warn!(
        "prolonged from {} to {} epochs: from step {} on, the learning rate and the target's momentum follow the longer \
         schedule; there they are {:.4} and {:.4}, where the shorter one had {:.4} and {:.4}",
        then.schedule.epochs,
        now.schedule.epochs,
        cursor.step,
        new.lr,
        new.ema_momentum,
        old.lr,
        old.ema_momentum,
    );
}
