//! The backward pass of the convolution.

use super::{Conv2dOptions, backend::Conv2dOps};
use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use std::sync::{Arc, Mutex};

/// Input and weight as the checkpointer knows them, and the options.
type State = (NodeId, NodeId, Conv2dOptions);

/// Registers the gradients of those of `[input, weight, bias]` that are tracked; `other` is added to the input's.
fn register_gradients<B: Backend + Conv2dOps>(
    (input, weight, options): State,
    other: Option<FloatTensor<B>>,
    parents: &[Option<NodeId>],
    output_gradient: FloatTensor<B>,
    gradients: &mut Gradients,
    checkpointer: &mut Checkpointer,
) {
    let input = checkpointer.retrieve_node_output::<FloatTensor<B>>(input);
    let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
    if let Some(Some(node)) = parents.get(1).copied() {
        let gradient =
            B::convolution_weight_gradient(input.clone(), weight.clone(), output_gradient.clone(), options);
        gradients.register::<B>(node, gradient);
    }
    if let Some(Some(node)) = parents.first().copied() {
        let output_gradient = output_gradient.clone();
        let gradient = match other {
            None => B::convolution_input_gradient(input, weight, output_gradient, options),
            Some(other) => B::convolution_input_gradient_sum(input, weight, output_gradient, other, options),
        };
        gradients.register::<B>(node, gradient);
    }
    if let Some(Some(node)) = parents.get(2).copied() {
        gradients.register::<B>(node, B::convolution_bias_gradient(output_gradient));
    }
}

#[derive(Debug)]
struct Convolution;

impl<B: Backend + Conv2dOps> Backward<B, 2> for Convolution {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        register_gradients::<B>(
            ops.state,
            None,
            &ops.parents.map(|parent| parent.map(|node| node.id)),
            gradient,
            gradients,
            checkpointer,
        );
    }
}

#[derive(Debug)]
struct BiasedConvolution;

impl<B: Backend + Conv2dOps> Backward<B, 3> for BiasedConvolution {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        register_gradients::<B>(
            ops.state,
            None,
            &ops.parents.map(|parent| parent.map(|node| node.id)),
            gradient,
            gradients,
            checkpointer,
        );
    }
}

#[derive(Debug)]
struct RectifiedConvolution;

impl<B: Backend + Conv2dOps> Backward<B, 3> for RectifiedConvolution {
    /// With the output, which the next layer keeps anyway.
    type State = (State, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (state, output) = ops.state;
        let gradient = B::rectified_gradient(output, gradients.consume::<B>(&ops.node));
        register_gradients::<B>(
            state,
            None,
            &ops.parents.map(|parent| parent.map(|node| node.id)),
            gradient,
            gradients,
            checkpointer,
        );
    }
}

/// Where the gradient of the other use of a convolution's input waits for the convolution's.
type Slot<B> = Arc<Mutex<Option<FloatTensor<B>>>>;

/// A convolution whose input has another use.
#[derive(Debug)]
struct SharedConvolution;

impl<B: Backend + Conv2dOps> Backward<B, 2> for SharedConvolution {
    type State = (State, Slot<B>);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (state, slot) = ops.state;
        let other = slot.lock().expect("no thread panics with the gradient").take();
        let gradient = gradients.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register_gradients::<B>(state, other, &parents, gradient, gradients, checkpointer);
    }
}

/// The input for its other use.
#[derive(Debug)]
struct OtherUse;

impl<B: Backend> Backward<B, 1> for OtherUse {
    type State = Slot<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        *ops.state.lock().expect("no thread panics with the gradient") = Some(gradient);
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

impl<B: Backend + Conv2dOps, C: CheckpointStrategy> Conv2dOps for Autodiff<B, C> {
    fn convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        match Convolution.prepare::<C>([input.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&input), prep.checkpoint(&weight), options);
                let output = B::convolution(input.into_primitive(), weight.into_primitive(), options);
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::convolution(input.into_primitive(), weight.into_primitive(), options))
            }
        }
    }

    fn biased_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), weight.node(), bias.node()];
        let forward = |input: FloatTensor<Self>, weight: FloatTensor<Self>| {
            B::biased_convolution(
                input.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                options,
            )
        };
        match BiasedConvolution.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&input), prep.checkpoint(&weight), options);
                prep.finish(state, forward(input, weight))
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(input, weight)),
        }
    }

    fn shared_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let slot = Slot::<B>::default();
        let distance: FloatTensor<Self> =
            match Distance.prepare::<C>([input.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((), input.primitive().clone()),
                OpsKind::UnTracked(prep) => prep.finish(input.primitive().clone()),
            };
        let (values, node) = distance.into_parts();
        let other = match OtherUse.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(slot.clone(), values),
            OpsKind::UnTracked(prep) => prep.finish(values),
        };
        let output =
            match SharedConvolution.prepare::<C>([input.node(), weight.node()]).compute_bound().stateful() {
                OpsKind::Tracked(mut prep) => {
                    let state = (prep.checkpoint(&input), prep.checkpoint(&weight), options);
                    let output = B::convolution(input.into_primitive(), weight.into_primitive(), options);
                    prep.finish((state, slot), output)
                }
                OpsKind::UnTracked(prep) => {
                    prep.finish(B::convolution(input.into_primitive(), weight.into_primitive(), options))
                }
            };
        (output, other)
    }

    fn rectified_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: Conv2dOptions,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), weight.node(), bias.node()];
        let forward = |input: FloatTensor<Self>, weight: FloatTensor<Self>| {
            B::rectified_convolution(
                input.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                options,
            )
        };
        match RectifiedConvolution.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&input), prep.checkpoint(&weight), options);
                let output = forward(input, weight);
                prep.finish((state, output.clone()), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(input, weight)),
        }
    }
}
