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

/// Registers the gradients of those of `[input, weight]` that are tracked; returns the output's gradient.
fn register_gradients<B: Backend + Conv2dOps, const P: usize>(
    ops: &Ops<State, P>,
    gradients: &mut Gradients,
    checkpointer: &mut Checkpointer,
) -> FloatTensor<B> {
    let (input, weight, options) = ops.state;
    let input = checkpointer.retrieve_node_output::<FloatTensor<B>>(input);
    let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
    let output_gradient = gradients.consume::<B>(&ops.node);
    if let Some(node) = &ops.parents[1] {
        let gradient =
            B::convolution_weight_gradient(input.clone(), weight.clone(), output_gradient.clone(), options);
        gradients.register::<B>(node.id, gradient);
    }
    if let Some(node) = &ops.parents[0] {
        let gradient = B::convolution_input_gradient(input, weight, output_gradient.clone(), options);
        gradients.register::<B>(node.id, gradient);
    }
    output_gradient
}

#[derive(Debug)]
struct Convolution;

impl<B: Backend + Conv2dOps> Backward<B, 2> for Convolution {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        register_gradients::<B, 2>(&ops, gradients, checkpointer);
    }
}

#[derive(Debug)]
struct BiasedConvolution;

impl<B: Backend + Conv2dOps> Backward<B, 3> for BiasedConvolution {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let output_gradient = register_gradients::<B, 3>(&ops, gradients, checkpointer);
        if let Some(node) = &ops.parents[2] {
            gradients.register::<B>(node.id, B::convolution_bias_gradient(output_gradient));
        }
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
}
