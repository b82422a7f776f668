//! The backend extension of RoIAlign.

use std::sync::Arc;

use burn::backend::{Backend, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};

use super::{ImageBox, RoiAlignOptions, composed};

/// RoIAlign and its gradient on a backend; the default bodies are composed of standard operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub trait RoiAlignOps: Backend {
    /// Pools `features`, `[batch, channels, height, width]`, in each of the boxes.
    fn roi_align(
        features: FloatTensor<Self>,
        boxes: Arc<[ImageBox]>,
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        composed::forward::<Self>(features, &boxes, &options)
    }

    /// Gradient of the features, of `features_shape`, from the gradient of the output of [`Self::roi_align`].
    fn roi_align_backward(
        grad: FloatTensor<Self>,
        boxes: Arc<[ImageBox]>,
        features_shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        composed::backward::<Self>(grad, &boxes, features_shape, &options)
    }
}

impl RoiAlignOps for burn::backend::Capture {}

impl<B: Backend + RoiAlignOps, C: CheckpointStrategy> RoiAlignOps for Autodiff<B, C> {
    fn roi_align(
        features: FloatTensor<Self>,
        boxes: Arc<[ImageBox]>,
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct RoiAlign;

        impl<B: Backend + RoiAlignOps> Backward<B, 1> for RoiAlign {
            type State = (Arc<[ImageBox]>, [usize; 4], RoiAlignOptions);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (boxes, shape, options) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |grad| {
                    B::roi_align_backward(grad, boxes, shape, options)
                });
            }
        }

        let shape = features.shape().dims();
        let guard = features.node();
        let output = B::roi_align(features.into_primitive(), boxes.clone(), options);
        match RoiAlign.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((boxes, shape, options), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}
