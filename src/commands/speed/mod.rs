//! `scrl bench`: what the real code needs on data that is generated, one line of JSON each.

mod augment;
mod detector;
mod forward;
mod kernels;
mod pretrain;
mod roi_align;

use std::time::Instant;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use scrl_core::random::{Rng, standard_normal, stream};

use kernels::KernelTime;
use serde_json::Value;

use super::Ending;
use crate::cli::{BenchArgs, BenchCommand, BenchRunArgs};
use crate::{device, threads};

/// Every bench draws the same numbers each time.
const SEED: u64 = 0;

pub fn run(args: BenchArgs) -> Result<Ending> {
    #[cfg_attr(not(feature = "flex"), expect(unused_mut))]
    let mut line = match args.what {
        BenchCommand::Pretrain(args) => pretrain::run(&args)?,
        BenchCommand::Forward(args) => forward::run(&args)?,
        BenchCommand::Detector(args) => detector::run(&args)?,
        BenchCommand::Augment(args) => augment::run(&args)?,
        BenchCommand::RoiAlign(args) => roi_align::run(&args)?,
    };
    #[cfg(feature = "flex")]
    {
        line["cpu_products"] = scrl_ops::cpu_products().into();
    }
    println!("{line}");
    Ok(Ending::Done)
}

/// The device, after the threads of its kernels are set; to be called before anything computes.
fn set_up(args: &BenchRunArgs) -> Result<Device> {
    threads::start(args.threads)?;
    ensure!(
        device::usable(args.precision, &args.device, false)? == args.precision,
        "this processor does not multiply numbers of {}, so there is nothing to measure; leave --precision out",
        args.precision
    );
    device::parse(&args.device)
}

/// What a step takes.
struct Timing {
    /// The median of the timed repetitions.
    seconds: f64,
    /// Of one more step, where they are asked for.
    kernels: Option<Vec<KernelTime>>,
}

impl Timing {
    /// Adds the kernels to the line of a bench, where they are known.
    fn list_kernels(&self, line: &mut Value, key: &str) -> Result<()> {
        if let Some(kernels) = &self.kernels {
            line[key] = serde_json::to_value(kernels)?;
        }
        Ok(())
    }
}

/// Runs `step` once to warm up and then as often as asked for.
fn time(args: &BenchRunArgs, device: &Device, mut step: impl FnMut() -> Result<()>) -> Result<Timing> {
    let mut timed = || -> Result<f64> {
        let start = Instant::now();
        step()?;
        device.sync()?;
        Ok(start.elapsed().as_secs_f64())
    };
    timed()?;
    let mut seconds = (0..args.steps).map(|_| timed()).collect::<Result<Vec<_>>>()?;
    seconds.sort_by(f64::total_cmp);
    let kernels = args.kernels.map(|most| kernels::slowest(most, step)).transpose()?;
    Ok(Timing { seconds: median(&seconds), kernels })
}

/// Of ascending numbers; the mean of the middle two of an even count.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

/// Most memory that this process has held so far, in GiB; none where the system does not tell.
pub fn peak_gib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.map(|kib| kib / f64::from(1 << 20))
}

fn random_stream() -> Rng {
    stream(SEED, &[])
}

/// Standard normal values.
fn normal(count: usize, rng: &mut Rng) -> Vec<f32> {
    (0..count).map(|_| standard_normal(rng)).collect()
}
