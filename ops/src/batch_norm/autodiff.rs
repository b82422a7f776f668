//! The backward passes of batch normalisation.

use super::backend::BatchNormOps;
use burn::backend::{Backend, ops::ModuleOps, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

/// Mean, variance and epsilon of a normalisation.
#[derive(Clone, Debug)]
struct Statistics<T> {
    mean: T,
    variance: T,
    epsilon: f64,
}

#[derive(Debug)]
struct ByBatch;

impl<B: Backend + BatchNormOps> Backward<B, 3> for ByBatch {
    /// Input and weight.
    type State = (NodeId, NodeId, Statistics<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (input, weight, statistics) = ops.state;
        let input = checkpointer.retrieve_node_output::<FloatTensor<B>>(input);
        let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
        let output_gradient = gradients.consume::<B>(&ops.node);
        let Statistics { mean, variance, epsilon } = statistics;
        let (input, weight, bias) =
            B::normalize_by_batch_gradients(input, weight, mean, variance, epsilon, output_gradient);
        for (node, gradient) in ops.parents.iter().zip([input, weight, bias]) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct ByStatistics;

impl<B: Backend + BatchNormOps> Backward<B, 3> for ByStatistics {
    /// Input, kept only where the gradients of weight or bias are wanted, and weight.
    type State = (Option<NodeId>, NodeId, Statistics<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (input, weight, Statistics { mean, variance, epsilon }) = ops.state;
        let input = input.map(|input| checkpointer.retrieve_node_output::<FloatTensor<B>>(input));
        let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
        let output_gradient = gradients.consume::<B>(&ops.node);
        let [input_node, weight_node, bias_node] = &ops.parents;
        if let Some(input) = input {
            let (weight, bias) = B::normalize_by_statistics_parameter_gradients(
                input,
                mean,
                variance.clone(),
                epsilon,
                output_gradient.clone(),
            );
            for (node, gradient) in [(weight_node, weight), (bias_node, bias)] {
                if let Some(node) = node {
                    gradients.register::<B>(node.id, gradient);
                }
            }
        }
        if let Some(node) = input_node {
            let gradient =
                B::normalize_by_statistics_input_gradient(weight, variance, epsilon, output_gradient);
            gradients.register::<B>(node.id, gradient);
        }
    }
}

impl<B: Backend + BatchNormOps, C: CheckpointStrategy> BatchNormOps for Autodiff<B, C> {
    fn normalize_by_batch(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [input.node(), weight.node(), bias.node()];
        let forward = |input: FloatTensor<Self>, weight: FloatTensor<Self>| {
            B::normalize_by_batch(
                input.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                epsilon,
            )
        };
        let (output, mean, variance) = match ByBatch.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let (input_node, weight_node) = (prep.checkpoint(&input), prep.checkpoint(&weight));
                let (output, mean, variance) = forward(input, weight);
                let statistics = Statistics { mean: mean.clone(), variance: variance.clone(), epsilon };
                (prep.finish((input_node, weight_node, statistics), output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let (output, mean, variance) = forward(input, weight);
                (prep.finish(output), mean, variance)
            }
        };
        (output, FloatTensor::<Self>::new(mean), FloatTensor::<Self>::new(variance))
    }

    fn normalize_by_statistics(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        if mean.is_tracked() || variance.is_tracked() {
            return <Self as ModuleOps<Self>>::batch_norm(input, weight, bias, mean, variance, epsilon);
        }
        let nodes = [input.node(), weight.node(), bias.node()];
        let keep_input = weight.is_tracked() || bias.is_tracked();
        let statistics =
            Statistics { mean: mean.into_primitive(), variance: variance.into_primitive(), epsilon };
        let forward = |input: FloatTensor<Self>, weight: FloatTensor<Self>, statistics: Statistics<_>| {
            B::normalize_by_statistics(
                input.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                statistics.mean,
                statistics.variance,
                epsilon,
            )
        };
        match ByStatistics.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let input_node = keep_input.then(|| prep.checkpoint(&input));
                let weight_node = prep.checkpoint(&weight);
                let output = forward(input, weight, statistics.clone());
                prep.finish((input_node, weight_node, statistics), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(input, weight, statistics)),
        }
    }
}
