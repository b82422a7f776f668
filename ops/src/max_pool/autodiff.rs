//! The backward pass of maximum pooling, which looks the maxima up again instead of keeping their places.

use super::{MaxPool2dOptions, backend::MaxPoolOps};
use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};

#[derive(Debug)]
struct WindowMaximum;

impl<B: Backend + MaxPoolOps> Backward<B, 1> for WindowMaximum {
    type State = (NodeId, MaxPool2dOptions);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (input, options) = ops.state;
        let input = checkpointer.retrieve_node_output::<FloatTensor<B>>(input);
        unary::<B, _>(ops.parents, ops.node, gradients, |output_gradient| {
            B::window_maximum_gradient(input, output_gradient, options)
        });
    }
}

impl<B: Backend + MaxPoolOps, C: CheckpointStrategy> MaxPoolOps for Autodiff<B, C> {
    fn window_maximum(input: FloatTensor<Self>, options: MaxPool2dOptions) -> FloatTensor<Self> {
        match WindowMaximum.prepare::<C>([input.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&input), options);
                prep.finish(state, B::window_maximum(input.into_primitive(), options))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::window_maximum(input.into_primitive(), options)),
        }
    }
}
