//! `--device` to a Burn device.

use anyhow::{Result, bail};
use burn::tensor::Device;
use scrl_core::config::SettingError;
use scrl_core::models::Precision;

/// Parses `cpu`, `cuda`, `cuda:N` or `wgpu`.
pub fn parse(name: &str) -> Result<Device> {
    let unknown = |expected: &str| SettingError {
        key: "--device".into(),
        value: name.into(),
        expected: expected.into(),
    };
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => cpu(),
        ("cuda", index) => match index.parse() {
            Ok(index) => cuda(index),
            Err(_) => Err(unknown("cuda:N with a number, for example cuda:0").into()),
        },
        ("wgpu", "0") => wgpu(),
        _ => Err(unknown("cpu, cuda:N or wgpu").into()),
    }
}

/// The precision to compute with on a device, given the one that is asked for.
///
/// bfloat16 is of use on processors that multiply such numbers; elsewhere this warns. There a run that begins computes
/// in 32 bits, and one that goes on (`begun`) keeps to what it has begun with, at the price of its speed.
///
/// # Errors
/// On a device for which there is no such precision.
pub fn usable(precision: Precision, device: &str, begun: bool) -> Result<Precision> {
    if precision.is_f32() {
        return Ok(precision);
    }
    if device != "cpu" {
        return Err(SettingError {
            key: "precision".into(),
            value: precision.to_string(),
            expected: format!("f32 with --device {device}: other precisions are for the CPU"),
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

#[cfg(feature = "flex")]
fn cpu() -> Result<Device> {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn cpu() -> Result<Device> {
    bail!("this binary was built without the CPU backend; build it with --features flex")
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device> {
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<Device> {
    bail!("this binary was built without CUDA; build it with --features cuda")
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device> {
    Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Device> {
    bail!("this binary was built without wgpu; build it with --features wgpu")
}
