//! Projector and predictor.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use scrl_core::models::layers::{BatchNorm, Init, Linear};
use scrl_core::random::Rng;
use scrl_ops::Group;

/// Linear, batch norm, ReLU, linear without bias: the head of BYOL and SCRL.
#[derive(Module, Debug)]
pub struct Mlp {
    linear1: Linear,
    norm: BatchNorm,
    linear2: Linear,
}

impl Mlp {
    /// Two layers with random weights, a batch norm and ReLU between them.
    pub fn init(inputs: usize, hidden: usize, outputs: usize, rng: &mut Rng, device: &Device) -> Self {
        Self {
            linear1: Linear::init([inputs, hidden], true, Init::TorchDefault, rng, device),
            norm: BatchNorm::init(hidden, device),
            linear2: Linear::init([hidden, outputs], false, Init::TorchDefault, rng, device),
        }
    }

    /// With the statistics of its batch norm over the batches of all processes of `group`, in training.
    pub fn over(mut self, group: &Group) -> Self {
        self.norm.group = group.clone();
        self
    }

    /// `[samples, inputs]` to `[samples, outputs]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.forward_counting(input, true)
    }

    /// [`forward`](Self::forward) of samples that are part of the group's statistics only if they `count`.
    pub fn forward_counting(&self, input: Tensor<2>, counts: bool) -> Tensor<2> {
        self.linear2.forward(self.norm.forward_relu_counting(self.linear1.forward(input), counts))
    }
}
