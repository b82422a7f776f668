//! `--distributed`: the processes that a launcher such as `mpirun` or `srun` has started train one model.

#[cfg(feature = "mpi")]
mod mpi;

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Result;
use scrl_core::config::SettingError;
use scrl_ops::Group;

use crate::threads;

/// The processes of this run, once they are connected.
static PROCESSES: OnceLock<Processes> = OnceLock::new();

/// The processes of a run.
#[derive(Debug)]
struct Processes {
    group: Group,
    /// The number of this process among those on the same machine, and how many these are.
    local: [usize; 2],
    /// Ends all processes with this exit code.
    abort: fn(u8) -> !,
}

/// Connects the processes that the launcher has started, and starts the kernels' threads; without `distributed` there is one
/// process.
///
/// # Errors
/// With `distributed`, if this binary has no MPI. Without it, if a launcher has started several processes, which would then all
/// do the same.
pub fn connect(distributed: bool) -> Result<Group> {
    if !distributed {
        return match launched() {
            Some((variable, count)) => Err(SettingError {
                key: "--distributed".into(),
                value: "not given".into(),
                expected: format!(
                    "given, since {variable} says that this is one of {count} processes; else each of them would do the same"
                ),
            }
            .into()),
            None => {
                threads::start(0)?;
                Ok(Group::alone())
            }
        };
    }
    let processes = start()?;
    let group = processes.group.clone();
    let local = processes.local[1];
    let _ = PROCESSES.set(processes);
    abort_on_panic();
    share_cores(local)?;
    let size = group.size();
    tracing::info!(
        "{size} processes, {local} of them on this machine; tensors are exchanged through the host's memory"
    );
    Ok(group)
}

#[cfg(feature = "mpi")]
fn start() -> Result<Processes> {
    mpi::start()
}

#[cfg(not(feature = "mpi"))]
fn start() -> Result<Processes> {
    Err(SettingError {
        key: "--distributed".into(),
        value: "given".into(),
        expected: "left out: this binary was built without mpi; build it with --features mpi".into(),
    }
    .into())
}

/// Whether a launcher has started several processes: the variable that says so, and how many.
fn launched() -> Option<(&'static str, usize)> {
    // Of Open MPI, of MPICH and its kin, and of the step of a SLURM job.
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"].into_iter().find_map(|variable| {
        let count = std::env::var(variable).ok()?.parse().ok()?;
        (count > 1).then_some((variable, count))
    })
}

/// `cuda:local` is the card with the number of this process among those on its machine.
pub fn local_device(name: &str) -> String {
    match name.strip_suffix(":local") {
        Some(kind) => format!("{kind}:{}", PROCESSES.get().map_or(0, |processes| processes.local[0])),
        None => name.to_string(),
    }
}

/// Whether this process leaves the talking to another.
pub fn is_silent() -> bool {
    PROCESSES.get().is_some_and(|processes| !processes.group.is_root())
}

/// Ends the other processes, too, after an error of this one; alone it does nothing.
pub fn end_all(code: u8) {
    if let Some(processes) = PROCESSES.get() {
        (processes.abort)(code);
    }
}

/// Waits for the other processes; the last call of all.
pub fn end() {
    #[cfg(feature = "mpi")]
    mpi::end();
}

/// Gives rank 0 the time to say what is wrong with all of them.
pub fn let_root_speak() {
    if is_silent() {
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// A process that panics ends the others, which would wait for it.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        end_all(101);
    }));
}

/// Starts the kernels' threads, with the cores divided among the processes of a machine.
fn share_cores(processes: usize) -> Result<()> {
    let visible = available_parallelism().map_or(1, NonZeroUsize::get);
    let cores = cores();
    if visible == 1 && cores > 1 {
        tracing::warn!("this process may use one of {cores} cores; mpirun --bind-to none lets it use more");
    }
    // A launcher that binds has divided them already.
    let bound = visible * processes <= cores && visible < cores;
    let threads = if bound { visible } else { (visible / processes).max(1) };
    threads::start(if std::env::var_os("RAYON_NUM_THREADS").is_some() { 0 } else { threads })
}

/// Cores of the machine, whether this process may use them or not.
fn cores() -> usize {
    // SAFETY: it only asks for a number.
    #[cfg(unix)]
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    #[cfg(not(unix))]
    let online = 1;
    usize::try_from(online).unwrap_or(1).max(1)
}
