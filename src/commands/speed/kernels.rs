//! Which kernels of a GPU take the time of a step.

use anyhow::{Result, ensure};
use serde::Serialize;

/// Launches of a kernel and their time on the device, one after the other.
#[derive(Debug, Serialize)]
pub struct KernelTime {
    pub name: String,
    pub launches: usize,
    pub seconds: f64,
}

/// Runs a step, kernel by kernel; the `most` kernels that take longest.
///
/// # Errors
/// The step's, and where nothing is launched, as on the CPU.
pub fn slowest(most: usize, step: impl FnOnce() -> Result<()>) -> Result<Vec<KernelTime>> {
    let mut kernels = observed(step)?;
    ensure!(!kernels.is_empty(), "this device launches no kernels to list; --kernels is for GPUs");
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    kernels.truncate(most);
    Ok(kernels)
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn observed(_step: impl FnOnce() -> Result<()>) -> Result<Vec<KernelTime>> {
    Ok(Vec::new())
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn observed(step: impl FnOnce() -> Result<()>) -> Result<Vec<KernelTime>> {
    use cubecl::config::{TypeNameFormatLevel, type_name_format};
    use cubecl::logging::{Duration, LaunchObservation, LaunchObserver, TimingMethod, TimingRequest};
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Default)]
    struct Times(Mutex<HashMap<&'static str, (usize, f64)>>);

    impl LaunchObserver for Times {
        fn launched(&self, _kernel: &'static str) {}

        /// Waits for each kernel, so that none is timed together with another.
        fn timing(&self) -> TimingRequest {
            TimingRequest::Resolved
        }

        fn timed(&self, kernel: &'static str, duration: Duration, _method: TimingMethod) {
            let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (launches, seconds) = times.entry(kernel).or_default();
            *launches += 1;
            *seconds += duration.as_secs_f64();
        }
    }

    let times = Arc::new(Times::default());
    let observation = LaunchObservation::new(times.clone());
    let result = step();
    drop(observation);
    result?;
    let times = times.0.lock().unwrap_or_else(PoisonError::into_inner);
    let time = |(name, &(launches, seconds)): (&&str, &(usize, f64))| KernelTime {
        name: type_name_format(name, TypeNameFormatLevel::Balanced),
        launches,
        seconds,
    };
    Ok(times.iter().map(time).collect())
}
