//! The pretraining loop.

mod announce;
mod batches;
mod failure;
mod health_check;
mod resume;
mod state;
mod step_log;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use scrl_core::checkpoint::state::exists;
use scrl_core::checkpoint::weights;
use scrl_core::config;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::engine::{Events, Monitor, RunDir, RunError, TrainEnd};
use scrl_ops::Group;

use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::health::Health;
use crate::init_weights::load_encoder;
use crate::methods::{self, StepReport};
use crate::probe::OnlineProbe;
use crate::schedule::Schedule;
use announce::announce;
use batches::RunBatches;
use failure::non_finite_loss;
use health_check::HealthCheck;
use state::{Cursor, TrainingState};
use step_log::{StepLog, StepPlace};

/// A pretraining run before it starts.
///
/// The run leaves checkpoints and `weights/backbone.safetensors` in its directory. On the CPU the result depends on the
/// configuration, the data and the initial weights only, to the bit, however often the run is interrupted and resumed.
#[derive(Clone, Copy, Debug)]
#[must_use = "a pretraining does nothing until `run`"]
pub struct Pretraining<'a> {
    settings: &'a PretrainConfig,
    data: &'a ImageFolder,
    held_out: Option<&'a ImageFolder>,
    run: &'a RunDir,
    init: Option<&'a Path>,
    resume: bool,
    prolong: bool,
    group: &'a Group,
}

/// A process without others.
static ALONE: Group = Group::ALONE;

impl<'a> Pretraining<'a> {
    /// Pretrains on the images of `data` in the run directory `run`, from random weights.
    pub fn new(settings: &'a PretrainConfig, data: &'a ImageFolder, run: &'a RunDir) -> Self {
        let init = settings.init.as_deref();
        Self { settings, data, held_out: None, run, init, resume: false, prolong: false, group: &ALONE }
    }

    /// Starts the backbone from a weight file or another run.
    pub fn init(self, weights: impl Into<Option<&'a Path>>) -> Self {
        Self { init: weights.into().or(self.init), ..self }
    }

    /// Takes the signs of life from these images instead of the run's own. They do not change the result.
    pub fn held_out(self, images: impl Into<Option<&'a ImageFolder>>) -> Self {
        Self { held_out: images.into(), ..self }
    }

    /// Continues from the run's last checkpoint if it has one.
    pub fn resume(self, resume: bool) -> Self {
        Self { resume, ..self }
    }

    /// Lets a run that is resumed have more epochs than it was started with. It then follows the longer schedule.
    pub fn prolong(self, prolong: bool) -> Self {
        Self { prolong, ..self }
    }

    /// Shares the work with the other processes of `group`, each of which makes the same call. Rank 0 writes the run; the others
    /// read from its directory. With any number of processes the result is the same but for rounding.
    pub fn over(self, group: &'a Group) -> Self {
        Self { group, ..self }
    }

    /// Trains until the last epoch or an interrupt of any process.
    ///
    /// # Errors
    /// When the settings do not fit the data, the initial weights or the checkpoint, a file cannot be read or written, or
    /// the loss becomes NaN or infinite.
    pub fn run(self, device: &Device, monitor: &mut Monitor) -> Result<TrainEnd, PretrainError> {
        let Self { settings, run, group, .. } = self;
        let device = device.clone().autodiff();
        let batches = RunBatches::new(settings, self.data, group)?;
        let schedule = Schedule::new(settings, batches.per_epoch);
        let last = run.checkpoints().join("last");
        let mut state = self.initial_state(&last, &device)?;
        let mut events = match group.is_root() {
            true => Events::open(run, self.resume.then_some(state.cursor.step))?,
            false => Events::nowhere(),
        };
        let health = HealthCheck::new(settings, self.held_out.unwrap_or(self.data));
        announce(settings, &schedule, &state.cursor);
        let save = |state: &TrainingState, path: &Path| state.save(path, group);
        let check_health = |state: &TrainingState, events: &mut Events| match group.is_root() {
            true => report_health(&health, state, events, &device),
            false => Ok(()),
        };
        monitor.progress.start(schedule.total_steps, state.cursor.step, settings.method.name());
        if state.cursor.step == 0 && settings.log.health_every > 0 {
            check_health(&state, &mut events)?;
        }
        let mut log = StepLog::new(batches.per_epoch, group.clone());
        let failed = |loss| non_finite_loss(&loss, settings, &schedule, &batches, run, group);

        while state.cursor.epoch < settings.schedule.epochs {
            let mut loader = batches.of_epoch(state.cursor.epoch, state.cursor.batch);
            while let Some(batch) = log.pace.wait(|| loader.next()) {
                let (batch, step) = (batch?, state.cursor.step);
                let step_settings = schedule.settings(step);
                let is_logged = schedule.is_logged(step + 1, settings.log.interval);
                if is_logged {
                    state.optimizer.request_grad_norm();
                }
                let images = settings.schedule.batch_size;
                let gradients = state.method.gradients(&batch, &mut |_| ());
                let report = gradients.as_ref().map(|gradients| gradients.report.clone());
                let agreed = Agreed::on(group, report.as_ref(), monitor.interrupt.is_requested());
                match gradients.zip(report) {
                    Some((gradients, report)) => {
                        state.method.apply(gradients, step_settings, &mut state.optimizer);
                        let pooled = report.pooled.as_ref().filter(|_| state.probe.is_some());
                        let pooled = pooled.map(|pooled| pooled.gathered(group));
                        let probe = state.probe.as_mut().zip(pooled);
                        let probe = probe.map(|(probe, views)| probe.step(views, schedule.probe_lr(step)));
                        log.add(StepPlace::from(&state.cursor), images, agreed.regions, &report, probe);
                        state.cursor.images_without_boxes += agreed.without_boxes;
                    }
                    None => {
                        tracing::warn!("step {step}: no image of the batch has boxes in both views; skipped");
                        state.cursor.skipped_batches += 1;
                        state.cursor.images_without_boxes += images as u64;
                    }
                }
                state.cursor.step += 1;
                state.cursor.batch += 1;
                if is_logged {
                    log.read().map_err(failed)?;
                    let norm = state.optimizer.last_grad_norm();
                    let message =
                        log.report(&mut events, &state.cursor, step_settings, schedule.has_target, norm)?;
                    monitor.progress.update(state.cursor.step, &message);
                } else if log.is_full() {
                    log.read().map_err(failed)?;
                }
                let interrupted = agreed.interrupted;
                let every = settings.log.checkpoint_steps;
                let is_due = every > 0 && state.cursor.step.is_multiple_of(every);
                if interrupted || (is_due && state.cursor.batch < batches.per_epoch) {
                    log.read().map_err(failed)?;
                    save(&state, &last)?;
                }
                if interrupted {
                    group.wait();
                    monitor.progress.finish("interrupted; a checkpoint is saved");
                    return Ok(TrainEnd::Interrupted { step: state.cursor.step });
                }
            }
            drop(loader);
            log.read().map_err(failed)?;
            state.cursor.epoch += 1;
            state.cursor.batch = 0;
            if is_checked(settings, state.cursor.epoch) {
                check_health(&state, &mut events)?;
            }
            if group.is_root() {
                state.save_backbone(&run.weights().join("backbone.safetensors"), settings)?;
            }
            let keep = settings.log.keep_epochs;
            if keep > 0 && state.cursor.epoch.is_multiple_of(keep) {
                save(&state, &run.checkpoints().join(format!("epoch_{}", state.cursor.epoch)))?;
            }
            // Last of all: a run that dies before it does this epoch's end again, and no file of it stays behind.
            save(&state, &last)?;
        }
        // Who returns may end the process, and with it the others.
        group.wait();
        tracing::info!("{}", log.summary());
        monitor.progress.finish("pretraining finished");
        Ok(TrainEnd::Finished)
    }

    /// The run before its first step, or as its checkpoint left it.
    fn initial_state(&self, checkpoint: &Path, device: &Device) -> Result<TrainingState, PretrainError> {
        let Self { settings, data, run, .. } = self;
        let list = data.list();
        let goes_on = self.resume && exists(checkpoint);
        // `--init` is not given again, so that a run that died before its first checkpoint knows it from its config alone.
        let recorded = self.resume.then(|| recorded_init(run)).flatten();
        let started_from = self.init.or(recorded.as_deref());
        let init = started_from.filter(|_| !goes_on);
        let encoder = init.map(|path| load_encoder(path, settings, device)).transpose()?;
        let mut state = TrainingState {
            method: methods::init_for_run(settings, data.classes.len(), encoder, device),
            optimizer: settings.new_optimizer(),
            probe: OnlineProbe::for_run(settings, data, device),
            cursor: Cursor::start(settings, data.samples.len()),
        };
        if goes_on {
            state = state.restore(checkpoint, device)?;
            resume::check(&mut state.cursor, settings, &list, run, self.prolong)?;
        } else if self.resume && self.group.is_root() {
            forget_events(run)?;
        }
        if !goes_on {
            state.cursor.init = init.map(weights::identify).transpose()?;
        }
        // Only now is it certain that these are the settings and the data of the checkpoint.
        state.cursor.data_hash = Some(list.hash());
        // Nobody writes before all have read.
        self.group.wait();
        if self.group.is_root() {
            list.write(run)?;
            let init = started_from.map(Path::to_path_buf);
            run.write_config(&config::to_toml(&PretrainConfig { init, ..(*settings).clone() }))?;
        }
        state.method.join(self.group);
        Ok(state)
    }
}

/// What the processes of a step agree on.
struct Agreed {
    /// Whether one of them is asked to stop.
    interrupted: bool,
    /// Regions and images without boxes of all.
    regions: usize,
    without_boxes: u64,
}

impl Agreed {
    fn on(group: &Group, report: Option<&StepReport>, interrupted: bool) -> Self {
        let counts = report.map_or([0; 2], |report| [report.regions, report.without_boxes]);
        let mut sums = [f64::from(interrupted), counts[0] as f64, counts[1] as f64];
        group.sum_f64(&mut sums);
        let [interrupted, regions, without_boxes] = sums;
        Self {
            interrupted: interrupted > 0.0,
            regions: regions as usize,
            without_boxes: without_boxes as u64,
        }
    }
}

/// What the run's configuration says that it started from.
fn recorded_init(run: &RunDir) -> Option<PathBuf> {
    config::load::<PretrainConfig>(&run.file("config.toml"), &[]).ok()?.init
}

/// Drops what a run logged that was killed before its first checkpoint: all of it comes again.
fn forget_events(run: &RunDir) -> Result<(), RunError> {
    let path = run.file("metrics.jsonl");
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RunError::Io { action: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// Whether signs of life are taken after so many epochs; they always are before the first.
fn is_checked(settings: &PretrainConfig, epochs: u64) -> bool {
    let every = settings.log.health_every;
    every > 0 && (epochs.is_multiple_of(every) || epochs == settings.schedule.epochs)
}

fn report_health(
    check: &HealthCheck,
    state: &TrainingState,
    events: &mut Events,
    device: &Device,
) -> Result<(), PretrainError> {
    let (health, cursor) = (Health::measure(&*state.method, check.batches(), device)?, &state.cursor);
    if let Some(space) = health.not_finite() {
        return Err(match cursor.step {
            0 => PretrainError::UselessInit { space },
            step => PretrainError::Diverged { step, space: space.to_string() },
        });
    }
    tracing::info!("epoch {}: {health}", cursor.epoch);
    if cursor.step > 0 && health.is_collapsed() {
        tracing::warn!(
            "epoch {}: the features hardly depend on the image; raise ema.base or lower schedule.base_lr if this stays",
            cursor.epoch
        );
    }
    Ok(events.record("health", cursor.step, cursor.epoch as f64, health.fields())?)
}
