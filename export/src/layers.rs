//! Nodes for the layers of `scrl_core::models`, with initialisers named by module path.

use burn::tensor::{Tensor, TensorData};
use scrl_core::models::{BatchNorm, Conv2d, ConvTranspose2d, Linear};

use crate::ExportError;
use crate::graph::{Attribute, Graph, Value};

/// A convolution's initialisers, for as many nodes as share them.
#[derive(Clone, Debug)]
pub struct Convolution {
    weight: Value,
    bias: Option<Value>,
    kernel: [i64; 2],
    stride: i64,
    padding: i64,
}

impl Convolution {
    /// The initialisers `PATH.weight` and, if the layer has one, `PATH.bias`.
    ///
    /// # Errors
    /// When a weight is not finite.
    pub fn new(graph: &mut Graph, path: &str, layer: &Conv2d) -> Result<Self, ExportError> {
        let bias = layer.bias.as_ref().map(|bias| host(bias.val()));
        Self::with(graph, path, layer, host(layer.weight.val()), bias)
    }

    /// The same, with the running statistics, scale and shift of the batch norm behind it in weight and bias.
    ///
    /// # Errors
    /// When a weight or statistic is not finite.
    pub fn folded(
        graph: &mut Graph,
        path: &str,
        layer: &Conv2d,
        norm: &BatchNorm,
    ) -> Result<Self, ExportError> {
        let (weight, bias) = fold(layer, norm);
        Self::with(graph, path, layer, weight, Some(bias))
    }

    fn with(
        graph: &mut Graph,
        path: &str,
        layer: &Conv2d,
        weight: TensorData,
        bias: Option<TensorData>,
    ) -> Result<Self, ExportError> {
        let [_, _, height, width] = layer.weight.dims();
        Ok(Self {
            weight: graph.initializer(&format!("{path}.weight"), weight)?,
            bias: bias.map(|bias| graph.initializer(&format!("{path}.bias"), bias)).transpose()?,
            kernel: [height as i64, width as i64],
            stride: layer.stride as i64,
            padding: layer.padding as i64,
        })
    }

    /// One convolution, called `name`.
    pub fn node(&self, graph: &mut Graph, name: &str, input: &Value) -> Value {
        let inputs: Vec<&Value> = [input, &self.weight].into_iter().chain(&self.bias).collect();
        let attributes = vec![
            ("kernel_shape", Attribute::Ints(self.kernel.to_vec())),
            ("strides", Attribute::Ints(vec![self.stride; 2])),
            ("pads", Attribute::Ints(vec![self.padding; 4])),
        ];
        graph.node(name, "Conv", &inputs, attributes)
    }
}

/// The layer's node and its initialisers.
///
/// # Errors
/// When a weight is not finite.
pub fn conv(graph: &mut Graph, path: &str, layer: &Conv2d, input: &Value) -> Result<Value, ExportError> {
    Ok(Convolution::new(graph, path, layer)?.node(graph, path, input))
}

/// The layer's node and its initialisers.
///
/// # Errors
/// When a weight is not finite.
pub fn conv_transpose(
    graph: &mut Graph,
    path: &str,
    layer: &ConvTranspose2d,
    input: &Value,
) -> Result<Value, ExportError> {
    let [_, _, height, width] = layer.weight.dims();
    let sides = vec![height as i64, width as i64];
    let weight = graph.initializer(&format!("{path}.weight"), host(layer.weight.val()))?;
    let bias = graph.initializer(&format!("{path}.bias"), host(layer.bias.val()))?;
    let attributes =
        vec![("kernel_shape", Attribute::Ints(sides.clone())), ("strides", Attribute::Ints(sides))];
    Ok(graph.node(path, "ConvTranspose", &[input, &weight, &bias], attributes))
}

/// A convolution and the batch norm behind it: one node with `fold`, else two. The paths are those of the layers.
///
/// # Errors
/// When a weight or statistic is not finite.
pub fn conv_norm(
    graph: &mut Graph,
    (path, layer): (&str, &Conv2d),
    (norm_path, norm): (&str, &BatchNorm),
    input: &Value,
    fold: bool,
) -> Result<Value, ExportError> {
    if fold {
        return Ok(Convolution::folded(graph, path, layer, norm)?.node(graph, path, input));
    }
    let output = conv(graph, path, layer, input)?;
    batch_norm(graph, norm_path, norm, &output)
}

/// Normalisation by running statistics, which stay initialisers of their own.
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

/// A fully connected layer, `[R, in]` to `[R, out]`.
///
/// # Errors
/// When a weight is not finite.
pub fn linear(graph: &mut Graph, path: &str, layer: &Linear, input: &Value) -> Result<Value, ExportError> {
    let mut inputs =
        vec![input.clone(), graph.initializer(&format!("{path}.weight"), host(layer.weight.val()))?];
    if let Some(bias) = &layer.bias {
        inputs.push(graph.initializer(&format!("{path}.bias"), host(bias.val()))?);
    }
    let attributes = vec![("transB", Attribute::Int(1))];
    Ok(graph.node(path, "Gemm", &inputs.iter().collect::<Vec<_>>(), attributes))
}

/// A rectified linear unit.
pub fn relu(graph: &mut Graph, path: &str, input: &Value) -> Value {
    graph.node(path, "Relu", &[input], vec![])
}

/// Weight and bias of the convolution that computes `norm(layer(x))`.
fn fold(layer: &Conv2d, norm: &BatchNorm) -> (TensorData, TensorData) {
    let shape = layer.weight.dims();
    let values = |tensor: Tensor<1>| -> Vec<f64> { host(tensor).iter::<f64>().collect() };
    let (mean, variance) = (values(norm.running_mean.value_sync()), values(norm.running_var.value_sync()));
    let (shift, gain) = (values(norm.bias.val()), values(norm.weight.val()));
    let own = layer.bias.as_ref().map_or(vec![0.0; shape[0]], |bias| values(bias.val()));
    let scale: Vec<f64> = gain.iter().zip(&variance).map(|(g, v)| g / (v + norm.epsilon).sqrt()).collect();
    let filter: usize = shape[1..].iter().product();
    let weight: Vec<f64> = host(layer.weight.val()).iter::<f64>().collect();
    let folded = weight
        .chunks_exact(filter)
        .zip(&scale)
        .flat_map(|(filter, scale)| filter.iter().map(move |w| w * scale));
    let folded: Vec<f32> = folded.map(|value| value as f32).collect();
    let bias = (0..shape[0]).map(|o| ((own[o] - mean[o]) * scale[o] + shift[o]) as f32).collect::<Vec<_>>();
    (TensorData::new(folded, shape), TensorData::new(bias, [shape[0]]))
}

fn host<const D: usize>(tensor: Tensor<D>) -> TensorData {
    tensor.into_data()
}
