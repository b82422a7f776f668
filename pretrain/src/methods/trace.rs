//! What a forward and backward pass computes on its way, to find the first value that is NaN or infinite.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use scrl_core::models::{Features, in_f32};

/// Path segments that name a layer: those of a block of the backbone, for example `encoder.layer1.0`.
const LAYER_SEGMENTS: usize = 3;

/// What a pass has just computed.
pub enum Activation<'a> {
    /// The feature maps of the trained backbone, up to the pooled one.
    Maps(&'a Features),
    /// Rows of vectors, with their name.
    Vectors(&'static str, &'a Tensor<2>),
}

/// How large some values are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extent {
    /// The largest absolute value of the finite ones, 0 without any.
    pub largest: f64,
    /// How many are NaN or infinite.
    pub not_finite: usize,
}

impl Extent {
    /// Of a tensor's elements; reads two values from the device.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let count = tensor.shape().num_elements();
        if count == 0 {
            return Self::default();
        }
        let tensor = in_f32(tensor);
        let finite = tensor.clone().is_finite();
        let largest = tensor.abs().mask_fill(finite.clone().bool_not(), 0.0).max();
        let finite = finite.int().sum();
        let read = |data: TensorData| data.convert_dtype(DType::F64).iter::<f64>().next().unwrap_or(0.0);
        Self { largest: read(largest.into_data()), not_finite: count - read(finite.into_data()) as usize }
    }

    /// Of values on the host.
    pub fn of_values(values: impl IntoIterator<Item = f32>) -> Self {
        values.into_iter().fold(Self::default(), |extent, value| match value.is_finite() {
            true => Self { largest: extent.largest.max(f64::from(value.abs())), ..extent },
            false => Self { not_finite: extent.not_finite + 1, ..extent },
        })
    }

    /// Of these values and others.
    fn and(self, other: Self) -> Self {
        Self { largest: self.largest.max(other.largest), not_finite: self.not_finite + other.not_finite }
    }
}

/// A layer of the network in training.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTrace {
    /// Its path, for example `encoder.layer1.0`.
    pub name: String,
    /// Of its parameters.
    pub parameters: Extent,
    /// Of their gradients.
    pub gradients: Extent,
}

/// One forward and backward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The mean over micro-batches.
    pub loss: f64,
    /// In the order of computation.
    pub activations: Vec<(&'static str, Extent)>,
    /// In the order of the network's layers.
    pub layers: Vec<LayerTrace>,
}

/// Gathers activations; those of micro-batches are put together.
#[derive(Default)]
pub(super) struct Tracer(Vec<(&'static str, Extent)>);

impl Tracer {
    pub(super) fn add(&mut self, activation: Activation<'_>) {
        match activation {
            Activation::Maps(features) => {
                for (level, map) in features.iter() {
                    self.record(level.name(), Extent::of(map.clone().inner()));
                }
            }
            Activation::Vectors(name, rows) => self.record(name, Extent::of(rows.clone().inner())),
        }
    }

    fn record(&mut self, name: &'static str, extent: Extent) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.and(extent),
            None => self.0.push((name, extent)),
        }
    }

    /// The whole pass.
    pub(super) fn finish(self, loss: Tensor<1>, layers: Vec<LayerTrace>) -> Trace {
        Trace { loss: f64::from(loss.into_scalar::<f32>()), activations: self.0, layers }
    }
}

/// The layers of a network with the size of their parameters and gradients.
pub(super) fn layers<M: Module>(network: &M, gradients: &GradientsParams) -> Vec<LayerTrace> {
    let mut layers = Layers { path: Vec::new(), gradients, found: Vec::new() };
    network.visit(&mut layers);
    layers.found
}

struct Layers<'a> {
    path: Vec<String>,
    gradients: &'a GradientsParams,
    found: Vec<LayerTrace>,
}

impl ModuleVisitor for Layers<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Running statistics require no gradient and take no part in a training pass.
        if !param.is_require_grad() {
            return;
        }
        let name = self.path[..(self.path.len() - 1).min(LAYER_SEGMENTS)].join(".");
        let parameters = Extent::of(param.val().inner());
        let gradients = self.gradients.get::<D>(param.id).map(Extent::of).unwrap_or_default();
        match self.found.last_mut().filter(|layer| layer.name == name) {
            Some(layer) => {
                layer.parameters = layer.parameters.and(parameters);
                layer.gradients = layer.gradients.and(gradients);
            }
            None => self.found.push(LayerTrace { name, parameters, gradients }),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn values_that_are_not_finite_are_counted_and_do_not_hide_the_largest() {
        let values = [1.0, -7.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.0];
        let expected = Extent { largest: 7.5, not_finite: 3 };
        assert_eq!(Extent::of_values(values), expected);
        assert_eq!(Extent::of(Tensor::<1>::from_floats(values, &Device::flex())), expected);
        assert_eq!(Extent::of(Tensor::<1>::from_floats([f32::NAN], &Device::flex())).largest, 0.0);
        assert_eq!(Extent::of(Tensor::<2>::zeros([0, 4], &Device::flex())), Extent::default());
    }
}
