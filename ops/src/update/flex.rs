//! The steps on the CPU: one pass over blocks of elements.

use super::{
    GradientStepOptions, TrustRatio,
    backend::{UpdateOps, plain, weighted_mean, with_momentum},
};
use crate::cpu::{DisjointMut, all_of, contiguous, tensor_of, values};
use crate::vectorized;
use burn::backend::Flex;
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a task: four streams of them stay in a core's cache.
const BLOCK: usize = 1 << 15;
/// Interleaved sums of a block.
const LANES: usize = 16;

/// What `task` returns for each block of `length` elements, in order.
fn for_each_block<R: Send>(length: usize, task: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    let run = |block: usize| {
        let range = block * BLOCK..length.min((block + 1) * BLOCK);
        vectorized(
            #[inline(always)]
            || task(range),
        )
    };
    match length.div_ceil(BLOCK) {
        // Waking another thread would take longer.
        blocks @ 0..=1 => (0..blocks).map(run).collect(),
        blocks => (0..blocks).into_par_iter().map(run).collect(),
    }
}

/// A tensor whose memory nobody else holds, all of it and in row-major order: itself, or a copy.
fn exclusive(tensor: FlexTensor) -> FlexTensor {
    let mut whole = tensor.to_contiguous();
    // Both hold the memory until now.
    drop(tensor);
    whole.storage_mut::<f32>();
    whole
}

#[inline(always)]
fn add_square(sum: &mut f64, value: f32) {
    *sum += f64::from(value) * f64::from(value);
}

/// Sum of a block's squares.
#[inline(always)]
fn squares(block: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| add_square(sum, *value));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, value)| add_square(sum, *value));
    sums.iter().sum()
}

/// The sum of a tensor's squares.
fn sum_of_squares(values: &[f32]) -> f64 {
    let sums = for_each_block(
        values.len(),
        #[inline(always)]
        |range| squares(&values[range]),
    );
    sums.iter().sum()
}

/// LARS' ratio.
fn trust_ratio(trust: TrustRatio, weight: f64, gradient: f64, decay: f64) -> f64 {
    if weight > 0.0 && gradient > 0.0 {
        trust.coefficient * weight / (gradient + decay * weight + trust.eps)
    } else {
        1.0
    }
}

/// What a step multiplies and adds.
#[derive(Clone, Copy)]
struct Factors {
    lr: f32,
    momentum: f32,
    nesterov: bool,
    decay: f32,
    ratio: f32,
}

impl Factors {
    /// The factors and, where the trust ratio needed it, the sum of the gradient's squares.
    fn new(options: GradientStepOptions, weight: &[f32], gradient: &[f32]) -> (Self, Option<f64>) {
        let GradientStepOptions { lr, momentum, nesterov, weight_decay, trust } = options;
        let norms = trust.map(|trust| {
            let squares = sum_of_squares(gradient);
            let norm = sum_of_squares(weight).sqrt();
            (trust_ratio(trust, norm, squares.sqrt(), weight_decay), squares)
        });
        let factors = Self {
            lr: lr as f32,
            momentum: momentum as f32,
            nesterov,
            decay: weight_decay as f32,
            ratio: norms.map_or(1.0, |(ratio, _)| ratio as f32),
        };
        (factors, norms.map(|(_, squares)| squares))
    }

    /// The gradient with decay and trust ratio.
    #[inline(always)]
    fn direction(self, weight: f32, gradient: f32) -> f32 {
        (gradient + weight * self.decay) * self.ratio
    }

    #[inline(always)]
    fn plain(self, weight: &mut [f32], gradient: &[f32]) {
        for (weight, gradient) in weight.iter_mut().zip(gradient) {
            *weight -= self.direction(*weight, *gradient) * self.lr;
        }
    }

    #[inline(always)]
    fn with_momentum(self, weight: &mut [f32], buffer: &mut [f32], gradient: &[f32]) {
        // Two loops, since a choice inside of one keeps it from wide registers.
        let elements = weight.iter_mut().zip(buffer).zip(gradient);
        if self.nesterov {
            for ((weight, buffer), gradient) in elements {
                let direction = self.direction(*weight, *gradient);
                *buffer = *buffer * self.momentum + direction;
                *weight -= (direction + *buffer * self.momentum) * self.lr;
            }
        } else {
            for ((weight, buffer), gradient) in elements {
                *buffer = *buffer * self.momentum + self.direction(*weight, *gradient);
                *weight -= *buffer * self.lr;
            }
        }
    }
}

impl UpdateOps for Flex {
    fn plain_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        options: GradientStepOptions,
    ) -> (FlexTensor, FlexTensor) {
        if !all_of::<f32>(&[&weight, &gradient]) {
            return plain::<Self>(weight, gradient, options);
        }
        let (mut weight, gradient) = (exclusive(weight), contiguous(gradient));
        let source = values(&gradient);
        let (factors, known) = Factors::new(options, values(&weight), source);
        let target = DisjointMut::new(weight.storage_mut());
        let sums = for_each_block(
            source.len(),
            #[inline(always)]
            |range| {
                // SAFETY: blocks do not overlap.
                let weight = unsafe { target.part(range.clone()) };
                factors.plain(weight, &source[range.clone()]);
                if known.is_some() { 0.0 } else { squares(&source[range]) }
            },
        );
        let squares = known.unwrap_or_else(|| sums.iter().sum());
        (weight, tensor_of(vec![squares as f32], [1]))
    }

    fn momentum_step(
        weight: FlexTensor,
        gradient: FlexTensor,
        buffer: FlexTensor,
        options: GradientStepOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !all_of::<f32>(&[&weight, &gradient, &buffer]) {
            return with_momentum::<Self>(weight, gradient, buffer, options);
        }
        let (mut weight, mut buffer, gradient) = (exclusive(weight), exclusive(buffer), contiguous(gradient));
        let source = values(&gradient);
        let (factors, known) = Factors::new(options, values(&weight), source);
        let target = DisjointMut::new(weight.storage_mut());
        let momentum = DisjointMut::new(buffer.storage_mut());
        let sums = for_each_block(
            source.len(),
            #[inline(always)]
            |range| {
                // SAFETY: blocks do not overlap.
                let (weight, buffer) = unsafe { (target.part(range.clone()), momentum.part(range.clone())) };
                factors.with_momentum(weight, buffer, &source[range.clone()]);
                if known.is_some() { 0.0 } else { squares(&source[range]) }
            },
        );
        let squares = known.unwrap_or_else(|| sums.iter().sum());
        (weight, buffer, tensor_of(vec![squares as f32], [1]))
    }

    fn average(average: FlexTensor, value: FlexTensor, momentum: f64) -> FlexTensor {
        if !all_of::<f32>(&[&average, &value]) {
            return weighted_mean::<Self>(average, value, momentum);
        }
        let (mut average, value) = (exclusive(average), contiguous(value));
        let source = values::<f32>(&value);
        let (kept, taken) = (momentum as f32, (1.0 - momentum) as f32);
        let target = DisjointMut::<f32>::new(average.storage_mut());
        for_each_block(
            source.len(),
            #[inline(always)]
            |range| {
                // SAFETY: blocks do not overlap.
                let average = unsafe { target.part(range.clone()) };
                for (average, value) in average.iter_mut().zip(&source[range]) {
                    *average = *average * kept + value * taken;
                }
            },
        );
        average
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a tensor's elements lie.
    fn place(tensor: &FlexTensor) -> *const f32 {
        values(tensor).as_ptr()
    }

    fn tensor(length: usize) -> FlexTensor {
        tensor_of((0..length).map(|index| index as f32).collect(), [length])
    }

    const OPTIONS: GradientStepOptions =
        GradientStepOptions { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0, trust: None };

    #[test]
    fn tensors_that_nobody_else_holds_are_changed_in_place() {
        let (weight, buffer) = (tensor(BLOCK + 3), tensor(BLOCK + 3));
        let before = [place(&weight), place(&buffer)];
        let (weight, buffer, _) = Flex::momentum_step(weight, tensor(BLOCK + 3), buffer, OPTIONS);
        assert_eq!([place(&weight), place(&buffer)], before);
        let (weight, _) = Flex::plain_step(weight, tensor(BLOCK + 3), OPTIONS);
        assert_eq!(place(&weight), before[0]);
        assert_eq!(place(&Flex::average(weight, tensor(BLOCK + 3), 0.9)), before[0]);
    }

    #[test]
    fn tensors_that_others_hold_keep_their_values() {
        let (weight, buffer) = (tensor(5), tensor(5));
        let (stepped, moved, _) = Flex::momentum_step(weight.clone(), tensor(5), buffer.clone(), OPTIONS);
        let averaged = Flex::average(weight.clone(), stepped.clone(), 0.5);
        assert_eq!(
            (values::<f32>(&weight), values::<f32>(&buffer)),
            (values(&tensor(5)), values(&tensor(5)))
        );
        assert!(
            values::<f32>(&stepped)[4] < 4.0
                && values::<f32>(&moved)[4] > 4.0
                && values::<f32>(&averaged)[4] < 4.0
        );
    }
}
