//! Conversion between 32-bit numbers and bfloat16.

use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Tensor};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

/// Conversion of a tensor's numbers. The default body is Burn's operator.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Capture,
    Autodiff,
)]
pub(crate) trait CastOps: Backend {
    /// The same numbers as another type, rounded to the nearest.
    fn converted(tensor: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        Self::float_cast(tensor, dtype)
    }
}

// Graph capture records the standard operator, which is what an exporter knows.
impl CastOps for burn::backend::Capture {}

#[cfg(feature = "cube")]
impl CastOps for burn::backend::Cube {}

#[cfg(feature = "flex")]
impl CastOps for burn::backend::Flex {
    fn converted(tensor: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        use burn::backend::ops::FloatTensorOps;
        match (tensor.dtype(), dtype) {
            (DType::F32, FloatDType::BF16) => crate::cpu::rounded(tensor),
            (DType::BF16, FloatDType::F32) => crate::cpu::widened(tensor),
            _ => Self::float_cast(tensor, dtype),
        }
    }
}

#[derive(Debug)]
struct Conversion;

impl<B: Backend + CastOps> Backward<B, 1> for Conversion {
    /// The type of the input.
    type State = FloatDType;

    fn backward(self, ops: Ops<FloatDType, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        if let [Some(node)] = &ops.parents {
            gradients.register::<B>(node.id, B::converted(gradient, ops.state));
        }
    }
}

impl<B: Backend + CastOps, C: CheckpointStrategy> CastOps for Autodiff<B, C> {
    fn converted(tensor: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let source = FloatDType::from(tensor.dtype());
        let (tensor, node) = tensor.into_parts();
        match Conversion.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(source, B::converted(tensor, dtype)),
            OpsKind::UnTracked(prep) => prep.finish(B::converted(tensor, dtype)),
        }
    }
}

/// The same numbers as another type, rounded to the nearest, of two equally near the even one.
///
/// The gradient has the type of the input.
pub fn cast<const D: usize>(tensor: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    if tensor.dtype() == DType::from(dtype) {
        return tensor;
    }
    Tensor::from_dispatch(Dispatch::converted(tensor.into_dispatch(), dtype))
}
