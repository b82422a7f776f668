//! `--device` to a Burn device.

use anyhow::{Result, bail};
use burn::tensor::Device;
use scrl_core::config::SettingError;

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
