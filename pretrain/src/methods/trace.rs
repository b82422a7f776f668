//! What a forward and backward pass computes on its way, to look for numbers that are not finite.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use scrl_core::models::Features;

/// Path segments that name a layer: those of a block of the backbone, for example `encoder.layer1.0`.
const LAYER_SEGMENTS: usize = 3;

/// Something that was computed, shown while the pass goes on.
pub(super) enum Seen<'a> {
    /// The feature maps of the backbone in training.
    Maps(&'a Features),
    /// Rows of vectors.
    Vectors(&'static str, &'a Tensor<2>),
}

/// How large some numbers are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extent {
    /// The largest absolute value of the finite ones, 0 without any.
    pub largest: f64,
    /// How many are infinite or no number.
    pub not_finite: usize,
}

impl Extent {
    /// Of a tensor's elements; reads two values from the device.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let count = tensor.shape().num_elements();
        if count == 0 {
            return Self::default();
        }
        let finite = tensor.clone().is_finite();
        let largest = tensor.abs().mask_fill(finite.clone().bool_not(), 0.0).max();
        let finite = finite.int().sum();
        let read = |data: TensorData| data.convert_dtype(DType::F64).iter::<f64>().next().unwrap_or(0.0);
        Self { largest: read(largest.into_data()), not_finite: count - read(finite.into_data()) as usize }
    }

    /// Of numbers.
    pub fn of_values(values: impl IntoIterator<Item = f32>) -> Self {
        values.into_iter().fold(Self::default(), |extent, value| match value.is_finite() {
            true => Self { largest: extent.largest.max(f64::from(value.abs())), ..extent },
            false => Self { not_finite: extent.not_finite + 1, ..extent },
        })
    }

    /// Of these numbers and others.
    fn and(self, other: Self) -> Self {
        Self { largest: self.largest.max(other.largest), not_finite: self.not_finite + other.not_finite }
    }
}

/// A layer of the network in training.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTrace {
    /// Its path, for example `encoder.layer1.0`.
    pub name: String,
    pub parameters: Extent,
    pub gradients: Extent,
}

/// One forward and backward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub loss: f64,
    /// In the order of computation.
    pub activations: Vec<(&'static str, Extent)>,
    /// In the order of the network's layers.
    pub layers: Vec<LayerTrace>,
}

/// Gathers what a pass shows; micro-batches are put together.
#[derive(Default)]
pub(super) struct Tracer(Vec<(&'static str, Extent)>);

impl Tracer {
    pub(super) fn see(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Maps(Features { c2, c3, c4, c5 }) => {
                for (name, map) in [("C2", c2), ("C3", c3), ("C4", c4), ("C5", c5)] {
                    self.add(name, Extent::of(map.clone().inner()));
                }
            }
            Seen::Vectors(name, rows) => self.add(name, Extent::of(rows.clone().inner())),
        }
    }

    fn add(&mut self, name: &'static str, extent: Extent) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.and(extent),
            None => self.0.push((name, extent)),
        }
    }

    /// The whole pass, with the gradients of `network`.
    pub(super) fn finish<M: Module>(
        self,
        loss: Tensor<1>,
        network: &M,
        gradients: &GradientsParams,
    ) -> Trace {
        let mut layers = Layers { path: Vec::new(), gradients, found: Vec::new() };
        network.visit(&mut layers);
        let loss = f64::from(loss.into_scalar::<f32>());
        Trace { loss, activations: self.0, layers: layers.found }
    }
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
    fn numbers_that_are_not_finite_are_counted_and_do_not_hide_the_largest() {
        let values = [1.0, -7.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.0];
        let expected = Extent { largest: 7.5, not_finite: 3 };
        assert_eq!(Extent::of_values(values), expected);
        assert_eq!(Extent::of(Tensor::<1>::from_floats(values, &Device::flex())), expected);
        assert_eq!(Extent::of(Tensor::<1>::from_floats([f32::NAN], &Device::flex())).largest, 0.0);
        assert_eq!(Extent::of(Tensor::<2>::zeros([0, 4], &Device::flex())), Extent::default());
    }
}
