//! SGD with momentum as PyTorch has it, and LARS (You et al., arXiv 1708.03888) on top of it.
//!
//! w parameter, g gradient, b momentum buffer. One update with learning rate `lr`:
//!
//! 1. SGD: `g ← g + wd·w`. LARS: `g ← (g + wd·w) · trust·‖w‖ / (‖g‖ + wd·‖w‖ + eps)`, the ratio being 1 unless
//!    both norms are positive. Parameters of rank 1 (biases, batch-norm scales and shifts) keep their g.
//! 2. `b ← momentum·b + g`, at a parameter's first update `b ← g`.
//! 3. `w ← w − lr·b`, with Nesterov `w ← w − lr·(g + momentum·b)`.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::models::parameters::TensorMap;

/// How a gradient becomes a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// The gradient itself.
    #[default]
    Sgd,
    /// Scaled to a fixed share of the parameter's norm, layer by layer.
    Lars,
}

/// What [`Optimizer::new`] needs; the defaults are SGD with momentum 0.9 and no decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// SGD or LARS.
    pub kind: OptimizerKind,
    /// Momentum; 0 keeps no buffers.
    pub momentum: f64,
    /// L2 penalty added to the gradient.
    pub weight_decay: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// LARS' trust coefficient.
    pub trust: f64,
    /// Added to the denominator of LARS' ratio.
    pub eps: f64,
    /// Whether parameters of rank 1 get decay and trust ratio too.
    pub decay_norm_and_bias: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Sgd,
            momentum: 0.9,
            weight_decay: 0.0,
            nesterov: false,
            trust: 0.001,
            eps: 1e-8,
            decay_norm_and_bias: false,
        }
    }
}

/// An optimiser whose momentum buffers are kept by parameter path.
///
/// Parameters without a gradient (frozen ones, running statistics) keep value and buffer. The module given to
/// [`step`](Self::step) must have the same paths each time.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    buffers: HashMap<String, Buffer>,
    grad_norm_requested: bool,
    last_grad_norm: Option<f64>,
}

/// A momentum buffer, flat so that buffers of every rank share one type.
#[derive(Debug)]
struct Buffer {
    values: Tensor<1>,
    shape: Vec<usize>,
}

impl Optimizer {
    /// An optimiser without momentum buffers.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, buffers: HashMap::new(), grad_norm_requested: false, last_grad_norm: None }
    }

    /// Its configuration.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Updates every parameter that has a gradient.
    ///
    /// LARS reads all norms from the device in one transfer; SGD reads nothing unless
    /// [`request_grad_norm`](Self::request_grad_norm) asked for it.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, mut grads: GradientsParams) -> M {
        let lars = self.config.kind == OptimizerKind::Lars;
        let norms =
            if lars || self.grad_norm_requested { read_norms(&module, &grads) } else { HashMap::new() };
        let known = lars || self.grad_norm_requested;
        self.last_grad_norm = known.then(|| norms.values().map(|norm| norm.grad.powi(2)).sum::<f64>().sqrt());
        self.grad_norm_requested = false;
        let buffers = &mut self.buffers;
        module.map(&mut Update {
            path: Vec::new(),
            config: &self.config,
            lr,
            norms,
            grads: &mut grads,
            buffers,
        })
    }

    /// Makes the next [`step`](Self::step) compute the norm of the whole gradient.
    pub fn request_grad_norm(&mut self) {
        self.grad_norm_requested = true;
    }

    /// L2 norm of the last step's whole gradient, before decay and trust ratio; `None` where it was not computed.
    pub fn last_grad_norm(&self) -> Option<f64> {
        self.last_grad_norm
    }

    /// Host copies of the momentum buffers by parameter path.
    pub fn state(&self) -> TensorMap {
        let copy = |buffer: &Buffer| {
            let (bytes, _, dtype) = buffer.values.clone().into_data().into_parts();
            TensorData::from_bytes(bytes, buffer.shape.clone(), dtype)
        };
        self.buffers.iter().map(|(path, buffer)| (path.clone(), copy(buffer))).collect()
    }

    /// Replaces the momentum buffers by those of [`state`](Self::state), to the bit.
    pub fn load_state(&mut self, state: TensorMap, device: &Device) {
        let device = device.clone().without_autodiff();
        let restore = |data: TensorData| {
            let (bytes, shape, dtype) = data.into_parts();
            let flat = TensorData::from_bytes(bytes, [shape.num_elements()], dtype);
            Buffer { values: Tensor::from_data(flat, &device), shape: shape.to_vec() }
        };
        self.buffers = state.into_iter().map(|(path, data)| (path, restore(data))).collect();
    }
}

/// L2 norms of a parameter and of its gradient.
#[derive(Clone, Copy, Debug)]
struct Norms {
    weight: f64,
    grad: f64,
}

/// The norms of every parameter that has a gradient, in one device read.
fn read_norms<M: Module>(module: &M, grads: &GradientsParams) -> HashMap<ParamId, Norms> {
    struct Collect<'a> {
        grads: &'a GradientsParams,
        ids: Vec<ParamId>,
        squares: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.ids.push(param.id);
                self.squares.push(sum_of_squares(param.val().inner()));
                self.squares.push(sum_of_squares(grad));
            }
        }
    }
    let mut visitor = Collect { grads, ids: Vec::new(), squares: Vec::new() };
    module.visit(&mut visitor);
    if visitor.ids.is_empty() {
        return HashMap::new();
    }
    let squares: Vec<f64> = Tensor::cat(visitor.squares, 0).into_data().iter::<f64>().collect();
    let norms = squares.chunks_exact(2).map(|pair| Norms { weight: pair[0].sqrt(), grad: pair[1].sqrt() });
    visitor.ids.into_iter().zip(norms).collect()
}

/// Summed row by row: the CPU backend splits one long sum among threads in an order that varies from run to run.
fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let dims = tensor.dims();
    let rows = if D == 1 { 1 } else { dims[0] };
    tensor.square().reshape([rows as i32, -1]).sum_dim(1).sum()
}

struct Update<'a> {
    path: Vec<String>,
    config: &'a OptimizerConfig,
    lr: f64,
    norms: HashMap<ParamId, Norms>,
    grads: &'a mut GradientsParams,
    buffers: &'a mut HashMap<String, Buffer>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let requires_grad = tensor.is_require_grad();
        let checkpointing = tensor.gradient_checkpointing_strategy();
        let weight = tensor.inner();
        let direction = self.direction(id, grad, &weight);
        let mut updated = Tensor::from_inner(weight.sub(direction.mul_scalar(self.lr)));
        if let Some(strategy) = checkpointing {
            updated = updated.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, updated.set_require_grad(requires_grad), mapper)
    }
}

impl Update<'_> {
    /// What the learning rate multiplies.
    fn direction<const D: usize>(&mut self, id: ParamId, grad: Tensor<D>, weight: &Tensor<D>) -> Tensor<D> {
        let grad = self.regularised(id, grad, weight);
        let momentum = self.config.momentum;
        if momentum == 0.0 {
            return grad;
        }
        let path = self.path.join(".");
        let shape = weight.dims();
        let buffer = match self.previous::<D>(&path, shape) {
            Some(buffer) => buffer.mul_scalar(momentum).add(grad.clone()),
            None => grad.clone(),
        };
        let flat = buffer.clone().reshape([shape.iter().product::<usize>()]);
        self.buffers.insert(path, Buffer { values: flat, shape: shape.to_vec() });
        if self.config.nesterov { grad.add(buffer.mul_scalar(momentum)) } else { buffer }
    }

    /// Takes the momentum buffer of a parameter; one of another shape belongs to another model and is dropped.
    fn previous<const D: usize>(&mut self, path: &str, shape: [usize; D]) -> Option<Tensor<D>> {
        let buffer = self.buffers.remove(path)?;
        if buffer.shape != shape {
            tracing::warn!(path, expected = ?shape, found = ?buffer.shape, "momentum of another shape is dropped");
            return None;
        }
        Some(buffer.values.reshape(shape))
    }

    /// The gradient with weight decay and trust ratio.
    fn regularised<const D: usize>(&self, id: ParamId, grad: Tensor<D>, weight: &Tensor<D>) -> Tensor<D> {
        if D == 1 && !self.config.decay_norm_and_bias {
            return grad;
        }
        let decay = self.config.weight_decay;
        let ratio = match self.config.kind {
            OptimizerKind::Sgd => 1.0,
            OptimizerKind::Lars => self.norms.get(&id).map_or(1.0, |norms| trust_ratio(self.config, *norms)),
        };
        let decayed = if decay == 0.0 { grad } else { grad.add(weight.clone().mul_scalar(decay)) };
        if ratio == 1.0 { decayed } else { decayed.mul_scalar(ratio) }
    }
}

fn trust_ratio(config: &OptimizerConfig, norms: Norms) -> f64 {
    if norms.weight > 0.0 && norms.grad > 0.0 {
        config.trust * norms.weight / (norms.grad + config.weight_decay * norms.weight + config.eps)
    } else {
        1.0
    }
}
