//! The device of the tests.

use burn::tensor::Device;

/// The CPU, or what `SCRL_TEST_DEVICE` names: `wgpu`, in a build with that feature.
pub fn device() -> Device {
    match std::env::var("SCRL_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        Ok(other) => panic!("SCRL_TEST_DEVICE is {other}, which this build cannot test"),
    }
}
