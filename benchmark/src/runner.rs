//! Runs cells in the order that their dependencies allow, several at a time, each in a process of its own.
//!
//! A cell whose marker is there is done. A cell that fails takes with it those that need it and no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{BenchmarkError, Result, bail, ensure};
use scrl_core::engine::Interrupt;

use super::graph::Cell;
use super::host::Host;
use super::job::JobFile;
use super::observer::CellObserver;
use super::process::{CellProcess, ExitState, Pulse};
use super::record::{CellState, Done, write_file};

/// Between two looks at the processes.
const TICK: Duration = Duration::from_millis(20);

/// Where cells run.
pub struct Runner {
    out: PathBuf,
    /// A device for each cell that may run at a time.
    slots: Vec<String>,
    /// Threads of each process; the system's choice by default.
    threads: Option<usize>,
    interrupt: Interrupt,
    host: Host,
}

/// How all cells ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// In the order of the cells.
    pub states: Vec<CellState>,
    /// Whether cells are left because the user stopped.
    pub interrupted: bool,
}

struct Running {
    slot: usize,
    cell: usize,
    process: CellProcess,
}

impl Runner {
    /// `jobs` cells at a time on these devices in turn; as many as devices by default.
    ///
    /// # Errors
    /// When a device is none.
    pub fn new(
        out: &Path,
        devices: &[String],
        jobs: Option<usize>,
        interrupt: Interrupt,
        host: Host,
    ) -> Result<Self> {
        ensure!(
            !devices.is_empty(),
            "--device names no device; pass `cpu`, or a list such as `cuda:0,cuda:1`"
        );
        // The devices of other machines are not known here.
        for device in devices.iter().filter(|_| host.launcher.is_empty()) {
            (host.device)(device).map_err(BenchmarkError::Refused)?;
        }
        let jobs = jobs.unwrap_or(devices.len());
        let slots: Vec<String> = devices.iter().cycle().take(jobs).cloned().collect();
        let on_cpu = slots.iter().filter(|device| device.as_str() == "cpu").count();
        // Results do not depend on the number of threads; more threads than cores only slow each other down.
        let shared =
            on_cpu > 1 && host.launcher.is_empty() && std::env::var_os("RAYON_NUM_THREADS").is_none();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = shared.then(|| (cores / on_cpu).max(1));
        Ok(Self { out: out.to_path_buf(), slots, threads, interrupt, host })
    }

    /// Runs what is not done.
    ///
    /// # Errors
    /// When a cell was made with other settings, two have one name, or processes cannot be started at all.
    pub fn run(
        &self,
        cells: &[Cell],
        observer: &mut dyn CellObserver,
        work: &dyn Fn(&Cell) -> f64,
    ) -> Result<RunEnd> {
        let mut names = BTreeSet::new();
        if let Some(twin) = cells.iter().find(|cell| !names.insert(&cell.id)) {
            bail!("two cells are called `{}`; they would write to the same files", twin.id);
        }
        let mut states = self.states(cells)?;
        let mut running: Vec<Running> = Vec::new();
        let mut pulse = (!self.host.launcher.is_empty()).then(|| Pulse::new(&self.out.join("cells")));
        observer.begin(cells, &states, self.slots.len(), work);
        loop {
            let interrupted = self.interrupt.is_requested();
            match &mut pulse {
                Some(pulse) if interrupted => pulse.stop()?,
                Some(pulse) => pulse.beat()?,
                None => {}
            }
            if interrupted {
                running.iter_mut().for_each(|running| running.process.stop());
            }
            for (index, state) in self.collect(cells, &mut running)? {
                match state {
                    Some(state) => {
                        observer.ended(&cells[index], &state);
                        states[index] = state;
                    }
                    None => self.interrupt.request(),
                }
            }
            skip_dependants(cells, &mut states, observer);
            if !interrupted {
                self.start_ready(cells, &states, &mut running)?;
            }
            if running.is_empty() {
                break;
            }
            let now: Vec<_> = running.iter().map(|r| (&cells[r.cell], &r.process)).collect();
            observer.tick(&now);
            std::thread::sleep(TICK);
        }
        let left = states.iter().any(|state| matches!(state, CellState::Waiting));
        observer.end();
        Ok(RunEnd { states, interrupted: left })
    }

    /// Where each cell stands, running none.
    ///
    /// # Errors
    /// When a cell was made with other settings.
    pub fn states(&self, cells: &[Cell]) -> Result<Vec<CellState>> {
        cells.iter().map(|cell| self.state_of(cell)).collect()
    }

    fn path(&self, cell: &Cell, ending: &str) -> PathBuf {
        self.out.join("cells").join(format!("{}.{ending}", cell.id))
    }

    /// Done or waiting; an error for a cell that other settings made.
    fn state_of(&self, cell: &Cell) -> Result<CellState> {
        let done = Done::read(&self.path(cell, "done.json"))?;
        let begun = std::fs::read(self.path(cell, "job.json")).ok();
        let begun = begun.and_then(|text| serde_json::from_slice::<JobFile>(&text).ok());
        let found = done.as_ref().map(|done| &done.settings).or(begun.as_ref().map(|job| &job.settings));
        if found.is_some_and(|settings| *settings != cell.settings) {
            bail!(
                "`{}` was made with other settings; choose another --out, or delete it together with `{}`",
                self.out.join(&cell.id).display(),
                self.path(cell, "*").display()
            );
        }
        Ok(done.map_or(CellState::Waiting, |done| CellState::Done(Box::new(done))))
    }

    /// What has ended since the last look; `None` for an interrupted cell.
    fn collect(&self, cells: &[Cell], running: &mut Vec<Running>) -> Result<Vec<(usize, Option<CellState>)>> {
        let mut ended = Vec::new();
        for (index, running) in running.iter_mut().enumerate() {
            if let Some(end) = running.process.poll()? {
                ended.push((index, end));
            }
        }
        let mut states = Vec::new();
        for (index, end) in ended.into_iter().rev() {
            let cell = running.swap_remove(index).cell;
            let state = match end {
                ExitState::Interrupted => None,
                ExitState::Failed(reason) => Some(CellState::Failed(reason)),
                ExitState::Done => Some(match Done::read(&self.path(&cells[cell], "done.json"))? {
                    Some(done) => CellState::Done(Box::new(done)),
                    None => CellState::Failed("its process ended without a result".into()),
                }),
            };
            states.push((cell, state));
        }
        Ok(states)
    }

    fn start_ready(&self, cells: &[Cell], states: &[CellState], running: &mut Vec<Running>) -> Result<()> {
        for (slot, device) in self.slots.iter().enumerate() {
            if running.iter().any(|running| running.slot == slot) {
                continue;
            }
            let ready = (0..cells.len()).find(|&index| {
                matches!(states[index], CellState::Waiting)
                    && running.iter().all(|running| running.cell != index)
                    && need(cells, states, index).is_none_or(|(_, state)| matches!(state, CellState::Done(_)))
            });
            let Some(cell) = ready else { break };
            let process = self.start(&cells[cell], device)?;
            running.push(Running { slot, cell, process });
        }
        Ok(())
    }

    fn start(&self, cell: &Cell, device: &str) -> Result<CellProcess> {
        let file = JobFile {
            settings: cell.settings.clone(),
            marker: self.path(cell, "done.json"),
            job: cell.job.clone(),
        };
        let path = self.path(cell, "job.json");
        write_file(&path, serde_json::to_string_pretty(&file)?.as_bytes())?;
        CellProcess::start(&self.host, &path, &self.path(cell, "log"), device, self.threads)
    }
}

/// The cell that one needs, with its state; none where it needs none or one that is not among these.
fn need<'a>(cells: &'a [Cell], states: &'a [CellState], index: usize) -> Option<(&'a str, &'a CellState)> {
    let id = cells[index].after.as_ref()?;
    let at = cells.iter().position(|cell| cell.id == *id)?;
    Some((id, &states[at]))
}

fn skip_dependants(cells: &[Cell], states: &mut [CellState], observer: &mut dyn CellObserver) {
    for index in 0..cells.len() {
        let lost = match need(cells, states, index) {
            Some((id, CellState::Failed(_) | CellState::Skipped { .. })) => id.to_string(),
            _ => continue,
        };
        if matches!(states[index], CellState::Waiting) {
            states[index] = CellState::Skipped { needs: lost };
            observer.ended(&cells[index], &states[index]);
        }
    }
}
