//! The backward pass of the convolution.

use super::{Conv2dOptions, backend::Conv2dOps};
use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

/// Input and weight as the checkpointer knows them, and the options.
type State = (NodeId, NodeId, Conv2dOptions);

/// Registers the gradients of those of `[input, weight, bias]` that are tracked.
fn register_gradients<B: Backend + Conv2dOps>(
    (input, weight, options): State,
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
        let gradient = B::convolution_input_gradient(input, weight, output_gradient.clone(), options);
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
        register_gradients::<B>(ops.state, &ops.parents.map(|parent| parent.map(|node| node.id)), gradient, gradients, checkpointer);
    }
}

#[derive(Debug)]
struct BiasedConvolution;

impl<B: Backend + Conv2dOps> Backward<B, 3> for BiasedConvolution {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        register_gradients::<B>(ops.state, &ops.parents.map(|parent| parent.map(|node| node.id)), gradient, gradients, checkpointer);
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
        register_gradients::<B>(state, &ops.parents.map(|parent| parent.map(|node| node.id)), gradient, gradients, checkpointer);
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
