//! SGD with momentum as PyTorch has it, and LARS (You et al., arXiv 1708.03888) on top of it.
//!
//! w parameter, g gradient, b momentum buffer. One update with learning rate `lr`:
//!
//! 1. SGD: `g ← g + wd·w`. LARS: `g ← (g + wd·w) · trust·‖w‖ / (‖g‖ + wd·‖w‖ + eps)`, the ratio being 1 unless
//!    both norms are positive. Parameters of rank 1 (biases, batch-norm scales and shifts) keep their g.
//! 2. `b ← momentum·b + g`, at a parameter's first update `b ← g`.
//! 3. `w ← w − lr·b`, with Nesterov `w ← w − lr·(g + momentum·b)`.
//!
//! [`Compat::Official`] changes only LARS: parameters are excluded by name, and the excluded ones get `g ← lr·g`.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_ops::{GradientStepOptions, TrustRatio, gradient_step};
use serde::{Deserialize, Serialize};

use crate::config::{SettingError, not_negative, positive, require};
use crate::models::parameters::ModulePath;

use super::compat::{Compat, official_code_spares};
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
    /// Weight decay: an L2 penalty added to the gradient.
    pub weight_decay: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// LARS' trust coefficient.
    pub trust: f64,
    /// Added to the denominator of LARS' ratio.
    pub eps: f64,
    /// Whether parameters of rank 1 also get weight decay and the trust ratio.
    pub decay_norm_and_bias: bool,
}

impl OptimizerConfig {
    /// Refuses values with which no update makes sense.
    ///
    /// # Errors
    /// Names the first such setting.
    pub fn validate(&self) -> Result<(), SettingError> {
        let expected = "from 0 to below 1";
        require((0.0..1.0).contains(&self.momentum), "momentum", self.momentum, expected)?;
        not_negative("weight_decay", self.weight_decay)?;
        let has_buffer = !self.nesterov || self.momentum > 0.0;
        require(has_buffer, "nesterov", self.nesterov, "false without momentum")?;
        positive("trust", self.trust)?;
        not_negative("eps", self.eps)
    }
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
    compat: Compat,
    buffers: HashMap<String, Buffer>,
    grad_norm_requested: bool,
    /// Of the last step, `[1]` for each parameter, on the device.
    last_squares: Option<Vec<Tensor<1>>>,
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
        Self {
            config,
            compat: Compat::Fixed,
            buffers: HashMap::new(),
            grad_norm_requested: false,
            last_squares: None,
        }
    }

    /// The same optimiser, reproducing the official code's numbers or not.
    pub fn with_compat(self, compat: Compat) -> Self {
        Self { compat, ..self }
    }

    /// Its configuration.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Updates every parameter that has a gradient, in place where the module is the only owner of its memory.
    ///
    /// Nothing is read from the device.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, mut grads: GradientsParams) -> M {
        let mut update = Update {
            path: ModulePath::default(),
            config: &self.config,
            compat: self.compat,
            lr,
            grads: &mut grads,
            buffers: &mut self.buffers,
            gradient_squares: Vec::new(),
        };
        let module = module.map(&mut update);
        let squares = update.gradient_squares;
        let known = self.config.kind == OptimizerKind::Lars || self.grad_norm_requested;
        self.last_squares = known.then_some(squares);
        self.grad_norm_requested = false;
        module
    }

    /// Makes the next [`step`](Self::step) keep the norm of the whole gradient; LARS keeps it always.
    pub fn request_grad_norm(&mut self) {
        self.grad_norm_requested = true;
    }

    /// L2 norm of the last step's whole gradient, before weight decay and trust ratio, read from the device by this call; `None`
    /// if it was not computed.
    pub fn last_grad_norm(&self) -> Option<f64> {
        self.last_squares.clone().map(root_of_sum)
    }

    /// Host copies of the momentum buffers by parameter path.
    pub fn state(&self) -> TensorMap {
        let copy = |buffer: &Buffer| {
            let (bytes, _, dtype) = buffer.values.clone().into_data().into_parts();
            TensorData::from_bytes(bytes, buffer.shape.clone(), dtype)
        };
        self.buffers.iter().map(|(path, buffer)| (path.clone(), copy(buffer))).collect()
    }

    /// Replaces the momentum buffers with those of [`state`](Self::state), bit-exactly.
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

/// The root of the sum of `[1]` tensors, in one device read.
fn root_of_sum(squares: Vec<Tensor<1>>) -> f64 {
    if squares.is_empty() {
        return 0.0;
    }
    Tensor::cat(squares, 0).into_data().iter::<f64>().sum::<f64>().sqrt()
}

struct Update<'a> {
    path: ModulePath,
    config: &'a OptimizerConfig,
    compat: Compat,
    lr: f64,
    grads: &'a mut GradientsParams,
    buffers: &'a mut HashMap<String, Buffer>,
    /// Of each gradient, `[1]`.
    gradient_squares: Vec<Tensor<1>>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let requires_grad = tensor.is_require_grad();
        let checkpointing = tensor.gradient_checkpointing_strategy();
        let mut updated = Tensor::from_inner(self.updated(tensor.inner(), grad));
        if let Some(strategy) = checkpointing {
            updated = updated.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, updated.set_require_grad(requires_grad), mapper)
    }
}

impl Update<'_> {
    fn updated<const D: usize>(&mut self, weight: Tensor<D>, grad: Tensor<D>) -> Tensor<D> {
        let shape = weight.dims();
        let path = self.path.to_string();
        let momentum = self.config.momentum != 0.0;
        let buffer = momentum.then(|| {
            // With momentum, zeros become the first gradient itself.
            self.previous(&path, shape).unwrap_or_else(|| Tensor::zeros(shape, &weight.device()))
        });
        let regularised = self.regularises(&path, D);
        let official = self.official_lars() && !regularised;
        let squares = official.then(|| grad.clone().square().sum());
        // The official code multiplies these by the learning rate here and again below.
        let grad = if official { grad.mul_scalar(self.lr) } else { grad };
        let step = gradient_step(weight, grad, buffer, self.options(regularised));
        self.gradient_squares.push(squares.unwrap_or(step.gradient_squares));
        if let Some(buffer) = step.buffer {
            let values = buffer.reshape([shape.iter().product::<usize>()]);
            self.buffers.insert(path, Buffer { values, shape: shape.to_vec() });
        }
        step.weight
    }

    fn official_lars(&self) -> bool {
        self.compat == Compat::Official && self.config.kind == OptimizerKind::Lars
    }

    /// Whether a parameter gets weight decay and the trust ratio.
    fn regularises(&self, path: &str, rank: usize) -> bool {
        match self.official_lars() {
            true => !official_code_spares(path),
            false => rank > 1 || self.config.decay_norm_and_bias,
        }
    }

    fn options(&self, regularised: bool) -> GradientStepOptions {
        let config = self.config;
        let trust = TrustRatio { coefficient: config.trust, eps: config.eps };
        GradientStepOptions {
            lr: self.lr,
            momentum: config.momentum,
            nesterov: config.nesterov,
            weight_decay: if regularised { config.weight_decay } else { 0.0 },
            trust: (regularised && config.kind == OptimizerKind::Lars).then_some(trust),
        }
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
}
