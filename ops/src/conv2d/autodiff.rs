//! The backward pass of the convolution.

use super::{
    Conv2dOptions,
    backend::{Conv2dOps, Purpose},
};
use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where the gradient of the other use of a convolution's input waits for the convolution's.
type Slot<T> = Arc<Mutex<Option<T>>>;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State<T> {
    /// Input and weight as the checkpointer knows them.
    operands: [NodeId; 2],
    options: Conv2dOptions,
    /// Where ReLU ends the convolution: the output, which the next layer keeps anyway.
    rectified: Option<T>,
    /// Where the input has another use.
    other: Option<Slot<T>>,
}

/// A convolution. The parents are input, weight and, if there is one, the bias.
#[derive(Debug)]
struct Convolution;

impl<B: Backend + Conv2dOps, const N: usize> Backward<B, N> for Convolution {
    type State = State<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { operands, options, rectified, other } = ops.state;
        let [input, weight] = operands.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let gradient = gradients.consume::<B>(&ops.node);
        let gradient = match rectified {
            Some(output) => B::rectified_gradient(output, gradient),
            None => gradient,
        };
        let node = |index: usize| ops.parents.get(index).and_then(Option::as_ref);
        if let Some(node) = node(1) {
            let gradient =
                B::convolution_weight_gradient(input.clone(), weight.clone(), gradient.clone(), options);
            gradients.register::<B>(node.id, gradient);
        }
        if let Some(node) = node(0) {
            let gradient = match other.and_then(|slot| held(&slot).take()) {
                None => B::convolution_input_gradient(input, weight, gradient.clone(), options),
                Some(other) => {
                    B::convolution_input_gradient_sum(input, weight, gradient.clone(), other, options)
                }
            };
            gradients.register::<B>(node.id, gradient);
        }
        if let Some(node) = node(2) {
            gradients.register::<B>(node.id, B::convolution_bias_gradient(gradient));
        }
    }
}

fn held<T>(slot: &Slot<T>) -> MutexGuard<'_, Option<T>> {
    slot.lock().expect("no thread panics with the gradient")
}

/// The input for its other use.
#[derive(Debug)]
struct OtherUse;

impl<B: Backend> Backward<B, 1> for OtherUse {
    type State = Slot<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        *held(&ops.state) = Some(gradients.consume::<B>(&ops.node));
    }
}

/// A step between the input and [`OtherUse`], which is thereby further from the input than the convolution is: backward
/// passes come to it first.
#[derive(Debug)]
struct Distance;

impl<B: Backend> Backward<B, 1> for Distance {
    type State = ();

    fn backward(self, _ops: Ops<(), 1>, _gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        // The gradient waits in the slot.
    }
}

/// A tensor of the autodiff backend, whatever the checkpointing strategy.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// A convolution whose backward pass is to be recorded.
struct Recording<B: Backend> {
    options: Conv2dOptions,
    relu: bool,
    other: Option<Slot<FloatTensor<B>>>,
}

impl<B: Backend + Conv2dOps> Recording<B> {
    /// Runs `forward` on input and weight; `nodes` are theirs and, if there is one, the bias's.
    fn run<C: CheckpointStrategy, const N: usize>(
        self,
        nodes: [NodeGuard; N],
        [input, weight]: [Tracked<B>; 2],
        forward: impl FnOnce(FloatTensor<B>, FloatTensor<B>, Purpose) -> FloatTensor<B>,
    ) -> Tracked<B> {
        let Self { options, relu, other } = self;
        match Convolution.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let operands = [prep.checkpoint(&input), prep.checkpoint(&weight)];
                let output = forward(input.into_primitive(), weight.into_primitive(), Purpose::Training);
                let rectified = relu.then(|| output.clone());
                prep.finish(State { operands, options, rectified, other }, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(forward(input.into_primitive(), weight.into_primitive(), Purpose::Inference))
            }
        }
    }
}

impl<B: Backend + Conv2dOps, C: CheckpointStrategy> Conv2dOps for Autodiff<B, C> {
    fn convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
        _: Purpose,
    ) -> FloatTensor<Self> {
        let recording = Recording::<B> { options, relu: false, other: None };
        recording.run::<C, 2>([input.node(), weight.node()], [input, weight], |input, weight, purpose| {
            B::convolution(input, weight, options, purpose)
        })
    }

    fn biased_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv2dOptions,
        _: Purpose,
    ) -> FloatTensor<Self> {
        let (bias, node) = bias.into_parts();
        let recording = Recording::<B> { options, relu: false, other: None };
        recording.run::<C, 3>(
            [input.node(), weight.node(), node],
            [input, weight],
            |input, weight, purpose| B::biased_convolution(input, weight, bias, options, purpose),
        )
    }

    fn shared_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let slot = Slot::<FloatTensor<B>>::default();
        let distance: FloatTensor<Self> =
            Distance.prepare::<C>([input.node()]).compute_bound().stateless(input.primitive().clone());
        let (values, node) = distance.into_parts();
        let other = match OtherUse.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(slot.clone(), values),
            OpsKind::UnTracked(prep) => prep.finish(values),
        };
        let recording = Recording::<B> { options, relu: false, other: Some(slot) };
        let nodes = [input.node(), weight.node()];
        let output = recording.run::<C, 2>(nodes, [input, weight], |input, weight, purpose| {
            B::convolution(input, weight, options, purpose)
        });
        (output, other)
    }

    fn rectified_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv2dOptions,
        _: Purpose,
    ) -> FloatTensor<Self> {
        let (bias, node) = bias.into_parts();
        let recording = Recording::<B> { options, relu: true, other: None };
        recording.run::<C, 3>(
            [input.node(), weight.node(), node],
            [input, weight],
            |input, weight, purpose| B::rectified_convolution(input, weight, bias, options, purpose),
        )
    }
}
