//! Gradients of several processes.

use std::collections::VecDeque;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_ops::Group;

use crate::models::parameters::TensorMap;

/// The sums over the ranks of the gradients of a module's parameters, the same to the bit on every rank.
///
/// They are exchanged in the order of the module's parameters, since the identities of parameters differ from process to process.
/// A parameter without a gradient on this rank counts as zero where another rank has one. The way is through the host.
pub fn sum_gradients<M: Module>(
    module: &M,
    mut gradients: GradientsParams,
    group: &Group,
) -> GradientsParams {
    if group.is_alone() {
        return gradients;
    }
    let mut taken = Taken { gradients: &mut gradients, flat: Vec::new() };
    module.visit(&mut taken);
    let flat = taken.flat;
    let mut present: Vec<u64> = flat.iter().map(|gradient| u64::from(gradient.values.is_some())).collect();
    group.max_each(&mut present);
    let summed =
        flat.into_iter().zip(present).filter(|(_, present)| *present == 1).map(|(gradient, _)| gradient);
    let summed: Vec<Flat> = summed.collect();
    let Some(device) = summed.first().map(|gradient| gradient.device.clone()) else { return gradients };

    let own = summed.iter().map(|gradient| match &gradient.values {
        Some(values) => values.clone(),
        None => Tensor::zeros([gradient.length], &device),
    });
    let mut values =
        Tensor::cat(own.collect(), 0).into_data().convert::<f32>().try_to_vec().expect("numbers of 32 bits");
    group.sum_f32(&mut values);

    let mut sums = VecDeque::with_capacity(summed.len());
    let mut rest = values.as_slice();
    for Flat { id, length, .. } in summed {
        let (sum, after) = rest.split_at(length);
        sums.push_back((id, sum));
        rest = after;
    }
    module.visit(&mut Given { gradients: &mut gradients, sums, device });
    gradients
}

/// Whether the tensors are the same to the bit on every rank, as weights are after every update.
pub fn same_everywhere<'a>(tensors: impl IntoIterator<Item = &'a TensorMap>, group: &Group) -> bool {
    if group.is_alone() {
        return true;
    }
    let values = tensors.into_iter().flat_map(|map| map.values());
    let digest = values.fold(0, |digest, data| crc32c::crc32c_append(digest, data.as_bytes()));
    let mut bounds = [digest, !digest].map(u64::from);
    group.max_each(&mut bounds);
    bounds == [digest, !digest].map(u64::from)
}

/// The gradient of a parameter of any rank.
struct Flat {
    id: ParamId,
    length: usize,
    device: Device,
    values: Option<Tensor<1>>,
}

/// Takes the gradients of parameters.
struct Taken<'a> {
    gradients: &'a mut GradientsParams,
    flat: Vec<Flat>,
}

impl ModuleVisitor for Taken<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (id, value) = (param.id, param.val());
        let values = self.gradients.remove::<D>(id).map(|gradient| gradient.reshape([-1]));
        let device = value.device().without_autodiff();
        self.flat.push(Flat { id, length: value.shape().num_elements(), device, values });
    }
}

/// Gives parameters their gradients.
struct Given<'a> {
    gradients: &'a mut GradientsParams,
    sums: VecDeque<(ParamId, &'a [f32])>,
    device: Device,
}

impl ModuleVisitor for Given<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some((_, sum)) = self.sums.pop_front_if(|(id, _)| *id == param.id) {
            let values = TensorData::new(sum.to_vec(), param.val().dims());
            self.gradients.register(param.id, Tensor::<D>::from_data(values, &self.device));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::layers::{Init, Linear};
    use crate::random::stream;
    use scrl_ops::threads;

    #[test]
    fn gradients_are_summed_by_their_place_and_missing_ones_are_zero() {
        let sums = threads(3, |group| {
            let device = Device::default().autodiff();
            // Every rank draws its own parameters and identities.
            let mut rng = stream(group.rank() as u64, &[]);
            let layers =
                [0, 1, 2].map(|_| Linear::init([2, 1], false, Init::TorchDefault, &mut rng, &device));
            let layers = layers.to_vec();
            let input = Tensor::<2>::full([1, 2], (group.rank() + 1) as f32, &device);
            // Rank 1 uses only the first layer, nobody the last one.
            let used = if group.rank() == 1 { &layers[..1] } else { &layers[..2] };
            let loss = used.iter().map(|layer| layer.forward(input.clone()).sum());
            let gradients = loss.reduce(|a, b| a + b).unwrap().backward();
            let gradients = GradientsParams::from_grads(gradients, &layers);
            let gradients = sum_gradients(&layers, gradients, &group);
            layers
                .iter()
                .map(|layer| {
                    let gradient = gradients.get::<2>(layer.weight.id);
                    gradient.map(|gradient| gradient.into_data().try_to_vec::<f32>().unwrap())
                })
                .collect::<Vec<_>>()
        });
        let expected = vec![Some(vec![6.0, 6.0]), Some(vec![4.0, 4.0]), None];
        assert!(sums.iter().all(|sum| *sum == expected), "{sums:?}");
    }

    #[test]
    fn ranks_with_other_weights_are_found() {
        let weights = |value: f32| TensorMap::from([("w".to_string(), TensorData::from([1.0, value]))]);
        let same = threads(3, |group| same_everywhere([&weights(2.0)], &group));
        assert_eq!(same, [true; 3]);
        let other = threads(3, |group| same_everywhere([&weights(group.rank().min(1) as f32)], &group));
        assert_eq!(other, [false; 3]);
    }
}
