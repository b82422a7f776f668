//! The target network: an exponential moving average of the online network's parameters.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use scrl_ops::moving_average;

/// Momentum of the average at `step` of `total`: `1 − (1−base)·(cos(π·step/total)+1)/2` (BYOL, section 3.2).
pub fn momentum(base: f64, step: u64, total: u64) -> f64 {
    let progress = step as f64 / total.max(1) as f64;
    1.0 - (1.0 - base) * ((std::f64::consts::PI * progress).cos() + 1.0) / 2.0
}

/// Moves every trainable parameter: `target ← momentum·target + (1−momentum)·online`.
///
/// Running statistics are left as they are: the target makes its own. Parameters correspond by path; what the online
/// network has beyond the target (its predictor) is ignored, and so is what it lacks. Memory that only the target
/// holds is changed in place.
pub fn update<T: Module, O: Module>(target: T, online: &O, momentum: f64) -> T {
    let mut collect = CollectTrainable::default();
    online.visit(&mut collect);
    target.map(&mut Average { path: Vec::new(), online: collect.flat, momentum })
}

/// The trainable parameters as flat tensors without gradient, by path.
#[derive(Default)]
struct CollectTrainable {
    path: Vec<String>,
    flat: HashMap<String, Tensor<1>>,
}

impl ModuleVisitor for CollectTrainable {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }
    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Running statistics require no gradient; that is what tells them from parameters.
        if param.is_require_grad() {
            let flat = param.val().inner();
            let elements = flat.shape().num_elements();
            self.flat.insert(self.path.join("."), flat.reshape([elements]));
        }
    }
}

struct Average {
    path: Vec<String>,
    online: HashMap<String, Tensor<1>>,
    momentum: f64,
}

impl ModuleMapper for Average {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }
    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(online) = self.online.remove(&self.path.join(".")) else { return param };
        param.map(|target| {
            let target = target.inner();
            let online = online.reshape(target.dims());
            Tensor::from_inner(moving_average(target, online, self.momentum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::Mlp;
    use burn::tensor::Device;
    use scrl_core::models::parameters::collect;
    use scrl_core::random::stream;

    #[test]
    fn momentum_rises_from_base_to_one_along_a_cosine() {
        assert!((momentum(0.97, 0, 100) - 0.97).abs() < 1e-12);
        assert!((momentum(0.97, 50, 100) - 0.985).abs() < 1e-12);
        assert!((momentum(0.97, 100, 100) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn parameters_move_by_the_formula_and_running_statistics_stay() {
        let device = Device::flex().autodiff();
        let online = Mlp::init(3, 4, 2, &mut stream(1, &[]), &device);
        let target = Mlp::init(3, 4, 2, &mut stream(2, &[]), &device).no_grad();
        // A training pass gives the online network statistics of its own.
        online.forward(Tensor::from_floats([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], &device));
        let (before, source) = (collect(&target), collect(&online));
        let after = collect(&update(target, &online, 0.9));
        for (path, new) in &after {
            let [new, old, online] =
                [new, &before[path], &source[path]].map(|data| data.try_to_vec::<f32>().unwrap());
            for ((n, o), s) in new.iter().zip(&old).zip(&online) {
                let expected = if path.contains("running") { *o } else { 0.9 * o + 0.1 * s };
                assert!((n - expected).abs() < 1e-6, "{path}: {n} {expected}");
            }
        }
    }
}
