//! What a mask head says, in the image.

use scrl_core::structures::{BoxXyxy, Size};

use super::Rle;
use crate::detection::Variant;

/// The probability, in each cell of a detection's box, that it belongs to the object.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftMask {
    /// `side × side`, row by row.
    pub cells: Vec<f32>,
    /// Cells of a row.
    pub side: usize,
}

/// A part of an image, its right and bottom pixels excluded.
struct Window {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// The cells that a pixel lies between, of one axis.
#[derive(Clone, Copy)]
struct Sample {
    /// None beyond the first cell.
    low: Option<usize>,
    /// None beyond the last one.
    high: Option<usize>,
    /// Of the higher one.
    weight: f32,
}

impl SoftMask {
    /// The pixels of an image that belong to the object, by a probability of one half; `bbox` in pixels of the image.
    ///
    /// detectron2 samples the cells at the centres of pixels (`paste_masks_in_image`); torchvision makes box and cells larger by one
    /// cell on each side, moves the box to whole pixels and resizes the cells (`paste_masks_in_image` of its own).
    pub fn paste(&self, bbox: &BoxXyxy, image: Size, variant: Variant) -> Rle {
        let (columns, rows, window) = match variant {
            Variant::Detectron2 => self.by_centres(bbox, image),
            Variant::Torchvision => self.by_pixels(bbox, image),
        };
        let inside = |y: usize, x: usize| {
            let value = self.value(columns[x - window.left], rows[y - window.top]);
            match variant {
                Variant::Detectron2 => value >= 0.5,
                Variant::Torchvision => value > 0.5,
            }
        };
        window.rle(image, inside)
    }

    fn by_centres(&self, bbox: &BoxXyxy, image: Size) -> (Vec<Sample>, Vec<Sample>, Window) {
        let axis = |first: f32, last: f32, limit: u32| {
            let start = (first.floor() - 1.0).max(0.0) as usize;
            let end = ((last.ceil() + 1.0).max(0.0) as usize).min(limit as usize);
            let sample = |pixel: usize| {
                let place = (pixel as f32 + 0.5 - first) / (last - first) * 2.0 - 1.0;
                let cell = ((place + 1.0) * self.side as f32 - 1.0) / 2.0;
                self.sample(cell)
            };
            (start.min(end), end, (start..end.max(start)).map(sample).collect::<Vec<_>>())
        };
        let (left, right, columns) = axis(bbox.x1, bbox.x2, image.width);
        let (top, bottom, rows) = axis(bbox.y1, bbox.y2, image.height);
        (columns, rows, Window { left, top, right, bottom })
    }

    fn by_pixels(&self, bbox: &BoxXyxy, image: Size) -> (Vec<Sample>, Vec<Sample>, Window) {
        let cells = self.side + 2;
        let factor = cells as f32 / self.side as f32;
        let axis = |first: f32, last: f32, limit: u32| {
            let (half, centre) = ((last - first) * 0.5 * factor, (last + first) * 0.5);
            // Towards zero, as torchvision's conversion to whole numbers is.
            let (first, last) = ((centre - half) as i64, (centre + half) as i64);
            let length = (last - first + 1).max(1);
            let (start, end) = (first.max(0), (last + 1).min(i64::from(limit)));
            let scale = cells as f32 / length as f32;
            let sample = |pixel: i64| {
                let cell = ((pixel - first) as f32 + 0.5) * scale - 0.5;
                // The border of zeros, whose own border goes on.
                self.sample(cell.clamp(0.0, (cells - 1) as f32) - 1.0)
            };
            let end = end.max(start);
            (start as usize, end as usize, (start..end).map(sample).collect::<Vec<_>>())
        };
        let (left, right, columns) = axis(bbox.x1, bbox.x2, image.width);
        let (top, bottom, rows) = axis(bbox.y1, bbox.y2, image.height);
        (columns, rows, Window { left, top, right, bottom })
    }

    fn sample(&self, cell: f32) -> Sample {
        let low = cell.floor();
        let place = |cell: f32| (cell >= 0.0 && cell < self.side as f32).then_some(cell as usize);
        Sample { low: place(low), high: place(low + 1.0), weight: cell - low }
    }

    fn value(&self, x: Sample, y: Sample) -> f32 {
        let cell = |y: Option<usize>, x: Option<usize>| match (y, x) {
            (Some(y), Some(x)) => self.cells[y * self.side + x],
            _ => 0.0,
        };
        let row = |y| (1.0 - x.weight) * cell(y, x.low) + x.weight * cell(y, x.high);
        (1.0 - y.weight) * row(y.low) + y.weight * row(y.high)
    }
}

impl Window {
    /// The pixels for which `inside(y, x)` holds.
    fn rle(&self, image: Size, inside: impl Fn(usize, usize) -> bool) -> Rle {
        let height = image.height as usize;
        // Places, down the columns, at which pixels inside begin or end.
        let mut changes: Vec<usize> = Vec::new();
        for x in self.left..self.right {
            let mut state = false;
            for y in self.top..=self.bottom {
                let now = y < self.bottom && inside(y, x);
                if now != state {
                    state = now;
                    let place = x * height + y;
                    // What ends with a column and begins with the next goes on.
                    if changes.last() == Some(&place) {
                        changes.pop();
                    } else {
                        changes.push(place);
                    }
                }
            }
        }
        let starts = std::iter::once(0).chain(changes.iter().copied());
        let runs = starts.zip(&changes).map(|(start, end)| (end - start) as u32).collect();
        Rle::from_runs(runs, image).expect("the window lies in the image")
    }
}
