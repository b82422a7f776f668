//! The backward pass of the fully connected layer.

use super::backend::LinearOps;
use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

#[derive(Debug)]
struct Linear;

impl<B: Backend + LinearOps> Backward<B, 2> for Linear {
    /// Input where the weight is tracked, weight where the input is.
    type State = [Option<NodeId>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [input, weight] =
            ops.state.map(|node| node.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node)));
        let output_gradient = gradients.consume::<B>(&ops.node);
        if let (Some(node), Some(input)) = (&ops.parents[1], input) {
            let gradient = B::linear_weight_gradient(input, output_gradient.clone());
            gradients.register::<B>(node.id, gradient);
        }
        if let (Some(node), Some(weight)) = (&ops.parents[0], weight) {
            gradients.register::<B>(node.id, B::linear_input_gradient(weight, output_gradient));
        }
    }
}

impl<B: Backend + LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn linear_product(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match Linear.prepare::<C>([input.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [
                    weight.is_tracked().then(|| prep.checkpoint(&input)),
                    input.is_tracked().then(|| prep.checkpoint(&weight)),
                ];
                prep.finish(state, B::linear_product(input.into_primitive(), weight.into_primitive()))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::linear_product(input.into_primitive(), weight.into_primitive()))
            }
        }
    }
}
