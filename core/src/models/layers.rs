//! Convolution, batch normalisation and linear layers with PyTorch's field names, shapes and defaults.
//!
//! N images in the batch, C channels, H and W in pixels.

use burn::module::{Flag, Module, Param, RunningState};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_ops::{
    BatchNormOptions, Conv2dOptions, Group, Normalization, batch_norm_inference, batch_norm_train,
    beside_each_other, conv_transpose2d_relu_apart, conv2d, conv2d_batch_norm, conv2d_relu, conv2d_shared,
    linear,
};

use crate::random::{Rng, RngExt, standard_normal};

/// Samples a parameter from the normal distribution with mean 0 and this standard deviation.
pub fn normal_parameter<const D: usize>(
    shape: [usize; D],
    std: f64,
    rng: &mut Rng,
    device: &Device,
) -> Param<Tensor<D>> {
    let values = (0..shape.iter().product()).map(|_| standard_normal(rng) * std as f32).collect();
    parameter_from(values, shape, device)
}

/// Samples a parameter uniformly from `[-bound, bound]`.
pub fn uniform_parameter<const D: usize>(
    shape: [usize; D],
    bound: f64,
    rng: &mut Rng,
    device: &Device,
) -> Param<Tensor<D>> {
    let bound = bound as f32;
    let values = (0..shape.iter().product()).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * bound).collect();
    parameter_from(values, shape, device)
}

/// A trainable parameter with every element equal to `value`.
pub fn constant_parameter<const D: usize>(
    shape: [usize; D],
    value: f32,
    device: &Device,
) -> Param<Tensor<D>> {
    parameter_from(vec![value; shape.iter().product()], shape, device)
}

fn parameter_from<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

/// How a layer's weights start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with variance `2 / fan_out` (He et al. 2015; torchvision's ResNet convolutions).
    KaimingNormalFanOut,
    /// Uniform in `±√(3 / fan_in)` (Caffe2's "Xavier", detectron2's `c2_xavier_fill`).
    C2Xavier,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform in `±1/√fan_in` for weight and bias: PyTorch's default of `Linear` and `Conv2d`.
    TorchDefault,
}

impl Init {
    fn weight<const D: usize>(
        self,
        shape: [usize; D],
        fan_in: usize,
        fan_out: usize,
        rng: &mut Rng,
        device: &Device,
    ) -> Param<Tensor<D>> {
        match self {
            Init::KaimingNormalFanOut => normal_parameter(shape, (2.0 / fan_out as f64).sqrt(), rng, device),
            Init::C2Xavier => uniform_parameter(shape, (3.0 / fan_in as f64).sqrt(), rng, device),
            Init::Normal(std) => normal_parameter(shape, std, rng, device),
            Init::TorchDefault => uniform_parameter(shape, (1.0 / fan_in as f64).sqrt(), rng, device),
        }
    }

    fn bias(self, size: usize, fan_in: usize, rng: &mut Rng, device: &Device) -> Param<Tensor<1>> {
        match self {
            Init::TorchDefault => uniform_parameter([size], (1.0 / fan_in as f64).sqrt(), rng, device),
            _ => constant_parameter([size], 0.0, device),
        }
    }
}

/// What [`Conv2dConfig::init`] needs; square kernel, stride and zero padding in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dConfig {
    /// `[in, out]`.
    pub channels: [usize; 2],
    /// Side of the kernel.
    pub kernel: usize,
    /// Input pixels per output pixel.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// How the weight starts.
    pub init: Init,
}

impl Conv2dConfig {
    /// `[in, out]` channels, stride 1, "same" padding for odd kernels, no bias, Kaiming initialisation.
    pub fn new(channels: [usize; 2], kernel: usize) -> Self {
        Self {
            channels,
            kernel,
            stride: 1,
            padding: kernel / 2,
            bias: false,
            init: Init::KaimingNormalFanOut,
        }
    }

    /// With this stride.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With a bias.
    pub fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// With another start of the weight.
    pub fn init_with(self, init: Init) -> Self {
        Self { init, ..self }
    }

    /// A convolution with random weights.
    pub fn init(&self, rng: &mut Rng, device: &Device) -> Conv2d {
        let [channels_in, channels_out] = self.channels;
        let area = self.kernel * self.kernel;
        let (fan_in, fan_out) = (channels_in * area, channels_out * area);
        let shape = [channels_out, channels_in, self.kernel, self.kernel];
        Conv2d {
            weight: self.init.weight(shape, fan_in, fan_out, rng, device),
            bias: self.bias.then(|| self.init.bias(channels_out, fan_in, rng, device)),
            stride: self.stride,
            padding: self.padding,
        }
    }
}

/// Convolution with a square kernel.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[channels_out, channels_in, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// Pixels between neighbouring windows, both directions.
    pub stride: usize,
    /// Zeros added on each side, in pixels.
    pub padding: usize,
}

impl Conv2d {
    /// `[N, channels_in, H, W]` to `[N, channels_out, H', W']`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        conv2d(input, self.weight.val(), self.bias.as_ref().map(Param::val), self.options())
    }

    /// [`forward`](Self::forward), then ReLU; with a bias in one operator.
    pub fn forward_relu(&self, input: Tensor<4>) -> Tensor<4> {
        match &self.bias {
            Some(bias) => conv2d_relu(input, self.weight.val(), bias.val(), self.options()),
            None => relu(self.forward(input)),
        }
    }

    fn options(&self) -> Conv2dOptions {
        Conv2dOptions { stride: [self.stride; 2], padding: [self.padding; 2], ..Default::default() }
    }
}

/// Transposed convolution with a stride as long as its square kernel.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[channels_in, channels_out, stride, stride]`
    pub weight: Param<Tensor<4>>,
    /// `[channels_out]`
    pub bias: Param<Tensor<1>>,
}

impl ConvTranspose2d {
    /// From `channels`, `[in, out]`, with random weights. The fan-in and fan-out of `init` are PyTorch's: those of the
    /// convolution that this one transposes.
    pub fn init(channels: [usize; 2], stride: usize, init: Init, rng: &mut Rng, device: &Device) -> Self {
        let [channels_in, channels_out] = channels;
        let area = stride * stride;
        let (fan_in, fan_out) = (channels_out * area, channels_in * area);
        let shape = [channels_in, channels_out, stride, stride];
        Self {
            weight: init.weight(shape, fan_in, fan_out, rng, device),
            bias: init.bias(channels_out, fan_in, rng, device),
        }
    }

    /// `[N, channels_in, H, W]` to `[N, channels_out, H · stride, W · stride]`, then ReLU and a 1×1 convolution.
    ///
    /// The convolution comes before the pixels are put beside each other, which is the same and moves fewer channels.
    pub fn forward_relu_then(&self, input: Tensor<4>, pointwise: &Conv2d) -> Tensor<4> {
        let [_, _, stride, _] = self.weight.dims();
        let parts = conv_transpose2d_relu_apart(input, self.weight.val(), self.bias.val());
        beside_each_other(pointwise.forward(parts), stride)
    }
}

/// What follows convolution and batch norm.
#[expect(clippy::large_enum_variant, reason = "it lives as long as a call")]
pub enum Ending {
    /// Nothing.
    None,
    /// ReLU.
    Relu,
    /// The sum with a tensor of the output's shape, then ReLU.
    AddRelu(Tensor<4>),
}

impl Ending {
    fn options(self, epsilon: f64) -> BatchNormOptions<4> {
        let options = BatchNormOptions::new(epsilon);
        match self {
            Ending::None => options,
            Ending::Relu => options.relu(),
            Ending::AddRelu(residual) => options.add_residual(residual).relu(),
        }
    }
}

/// A convolution without bias and its batch norm, as one operator where neither gradients nor statistics are wanted.
///
/// `[N, channels_in, H, W]` to `[N, channels_out, H', W']`.
pub fn conv_norm(conv: &Conv2d, norm: &BatchNorm, input: Tensor<4>, ending: Ending) -> Tensor<4> {
    let ending = ending.options(norm.epsilon);
    if conv.bias.is_some() || input.device().is_autodiff() {
        return norm.normalize(conv.forward(input), ending);
    }
    let normalization = Normalization {
        weight: norm.weight.val(),
        bias: norm.bias.val(),
        mean: norm.running_mean.value_sync(),
        variance: norm.running_var.value_sync(),
    };
    conv2d_batch_norm(input, conv.weight.val(), conv.options(), normalization, ending)
}

/// Batch normalisation of `[N, C]` or `[N, C, H, W]`.
///
/// Trains (normalises by the batch, updates the running statistics) when its input is on an autodiff device and
/// the layer is not frozen. The running variance is the unbiased one, as PyTorch's.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub bias: Param<Tensor<1>>,
    /// `[C]`
    pub running_mean: RunningState<Tensor<1>>,
    /// `[C]`
    pub running_var: RunningState<Tensor<1>>,
    training: Param<Flag>,
    /// Added to the variance.
    pub epsilon: f64,
    /// Weight of a batch in the running statistics.
    pub momentum: f64,
    /// The processes over whose batches statistics are taken in training (SyncBN).
    #[module(skip)]
    pub group: Group,
}

impl BatchNorm {
    /// Scale 1, shift 0, epsilon 1e-5, momentum 0.1: PyTorch's defaults.
    pub fn init(channels: usize, device: &Device) -> Self {
        let frozen = device.clone().without_autodiff();
        let statistics = |value: f32| {
            let tensor = Tensor::full([channels], value, &frozen);
            RunningState::new(if device.is_autodiff() { Tensor::from_inner(tensor) } else { tensor })
        };
        Self {
            weight: constant_parameter([channels], 1.0, device),
            bias: constant_parameter([channels], 0.0, device),
            running_mean: statistics(0.0),
            running_var: statistics(1.0),
            training: Param::from_bool(true),
            epsilon: 1e-5,
            momentum: 0.1,
            group: Group::alone(),
        }
    }

    /// Frozen for good: running statistics, scale and shift stay as they are (FrozenBatchNorm).
    pub fn frozen(self, epsilon: f64) -> Self {
        Self { epsilon, ..self.freeze() }
    }

    /// Whether this input makes the layer use batch statistics.
    pub fn trains_on<const D: usize>(&self, input: &Tensor<D>) -> bool {
        input.device().is_autodiff() && self.training.is_enabled()
    }

    /// Same shape out as in.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        self.normalize(input, BatchNormOptions::new(self.epsilon))
    }

    /// [`forward_relu`](Self::forward_relu) of a batch that is part of the group's statistics only if it `counts`.
    ///
    /// A process without samples passes on a batch that does not count, so that the others do not wait for it.
    pub fn forward_relu_counting<const D: usize>(&self, input: Tensor<D>, counts: bool) -> Tensor<D> {
        let options = BatchNormOptions::new(self.epsilon).relu();
        self.normalize(input, BatchNormOptions { counts, ..options })
    }

    /// The normalised input through ReLU, in one operator.
    pub fn forward_relu<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        self.normalize(input, BatchNormOptions::new(self.epsilon).relu())
    }

    fn normalize<const D: usize>(&self, input: Tensor<D>, options: BatchNormOptions<D>) -> Tensor<D> {
        if !self.trains_on(&input) {
            return batch_norm_inference(
                input,
                self.weight.val(),
                self.bias.val(),
                self.running_mean.value_sync(),
                self.running_var.value_sync(),
                options,
            );
        }
        let options = BatchNormOptions { group: self.group.clone(), ..options };
        let result = batch_norm_train(input, self.weight.val(), self.bias.val(), options);
        let unbiased = if result.count > 1.0 { result.count / (result.count - 1.0) } else { 1.0 };
        self.update(&self.running_mean, result.mean, 1.0);
        self.update(&self.running_var, result.variance, unbiased);
        result.output
    }

    fn update(&self, running: &RunningState<Tensor<1>>, batch: Tensor<1>, factor: f64) {
        let old = running.value_sync().mul_scalar(1.0 - self.momentum);
        running.update(old.add(batch.detach().mul_scalar(factor * self.momentum)).detach());
        // A record reads the value without synchronising; the second read stores the update now.
        running.value_sync();
    }
}

/// [`conv_norm`] with ReLU, and the input for another use; both must be part of what is differentiated.
pub fn conv_norm_shared(conv: &Conv2d, norm: &BatchNorm, input: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    if conv.bias.is_some() || !input.device().is_autodiff() {
        return (conv_norm(conv, norm, input.clone(), Ending::Relu), input);
    }
    let (output, input) = conv2d_shared(input, conv.weight.val(), conv.options());
    (norm.forward_relu(output), input)
}

/// Fully connected layer.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`, as in PyTorch.
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A layer from `features[0]` to `features[1]` values with random weights.
    pub fn init(features: [usize; 2], bias: bool, init: Init, rng: &mut Rng, device: &Device) -> Self {
        let [inputs, outputs] = features;
        Self {
            weight: init.weight([outputs, inputs], inputs, outputs, rng, device),
            bias: bias.then(|| init.bias(outputs, inputs, rng, device)),
        }
    }

    /// `[N, in]` to `[N, out]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        linear(input, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}
