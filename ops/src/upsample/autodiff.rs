//! The backward pass of the sum with a coarser map.

use super::backend::UpsampleOps;
use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

#[derive(Debug)]
struct SumWithUpsampled;

impl<B: Backend + UpsampleOps> Backward<B, 2> for SumWithUpsampled {
    /// The coarser map, for its shape.
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let coarse = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state);
        let gradient = gradients.consume::<B>(&ops.node);
        let [fine_node, coarse_node] = &ops.parents;
        if let Some(node) = coarse_node {
            gradients.register::<B>(node.id, B::coarse_gradient(coarse, gradient.clone()));
        }
        if let Some(node) = fine_node {
            gradients.register::<B>(node.id, gradient);
        }
    }
}

impl<B: Backend + UpsampleOps, C: CheckpointStrategy> UpsampleOps for Autodiff<B, C> {
    fn sum_with_upsampled(fine: FloatTensor<Self>, coarse: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [fine.node(), coarse.node()];
        match SumWithUpsampled.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&coarse);
                prep.finish(state, B::sum_with_upsampled(fine.into_primitive(), coarse.into_primitive()))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::sum_with_upsampled(fine.into_primitive(), coarse.into_primitive()))
            }
        }
    }
}
