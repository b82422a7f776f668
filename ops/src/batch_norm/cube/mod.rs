//! Batch normalisation on GPUs: one pass for the statistics and one that applies them, and as many for the gradients.

mod kernels;

use super::backend::{
    BatchNormGradients, BatchNormOps, Gradients, Residual, Saved, Wanted, composed_by_batch,
    composed_by_statistics, composed_gradients, composed_statistics,
};
use crate::cube::{Grid, Rows, buffer, element, empty, one_unit_each};
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::ir::ElemType;
use kernels::Mask;

/// Units of a cube of the kernels that take a channel each.
const CHANNEL_UNITS: u32 = 64;

/// Scale, shift and statistics of the channels, in 32 bits.
struct PerChannel {
    weight: CubeTensor,
    bias: CubeTensor,
    mean: CubeTensor,
    variance: CubeTensor,
}

/// The type of activations that there are kernels for, given everything of a normalisation.
fn known(activations: &[&CubeTensor], per_channel: &[&CubeTensor]) -> Option<ElemType> {
    let dtype = activations[0].dtype;
    let alike = activations.iter().all(|tensor| tensor.dtype == dtype);
    let in_32_bits = per_channel.iter().all(|tensor| tensor.dtype == DType::F32);
    let filled = activations[0].shape().num_elements() > 0;
    element(dtype).filter(|_| alike && in_32_bits && filled)
}

/// Memory for `[length]` numbers of 32 bits.
fn vector(beside: &CubeTensor, length: usize) -> CubeTensor {
    empty(beside, Shape::new([length]), DType::F32)
}

/// Mean and biased variance.
fn moments(input: &Rows, element: ElemType) -> (CubeTensor, CubeTensor) {
    let (grid, channels, client) = (Grid::of(&[input]), input.channels(), input.client());
    let sums = vector(input.tensor(), 2 * grid.slices() * channels);
    kernels::distance_sums::launch(
        client,
        grid.count(),
        grid.dim(),
        grid.width,
        input.argument(),
        buffer(&sums),
        grid.rows,
        grid.vectors,
        input.pitch(grid.width),
        grid.units,
        element,
    );
    let (mean, variance) = (vector(&sums, channels), vector(&sums, channels));
    let (count, dim) = one_unit_each(channels, CHANNEL_UNITS);
    kernels::moments::launch(
        client,
        count,
        dim,
        input.argument(),
        buffer(&sums),
        buffer(&mean),
        buffer(&variance),
        grid.rows,
        channels,
        grid.slices(),
        element,
    );
    (mean, variance)
}

fn apply(
    input: &Rows,
    of: &PerChannel,
    residual: Option<CubeTensor>,
    epsilon: f64,
    relu: bool,
    element: ElemType,
) -> CubeTensor {
    let (output, residual) = (input.another(), residual.map(Rows::of));
    // Where there is none, the kernel gets another tensor that it does not read.
    let added = residual.as_ref().unwrap_or(input);
    let grid = Grid::of(&[input, added, &output]);
    kernels::apply::launch(
        input.client(),
        grid.count(),
        grid.dim(),
        grid.width,
        input.argument(),
        added.argument(),
        buffer(&of.mean),
        buffer(&of.variance),
        buffer(&of.weight),
        buffer(&of.bias),
        output.argument(),
        grid.rows,
        grid.vectors,
        input.pitch(grid.width),
        added.pitch(grid.width),
        epsilon as f32,
        residual.is_some(),
        relu,
        element,
    );
    output.into_tensor()
}

impl BatchNormOps for Cube {
    fn normalize_by_batch(
        input: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let residual = residual.into_tensor();
        let activations: Vec<_> = [Some(&input), residual.as_ref()].into_iter().flatten().collect();
        let Some(element) = known(&activations, &[&weight, &bias]) else {
            return composed_by_batch::<Self>(input, weight, bias, residual.into(), epsilon, relu);
        };
        let input = Rows::of(input);
        let (mean, variance) = moments(&input, element);
        let of = PerChannel { weight: into_contiguous(weight), bias: into_contiguous(bias), mean, variance };
        let output = apply(&input, &of, residual, epsilon, relu, element);
        (output, of.mean, of.variance)
    }

    fn statistics(input: CubeTensor) -> (CubeTensor, CubeTensor) {
        match known(&[&input], &[]) {
            Some(element) => moments(&Rows::of(input), element),
            None => composed_statistics::<Self>(input),
        }
    }

    fn normalize_by_statistics(
        input: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        residual: Residual<Self>,
        epsilon: f64,
        relu: bool,
    ) -> CubeTensor {
        let residual = residual.into_tensor();
        let activations: Vec<_> = [Some(&input), residual.as_ref()].into_iter().flatten().collect();
        let Some(element) = known(&activations, &[&weight, &bias, &mean, &variance]) else {
            let residual = residual.into();
            return composed_by_statistics::<Self>(
                input, weight, bias, mean, variance, residual, epsilon, relu,
            );
        };
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(into_contiguous);
        let of = PerChannel { weight, bias, mean, variance };
        apply(&Rows::of(input), &of, residual, epsilon, relu, element)
    }
}

/// What the kernels of the backward pass read.
struct Backward {
    /// The output, or another tensor where it is not read.
    output: Rows,
    /// The input, or another tensor where it is not read.
    input: Rows,
    gradient: Rows,
    of: PerChannel,
    epsilon: f32,
    mask: Mask,
    element: ElemType,
}

impl Backward {
    /// Gradients of weight and bias.
    fn parameters(&self) -> [CubeTensor; 2] {
        let grid = Grid::of(&[&self.input, &self.output, &self.gradient]);
        let (channels, client) = (self.input.channels(), self.input.client());
        let sums = vector(self.input.tensor(), 2 * grid.slices() * channels);
        kernels::gradient_sums::launch(
            client,
            grid.count(),
            grid.dim(),
            grid.width,
            self.input.argument(),
            self.output.argument(),
            self.gradient.argument(),
            buffer(&self.of.mean),
            buffer(&self.of.variance),
            buffer(&self.of.weight),
            buffer(&self.of.bias),
            buffer(&sums),
            grid.rows,
            grid.vectors,
            self.input.pitch(grid.width),
            self.output.pitch(grid.width),
            self.gradient.pitch(grid.width),
            self.epsilon,
            self.mask,
            grid.units,
            self.element,
        );
        let [weight, bias] = std::array::from_fn(|_| vector(&sums, channels));
        let (count, dim) = one_unit_each(channels, CHANNEL_UNITS);
        kernels::parameter_gradients::launch(
            client,
            count,
            dim,
            buffer(&sums),
            buffer(&self.of.variance),
            buffer(&weight),
            buffer(&bias),
            channels,
            grid.slices(),
            self.epsilon,
        );
        [weight, bias]
    }

    /// Gradients of the input and, if it is wanted, of the residual. With the gradients of weight and bias the statistics count
    /// as the batch's.
    fn activations(
        &self,
        parameters: Option<&[CubeTensor; 2]>,
        with_residual: bool,
    ) -> (CubeTensor, Option<CubeTensor>) {
        let (result, residual) = (self.gradient.another(), with_residual.then(|| self.gradient.another()));
        let grid = Grid::of(&[&self.input, &self.output, &self.gradient, &result]);
        let unread = [&self.of.weight, &self.of.bias];
        let [weight, bias] = parameters.map_or(unread, |parameters| parameters.each_ref());
        let unwritten = vector(self.input.tensor(), grid.width);
        kernels::input_gradient::launch(
            self.input.client(),
            grid.count(),
            grid.dim(),
            grid.width,
            self.input.argument(),
            self.output.argument(),
            self.gradient.argument(),
            buffer(&self.of.mean),
            buffer(&self.of.variance),
            buffer(&self.of.weight),
            buffer(&self.of.bias),
            buffer(weight),
            buffer(bias),
            result.argument(),
            residual.as_ref().map_or_else(|| buffer(&unwritten), Rows::argument),
            grid.rows,
            grid.vectors,
            self.input.pitch(grid.width),
            self.output.pitch(grid.width),
            self.gradient.pitch(grid.width),
            self.epsilon,
            self.mask,
            parameters.is_some(),
            with_residual,
            self.element,
        );
        (result.into_tensor(), residual.map(Rows::into_tensor))
    }
}

impl BatchNormGradients for Cube {
    fn normalization_gradients(
        saved: Saved<CubeTensor>,
        wanted: Wanted,
        gradient: CubeTensor,
    ) -> Gradients<CubeTensor> {
        let kept = [saved.input.as_ref(), saved.output.as_ref(), Some(&gradient)];
        let activations: Vec<_> = kept.into_iter().flatten().collect();
        let per_channel = [&saved.weight, &saved.bias, &saved.mean, &saved.variance];
        let Some(element) = known(&activations, &per_channel) else {
            return composed_gradients::<Self>(saved, wanted, gradient);
        };
        let Saved { input, output, weight, bias, mean, variance, epsilon, relu, by_batch, sums } = saved;
        let mask = match (relu, &output) {
            (false, _) => Mask::None,
            (true, Some(_)) => Mask::Output,
            (true, None) => Mask::Normalized,
        };
        let unchanged = (!relu && wanted.residual).then(|| gradient.clone());
        let gradient = Rows::of(gradient);
        let rows = |tensor: Option<CubeTensor>| tensor.map_or_else(|| gradient.clone(), Rows::of);
        let (input, output) = (rows(input), rows(output));
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(into_contiguous);
        let of = PerChannel { weight, bias, mean, variance };
        let backward = Backward { output, input, gradient, of, epsilon: epsilon as f32, mask, element };
        let needed = wanted.parameters || (by_batch && sums.is_none());
        let parameters = needed.then(|| backward.parameters());
        let sums = sums.or_else(|| parameters.clone()).filter(|_| by_batch);
        let with_residual = wanted.residual && relu;
        let (input, residual) = if wanted.input || with_residual {
            let (input, residual) = backward.activations(sums.as_ref(), with_residual);
            (Some(input), residual)
        } else {
            (None, None)
        };
        Gradients { input, residual: residual.or(unchanged), parameters }
    }
}
