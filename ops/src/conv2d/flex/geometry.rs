//! Sizes of a convolution and the tiles it is cut into.

use crate::conv2d::Conv2dOptions;
use std::ops::Range;

/// Sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub batch: usize,
    pub channels_in: usize,
    pub channels_out: usize,
    /// Input pixels, `[vertical, horizontal]`, like all pairs here.
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

/// A part of the output: some rows of one image, or all rows of several.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

impl Geometry {
    pub(super) fn new(input: [usize; 4], weight: [usize; 4], options: Conv2dOptions) -> Self {
        let Conv2dOptions { stride, padding, dilation } = options;
        let [.., height, width] = options.output(input, weight);
        Self {
            batch: input[0],
            channels_in: input[1],
            channels_out: weight[0],
            input: [input[2], input[3]],
            output: [height, width],
            kernel: [weight[2], weight[3]],
            stride,
            padding,
            dilation,
        }
    }

    pub(super) fn input_shape(&self) -> [usize; 4] {
        [self.batch, self.channels_in, self.input[0], self.input[1]]
    }

    pub(super) fn output_shape(&self) -> [usize; 4] {
        [self.batch, self.channels_out, self.output[0], self.output[1]]
    }

    pub(super) fn weight_shape(&self) -> [usize; 4] {
        [self.channels_out, self.channels_in, self.kernel[0], self.kernel[1]]
    }

    /// Values under the kernel in one channel.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Pixels from the kernel's first value to its last, vertically and horizontally.
    pub(super) fn reach(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.dilation[axis] * (self.kernel[axis] - 1))
    }

    /// Values under the kernel in all channels: the length of a patch and of a row of the weight.
    pub(super) fn depth(&self) -> usize {
        self.channels_in * self.taps()
    }

    /// Pixels of an output channel.
    pub(super) fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Pixels of an input channel.
    pub(super) fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Whether output pixels are products of the weight with input pixels at the same place.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// The same convolution with a pointwise one's pixels in a single column, so that tiles can be cut anywhere.
    pub(super) fn flattened(mut self) -> Self {
        if self.is_pointwise() {
            self.input = [self.input_plane(), 1];
            self.output = self.input;
        }
        self
    }

    /// Output pixels of a tile.
    pub(super) fn pixels(&self, tile: &Tile) -> usize {
        tile.images.len() * tile.rows.len() * self.output[1]
    }

    /// Cuts the output into tiles of about `pixels` pixels.
    pub(super) fn tiles(&self, pixels: usize) -> Vec<Tile> {
        let plane = self.output_plane();
        if plane == 0 {
            return Vec::new();
        }
        if pixels >= plane {
            let all = 0..self.output[0];
            let images = even_parts(self.batch, (pixels / plane).max(1));
            return images.map(|images| Tile { images, rows: all.clone() }).collect();
        }
        let rows = (pixels / self.output[1]).max(1);
        let tiles = |image: usize| {
            even_parts(self.output[0], rows).map(move |rows| Tile { images: image..image + 1, rows })
        };
        (0..self.batch).flat_map(tiles).collect()
    }
}

/// Cuts `0..length` into the fewest parts of at most `limit`, as even as possible.
pub(super) fn even_parts(length: usize, limit: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = length.div_ceil(limit.max(1));
    (0..parts).map(move |part| part * length / parts..(part + 1) * length / parts)
}
