//! The backward pass of batch normalisation.

use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};

use super::backend::{
    BatchNormGradients, BatchNormOps, Residual, Saved, Wanted, composed_by_statistics, group_gradients,
};
use super::exchange::Exchange;

/// What the backward pass needs; tensors are shared with the forward pass, not copied.
///
/// Without a residual the mask of ReLU follows from the input. With one it follows from the output, which the
/// next layer keeps anyway.
#[derive(Clone, Debug)]
struct State<T> {
    input: Option<NodeId>,
    output: Option<T>,
    weight: NodeId,
    bias: NodeId,
    /// Mean and variance.
    statistics: (T, T),
    epsilon: f64,
    relu: bool,
    by_batch: bool,
    /// With whom the statistics are shared.
    exchange: Option<Exchange>,
}

/// The parents are input, weight, bias and, if there is one, the residual.
#[derive(Debug)]
struct Normalization;

impl<B: Backend + BatchNormGradients, const N: usize> Backward<B, N> for Normalization {
    type State = State<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { input, output, weight, bias, statistics, epsilon, relu, by_batch, exchange } = ops.state;
        let (mean, variance) = statistics;
        let mut retrieve = |node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node);
        let (input, weight, bias) = (input.map(&mut retrieve), retrieve(weight), retrieve(bias));
        let saved =
            Saved { input, output, weight, bias, mean, variance, epsilon, relu, by_batch, sums: None };
        let node = |index: usize| ops.parents.get(index).and_then(Option::as_ref);
        let wanted = Wanted {
            input: node(0).is_some(),
            residual: node(3).is_some(),
            parameters: node(1).is_some() || node(2).is_some(),
        };
        let gradient = gradients.consume::<B>(&ops.node);
        let results = match exchange {
            None => B::normalization_gradients(saved, wanted, gradient),
            Some(exchange) => group_gradients::<B>(saved, wanted, gradient, &exchange),
        };
        let [weight, bias] = results.parameters.map_or([None, None], |parameters| parameters.map(Some));
        for (index, gradient) in [results.input, weight, bias, results.residual].into_iter().enumerate() {
            if let (Some(node), Some(gradient)) = (node(index), gradient) {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Output, mean and variance.
type Normalized<T> = (T, T, T);

/// A tensor of the autodiff backend, whatever the checkpointing strategy.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// A normalisation whose backward pass is to be recorded.
struct Recording {
    epsilon: f64,
    relu: bool,
    by_batch: bool,
    exchange: Option<Exchange>,
}

impl Recording {
    /// Runs `forward` on input, weight and bias, and the residual if there is one.
    fn run<B: Backend + BatchNormGradients, C: CheckpointStrategy>(
        self,
        tensors: [Tracked<B>; 3],
        residual: Residual<Autodiff<B, C>>,
        forward: impl FnOnce([FloatTensor<B>; 3], Residual<B>) -> Normalized<FloatTensor<B>>,
    ) -> Normalized<Tracked<B>> {
        let [input, weight, bias] = tensors.each_ref().map(|tensor| tensor.node());
        match residual {
            Residual::Absent => {
                self.run_on::<B, C, 3>([input, weight, bias], tensors, Residual::Absent, forward)
            }
            Residual::Added(residual) => {
                let (residual, node) = residual.into_parts();
                let nodes = [input, weight, bias, node];
                self.run_on::<B, C, 4>(nodes, tensors, Residual::Added(residual), forward)
            }
        }
    }

    /// [`run`](Self::run)s the normalisation by given mean and variance.
    fn run_by_statistics<B: Backend + BatchNormOps + BatchNormGradients, C: CheckpointStrategy>(
        self,
        tensors: [Tracked<B>; 3],
        (mean, variance): (FloatTensor<B>, FloatTensor<B>),
        residual: Residual<Autodiff<B, C>>,
    ) -> Tracked<B> {
        let (epsilon, relu) = (self.epsilon, self.relu);
        let forward = |[input, weight, bias]: [FloatTensor<B>; 3], residual| {
            let statistics = (mean.clone(), variance.clone());
            let output =
                B::normalize_by_statistics(input, weight, bias, mean, variance, residual, epsilon, relu);
            (output, statistics.0, statistics.1)
        };
        self.run::<B, C>(tensors, residual, forward).0
    }

    fn run_on<B: Backend + BatchNormGradients, C: CheckpointStrategy, const N: usize>(
        self,
        nodes: [NodeGuard; N],
        tensors: [Tracked<B>; 3],
        residual: Residual<B>,
        forward: impl FnOnce([FloatTensor<B>; 3], Residual<B>) -> Normalized<FloatTensor<B>>,
    ) -> Normalized<Tracked<B>> {
        let Self { epsilon, relu, by_batch, exchange } = self;
        let keep_input = by_batch || tensors[1].is_tracked() || tensors[2].is_tracked();
        let keep_output = relu && (N == 4 || !keep_input);
        let run = |tensors: [Tracked<B>; 3]| forward(tensors.map(|tensor| tensor.into_primitive()), residual);
        let (output, mean, variance) = match Normalization.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let input = keep_input.then(|| prep.checkpoint(&tensors[0]));
                let [weight, bias] = [&tensors[1], &tensors[2]].map(|tensor| prep.checkpoint(tensor));
                let (output, mean, variance) = run(tensors);
                let kept = keep_output.then(|| output.clone());
                let statistics = (mean.clone(), variance.clone());
                let state = State {
                    input,
                    output: kept,
                    weight,
                    bias,
                    statistics,
                    epsilon,
                    relu,
                    by_batch,
                    exchange,
                };
                (prep.finish(state, output), mean, variance)
            }
            OpsKind::UnTracked(prep) => {
                let (output, mean, variance) = run(tensors);
                (prep.finish(output), mean, variance)
            }
        };
        (output, Tracked::<B>::new(mean), Tracked::<B>::new(variance))
    }
}

impl<B: Backend + BatchNormOps + BatchNormGradients, C: CheckpointStrategy> BatchNormOps for Autodiff<B, C> {
    fn normalize_by_batch(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let forward = |[input, weight, bias]: [FloatTensor<B>; 3], residual| {
            B::normalize_by_batch(input, weight, bias, residual, epsilon, relu)
        };
        let recording = Recording { epsilon, relu, by_batch: true, exchange: None };
        recording.run::<B, C>([input, weight, bias], residual, forward)
    }

    fn normalize_by_statistics(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> FloatTensor<Self> {
        if mean.is_tracked() || variance.is_tracked() {
            return composed_by_statistics::<Self>(
                input, weight, bias, mean, variance, residual, epsilon, relu,
            );
        }
        let statistics = (mean.into_primitive(), variance.into_primitive());
        let recording = Recording { epsilon, relu, by_batch: false, exchange: None };
        recording.run_by_statistics::<B, C>([input, weight, bias], statistics, residual)
    }

    fn statistics(input: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (mean, variance) = B::statistics(input.into_primitive());
        (Tracked::<B>::new(mean), Tracked::<B>::new(variance))
    }

    fn normalize_by_group(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
        exchange: Exchange,
    ) -> FloatTensor<Self> {
        let statistics = (mean.into_primitive(), variance.into_primitive());
        let recording = Recording { epsilon, relu, by_batch: true, exchange: Some(exchange) };
        recording.run_by_statistics::<B, C>([input, weight, bias], statistics, residual)
    }
}
