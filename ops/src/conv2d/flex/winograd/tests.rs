//! The method against sums of products in double precision, also where the processor has something faster.

use super::transforms::{Input, Kernel, KernelGradient, Output, OutputGradient, Transform};
use super::*;
use crate::conv2d::Conv2dOptions;
use crate::cpu::{Affine, written_by};
use crate::matrix::Epilogue;
use proptest::prelude::*;

/// Error of a result relative to the sum of the absolute values of what the method sums up for it, the products of
/// transformed numbers times the entries of the last transform: the bound of `conv2d_random`, where these are the products of
/// the numbers themselves. A rounding costs 2⁻²⁴ = 6e-8, and a path has at most some twenty besides those of the sum.
const TOLERANCE: f64 = 1e-6;

type Square = Vec<Vec<f64>>;

/// The matrix of a transform, `[TO, FROM]`: its columns are what it makes of unit vectors.
fn matrix<T: Transform<FROM, TO>, const FROM: usize, const TO: usize>() -> Square {
    let columns: Vec<[f32; TO]> = (0..FROM)
        .map(|place| T::of(std::array::from_fn(|index| if index == place { 1.0 } else { 0.0 })))
        .collect();
    (0..TO).map(|row| columns.iter().map(|column| f64::from(column[row])).collect()).collect()
}

/// `F X Fᵀ`
fn transformed(matrix: &Square, values: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let side = matrix[0].len();
    let entry = |row: &Vec<f64>, column: &Vec<f64>| {
        (0..side * side).map(|at| row[at / side] * values(at / side, at % side) * column[at % side]).sum()
    };
    matrix.iter().flat_map(|row| matrix.iter().map(move |column| entry(row, column))).collect()
}

/// The size of what is summed up after the last transform.
fn size(matrix: &Square, products: &[f64]) -> Vec<f64> {
    let absolute: Square = matrix.iter().map(|row| row.iter().map(|value| value.abs()).collect()).collect();
    transformed(&absolute, |row, column| products[row * PATCH + column])
}

/// A convolution with all it reads.
#[derive(Clone)]
struct Case {
    geometry: Geometry,
    input: Vec<f32>,
    weight: Vec<f32>,
    output_gradient: Vec<f32>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.geometry.fmt(formatter)
    }
}

/// Uniform noise in `[−1, 1)`: the upper bits of multiples of the golden ratio.
fn noise(length: usize) -> Vec<f32> {
    let value =
        |index: u64| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (1..).map(value).take(length).collect()
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..4, [1usize..4, 1..6], [3usize..20, 3..20], [0usize..3, 0..3]);
    let case = sizes.prop_map(|(batch, channels, [height, width], padding)| {
        let [channels_in, channels_out] = channels.map(|groups| groups * WIDTH);
        let options = Conv2dOptions { padding, ..Default::default() };
        let (input, weight) = ([batch, channels_in, height, width], [channels_out, channels_in, 3, 3]);
        let geometry = Geometry::new(input, weight, options);
        let [input, weight, output_gradient] =
            [input, weight, geometry.output_shape()].map(|shape| noise(shape.iter().product()));
        Case { geometry, input, weight, output_gradient }
    });
    case.prop_filter("tiles that are mostly filled", |case| suits(&case.geometry))
}

impl Case {
    /// The sum of the products of every output and every weight.
    fn sums(&self) -> [Vec<f64>; 2] {
        let Geometry { batch, channels_in, channels_out, input, output, padding, .. } = self.geometry;
        let mut outputs = vec![0.0; self.output_gradient.len()];
        let mut weights = vec![0.0; self.weight.len()];
        for index in 0..batch * channels_out * channels_in {
            let [image, out, channel] =
                [index / channels_in / channels_out, index / channels_in % channels_out, index % channels_in];
            for place in 0..output[0] * output[1] * 9 {
                let [y, x, tap] = [place / 9 / output[1], place / 9 % output[1], place % 9];
                let row = (y + tap / 3).wrapping_sub(padding[0]);
                let column = (x + tap % 3).wrapping_sub(padding[1]);
                if row < input[0] && column < input[1] {
                    let source = ((image * channels_in + channel) * input[0] + row) * input[1] + column;
                    let target = ((image * channels_out + out) * output[0] + y) * output[1] + x;
                    let weight = (out * channels_in + channel) * 9 + tap;
                    let value = f64::from(self.input[source]);
                    outputs[target] += value * f64::from(self.weight[weight]);
                    weights[weight] += value * f64::from(self.output_gradient[target]);
                }
            }
        }
        [outputs, weights]
    }

    /// What the errors of every output and every weight are relative to.
    fn sizes(&self) -> [Vec<f64>; 2] {
        let Geometry { batch, channels_in, channels_out, input, output, padding, .. } = self.geometry;
        let (of_input, of_kernel) = (matrix::<Input, PATCH, PATCH>(), matrix::<Kernel, 3, PATCH>());
        let (of_output, of_gradient) =
            (matrix::<Output, PATCH, TILE>(), matrix::<OutputGradient, TILE, PATCH>());
        let kernels: Vec<_> = (self.weight.chunks_exact(9))
            .map(|kernel| transformed(&of_kernel, |row, column| f64::from(kernel[row * 3 + column])))
            .collect();
        let tiling = Tiling::of(&self.geometry);
        let mut outputs = vec![0.0; self.output_gradient.len()];
        let mut products_of_weights = vec![vec![0.0; POINTS]; kernels.len()];
        for index in 0..batch * tiling.rows * tiling.columns {
            let ([image, row], left) = (tiling.place(index / tiling.columns), index % tiling.columns * TILE);
            let top = row * TILE;
            let read = |values: &[f32], plane: usize, [height, width]: [usize; 2], y: usize, x: usize| {
                if y < height && x < width {
                    f64::from(values[(plane * height + y) * width + x])
                } else {
                    0.0
                }
            };
            let patches: Vec<_> = (0..channels_in)
                .map(|channel| {
                    transformed(&of_input, |y, x| {
                        let (y, x) =
                            ((top + y).wrapping_sub(padding[0]), (left + x).wrapping_sub(padding[1]));
                        read(&self.input, image * channels_in + channel, input, y, x)
                    })
                })
                .collect();
            for out in 0..channels_out {
                let plane = image * channels_out + out;
                let gradient = transformed(&of_gradient, |y, x| {
                    read(&self.output_gradient, plane, output, top + y, left + x)
                });
                let mut products = vec![0.0; POINTS];
                for (channel, patch) in patches.iter().enumerate() {
                    let weight = out * channels_in + channel;
                    for point in 0..POINTS {
                        products[point] += (kernels[weight][point] * patch[point]).abs();
                        products_of_weights[weight][point] += (gradient[point] * patch[point]).abs();
                    }
                }
                for (place, size) in size(&of_output, &products).into_iter().enumerate() {
                    let (y, x) = (top + place / TILE, left + place % TILE);
                    if y < output[0] && x < output[1] {
                        outputs[(plane * output[0] + y) * output[1] + x] = size;
                    }
                }
            }
        }
        let of_weight = matrix::<KernelGradient, PATCH, 3>();
        [outputs, products_of_weights.iter().flat_map(|products| size(&of_weight, products)).collect()]
    }

    fn output(&self, epilogue: &Epilogue<'_, f32>) -> Vec<f32> {
        let sizes = [self.geometry.channels_out, self.geometry.channels_in];
        let weight = TransformedWeight::new(&self.weight, sizes);
        // SAFETY: the whole output is written.
        unsafe {
            written_by(self.output_gradient.len(), |output| {
                forward(&self.geometry, &self.input, &weight, epilogue, output);
            })
        }
    }

    fn weight_gradient(&self) -> Vec<f32> {
        // SAFETY: the whole gradient is written.
        unsafe {
            written_by(self.weight.len(), |gradient| {
                weight_gradient(&self.geometry, &self.input, &self.output_gradient, gradient);
            })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn outputs_and_gradients_are_accurate(case in cases()) {
        let actual = [case.output(&Epilogue::NONE), case.weight_gradient()];
        let (expected, sizes) = (case.sums(), case.sizes());
        for (what, name) in ["output", "gradient"].iter().enumerate() {
            for ((actual, expected), size) in actual[what].iter().zip(&expected[what]).zip(&sizes[what]) {
                prop_assert!(
                    (f64::from(*actual) - expected).abs() <= TOLERANCE * size,
                    "{name}: {actual} instead of {expected} of {size}",
                );
            }
        }
    }

    #[test]
    fn what_follows_is_done_to_the_outputs_themselves(case in cases()) {
        let channels = case.geometry.channels_out;
        let affines: Vec<_> =
            (0..channels).map(|channel| Affine { centre: 0.5, scale: channel as f32, shift: -1.0 }).collect();
        let residual = Some(case.output_gradient.as_slice());
        let actual = case.output(&Epilogue { affines: &affines, residual, floor: 0.0 });
        let plane = case.geometry.output_plane();
        for (index, output) in case.output(&Epilogue::NONE).into_iter().enumerate() {
            let value = affines[index / plane % channels].of(output) + case.output_gradient[index];
            prop_assert_eq!(actual[index], value.max(0.0));
        }
    }
}
