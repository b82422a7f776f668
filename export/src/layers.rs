//! Nodes for the layers of `scrl_core::models`, with initialisers named by module path.

use burn::tensor::{Tensor, TensorData};
use scrl_core::models::{BatchNorm, Conv2d};

use crate::ExportError;
use crate::graph::{Attribute, Graph, Value};

/// The layer's node and its initialisers `PATH.weight` and, if it has one, `PATH.bias`.
///
/// # Errors
/// When a weight is not finite.
pub fn conv(graph: &mut Graph, path: &str, layer: &Conv2d, input: &Value) -> Result<Value, ExportError> {
    let weight = layer.weight.val();
    let [_, _, height, width] = weight.dims();
    let mut inputs = vec![input.clone(), graph.initializer(&format!("{path}.weight"), host(weight))?];
    if let Some(bias) = &layer.bias {
        inputs.push(graph.initializer(&format!("{path}.bias"), host(bias.val()))?);
    }
    let attributes = vec![
        ("kernel_shape", Attribute::Ints(vec![height as i64, width as i64])),
        ("strides", Attribute::Ints(vec![layer.stride as i64; 2])),
        ("pads", Attribute::Ints(vec![layer.padding as i64; 4])),
    ];
    Ok(graph.node(path, "Conv", &inputs.iter().collect::<Vec<_>>(), attributes))
}

/// Normalisation by running statistics, which stay initialisers of their own; runtimes fold them into the
/// convolution before.
///
/// # Errors
/// When a parameter or a statistic is not finite.
pub fn batch_norm(
    graph: &mut Graph,
    path: &str,
    layer: &BatchNorm,
    input: &Value,
) -> Result<Value, ExportError> {
    let tensors = [
        ("weight", layer.weight.val()),
        ("bias", layer.bias.val()),
        ("running_mean", layer.running_mean.value_sync()),
        ("running_var", layer.running_var.value_sync()),
    ];
    let mut inputs = vec![input.clone()];
    for (name, tensor) in tensors {
        inputs.push(graph.initializer(&format!("{path}.{name}"), host(tensor))?);
    }
    let attributes = vec![("epsilon", Attribute::Float(layer.epsilon as f32))];
    Ok(graph.node(path, "BatchNormalization", &inputs.iter().collect::<Vec<_>>(), attributes))
}

/// A rectified linear unit.
pub fn relu(graph: &mut Graph, path: &str, input: &Value) -> Value {
    graph.node(path, "Relu", &[input], vec![])
}

fn host<const D: usize>(tensor: Tensor<D>) -> TensorData {
    tensor.into_data()
}
