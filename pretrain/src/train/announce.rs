//! What a run's settings come to, said once at its start.

use super::state::Cursor;
use crate::config::{PretrainConfig, TargetInit};
use crate::schedule::Schedule;

pub(super) fn announce(settings: &PretrainConfig, schedule: &Schedule, cursor: &Cursor) {
    let (batch_size, accumulate) = (settings.schedule.batch_size, settings.schedule.accumulate);
    tracing::info!(
        "{} on {} images: {} epochs of {} steps{}",
        settings.method.name(),
        cursor.images,
        settings.schedule.epochs,
        schedule.total_steps / settings.schedule.epochs,
        if cursor.step > 0 { format!("; resumed at step {}", cursor.step) } else { String::new() },
    );
    tracing::info!(
        "batch {batch_size} in {} of {}; learning rate {:.4} = {} x {batch_size} / 256 after {} steps of warm-up",
        if accumulate == 1 { "one piece".to_string() } else { format!("{accumulate} micro-batches") },
        batch_size / accumulate,
        settings.effective_lr(),
        settings.schedule.base_lr,
        schedule.lr.warmup_steps,
    );
    if schedule.has_target {
        let momentum = |step| schedule.settings(step).ema_momentum;
        tracing::info!(
            "target network: {}, momentum {} at first, {:.4} half-way, {} at the end",
            match settings.target_init() {
                TargetInit::Copy => "a copy of the online network",
                TargetInit::Independent => "initialised on its own",
            },
            momentum(0),
            momentum(schedule.total_steps / 2),
            momentum(schedule.total_steps),
        );
    }
    if !settings.compat.is_fixed() {
        tracing::info!("compat = \"official\": the numbers of the published code, its oversights included");
    }
}
