//! What the tests of the operators share.

#![allow(dead_code, unused_imports)] // every test binary uses a part of it

mod device;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;

pub use device::device;

/// Values in row-major order.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().expect("an f32 tensor")
}

/// Asserts that two tensors agree within `tolerance` times the largest expected value.
#[track_caller]
pub fn assert_close<const D: usize>(what: &str, actual: &Tensor<D>, expected: &Tensor<D>, tolerance: f32) {
    assert_eq!(actual.dims(), expected.dims(), "shape of {what}");
    let (actual, expected) = (values(actual), values(expected));
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(
            error <= tolerance * largest,
            "{what}: element {index} is {actual}, expected {expected} (largest value {largest})"
        );
    }
}

/// Pseudo-random values in [-1, 1), the same on every run.
pub fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor of a safetensors file's bytes.
pub fn read<const D: usize>(file: &SafeTensors<'_>, name: &str, device: &Device) -> Tensor<D> {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("tensor {name}: {error}"));
    let values: Vec<f32> =
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let shape: [usize; D] = view.shape().try_into().expect("the fixture's rank");
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Runs `body` in a thread pool of `threads` threads.
pub fn with_threads<R: Send>(threads: usize, body: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool").install(body)
}

/// The operators that graph capture records while `body` runs, as text.
pub fn captured_operators<const D: usize>(body: impl FnOnce(&Device) -> Tensor<D>) -> Vec<String> {
    let device = Device::capture();
    let captured = device.capture_scope(|scope| {
        let _output = body(&device);
        scope.complete([], [])
    });
    let graph = captured.expect("a captured graph").graph;
    graph.operations.iter().map(|operation| format!("{operation:?}")).collect()
}
