//! `--device` to a Burn device.

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use scrl_core::config::SettingError;
use scrl_core::models::Precision;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, OnceLock};

/// The version, and what this binary can compute on.
pub fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("{} (devices: {})", env!("CARGO_PKG_VERSION"), built().join(", ")))
}

/// What `--device` takes in this binary, besides `auto`.
fn built() -> Vec<&'static str> {
    let kinds =
        [("cpu", cfg!(feature = "flex")), ("cuda", cfg!(feature = "cuda")), ("wgpu", cfg!(feature = "wgpu"))];
    kinds.into_iter().filter_map(|(name, built)| built.then_some(name)).collect()
}

/// Finds the device called `cpu`, `cuda`, `cuda:N`, `wgpu` or `auto`, and tries it.
///
/// # Errors
/// If the name is none of these, or the device is missing, does not work, or is not part of this binary.
pub fn parse(name: &str) -> Result<Device> {
    let local = crate::distributed::local_device(name);
    let name = concrete(&local);
    let unknown = |expected: &str| setting(name, expected);
    let device = match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => cpu(),
        ("cuda", index) => match index.parse() {
            Ok(index) => cuda(index),
            Err(_) => return Err(unknown("cuda:N with a number, for example cuda:0").into()),
        },
        ("wgpu", "0") => wgpu(),
        _ => return Err(unknown("auto, cpu, cuda:N or wgpu").into()),
    };
    let device = device.map_err(|feature| {
        unknown(&format!(
            "one of {}: this binary was built without {feature}; build it with --features {feature}",
            built().join(", ")
        ))
    })?;
    trial(&device)
        .map_err(|reason| unknown(&format!("another device: this one does not work ({reason})")))?;
    Ok(device)
}

/// The name of the device, `auto` being the best one.
pub fn concrete(name: &str) -> &str {
    if name == "auto" { best() } else { name }
}

fn setting(value: &str, expected: &str) -> SettingError {
    SettingError { key: "--device".into(), value: value.into(), expected: expected.into() }
}

/// The first of CUDA, another GPU and the CPU that works. A software renderer is not a GPU here: the CPU's own kernels are
/// faster than it.
fn best() -> &'static str {
    static BEST: OnceLock<&str> = OnceLock::new();
    BEST.get_or_init(|| {
        let works = |device: Result<Device, _>| device.is_ok_and(|device| trial(&device).is_ok());
        let name = if works(cuda(0)) {
            "cuda:0"
        } else if wgpu_hardware() {
            "wgpu"
        } else {
            "cpu"
        };
        tracing::info!("--device auto is {name}");
        name
    })
}

/// Computes something, and says why that fails.
fn trial(device: &Device) -> Result<(), String> {
    // Backends tell what is missing by a panic, which may be in a thread of theirs.
    static FIRST: Mutex<Option<String>> = Mutex::new(None);
    let first = || FIRST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *first() = None;
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        first().get_or_insert_with(|| message.to_string());
    }));
    let sum = panic::catch_unwind(AssertUnwindSafe(|| {
        Tensor::<1>::ones([2], device).sum().try_into_scalar::<f32>().map_err(|error| error.to_string())
    }));
    panic::set_hook(usual);
    match sum {
        Ok(Ok(2.0)) => Ok(()),
        Ok(Ok(sum)) => Err(format!("it computes 1 + 1 = {sum}")),
        Ok(Err(reason)) => Err(first().take().unwrap_or(reason)),
        Err(_) => Err(first().take().unwrap_or_default()),
    }
}

/// The precision to compute with on a device, given the one that is asked for.
///
/// bfloat16 is of use on processors and GPUs that multiply such numbers; on other processors this warns. There a run that begins
/// computes in 32 bits, and one that goes on (`begun`) keeps to what it has begun with, at the price of its speed.
///
/// # Errors
/// On a device for which there is no such precision.
pub fn usable(precision: Precision, device: &str, begun: bool) -> Result<Precision> {
    let device = concrete(device);
    if precision.is_f32() || device.starts_with("cuda") {
        return Ok(precision);
    }
    if device != "cpu" {
        return Err(SettingError {
            key: "precision".into(),
            value: precision.to_string(),
            expected: format!("f32 with --device {device}: other precisions are for the CPU and for CUDA"),
        }
        .into());
    }
    if scrl_ops::bf16_products() {
        return Ok(precision);
    }
    if begun {
        tracing::warn!("this processor has no AMX: {precision} is slower than f32 on it");
        return Ok(precision);
    }
    tracing::warn!("this processor has no AMX, so {precision} would bring nothing: computing in f32");
    Ok(Precision::F32)
}

/// A device, or the feature that it needs.
type Built = Result<Device, &'static str>;

#[cfg(feature = "flex")]
fn cpu() -> Built {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn cpu() -> Built {
    Err("flex")
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Built {
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Built {
    Err("cuda")
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Built {
    Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Built {
    Err("wgpu")
}

/// Whether there is a GPU for wgpu.
#[cfg(feature = "wgpu")]
fn wgpu_hardware() -> bool {
    use burn::tensor::DeviceKind;
    let kinds = [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0)];
    kinds.into_iter().any(|kind| trial(&Device::wgpu(kind)).is_ok())
}

#[cfg(not(feature = "wgpu"))]
fn wgpu_hardware() -> bool {
    false
}
