//! What a mask head learns: the part of an object's mask in a region, in a few cells.

use std::sync::Arc;

use rayon::prelude::*;
use scrl_core::structures::{BoxXyxy, Size};

use super::{Rle, Segmentation};
use crate::detection::Variant;

/// An object's mask as it lies in the network's input; it stays an outline until a region needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectMask {
    /// In pixels of the image file.
    pub segmentation: Arc<Segmentation>,
    /// Size of the image file.
    pub source: Size,
    /// Size of the input, without padding.
    pub input: Size,
    /// Whether the input is mirrored left to right.
    pub mirrored: bool,
}

impl ObjectMask {
    /// The mask in each of these regions, given in pixels of the input, as `side × side` values in `[0, 1]` row by row.
    ///
    /// detectron2 draws polygons in the region's own cells (`rasterize_polygons_within_box`) and takes cells of run lengths that lie
    /// inside by half; torchvision draws the polygons in the image, resizes them with the image and averages
    /// (`project_masks_on_boxes`).
    pub fn regions(&self, boxes: &[BoxXyxy], side: usize, variant: Variant) -> Vec<Vec<f32>> {
        match (&*self.segmentation, variant) {
            (Segmentation::Polygons(polygons), Variant::Detectron2) => {
                let polygons: Vec<_> = polygons.iter().map(|polygon| self.place(polygon)).collect();
                boxes.par_iter().map(|bbox| draw_within(&polygons, bbox, side)).collect()
            }
            (_, variant) => {
                let pixels = self.bitmap();
                let aligned = variant.numerics().aligned;
                let average = |bbox: &BoxXyxy| {
                    let cells = pixels.average(bbox, side, aligned);
                    match variant {
                        Variant::Torchvision => cells,
                        Variant::Detectron2 => {
                            cells.into_iter().map(|cell| f32::from(u8::from(cell >= 0.5))).collect()
                        }
                    }
                };
                boxes.par_iter().map(average).collect()
            }
        }
    }

    /// A polygon in pixels of the input.
    fn place(&self, polygon: &[f64]) -> Vec<f64> {
        let [width, height] = [self.input.width, self.input.height].map(f64::from);
        let (x_scale, y_scale) =
            (width / f64::from(self.source.width), height / f64::from(self.source.height));
        let points = polygon.as_chunks::<2>().0;
        let place = |&[x, y]: &[f64; 2]| {
            let x = x * x_scale;
            [if self.mirrored { width - x } else { x }, y * y_scale]
        };
        points.iter().flat_map(place).collect()
    }

    /// The mask in the input, by the nearest pixel of the image file.
    fn bitmap(&self) -> Bitmap {
        let source = self.segmentation.to_rle(self.source).to_bitmap();
        let (width, height) = (self.input.width as usize, self.input.height as usize);
        let nearest = |place: usize, from: u32, to: u32| {
            let scale = from as f32 / to as f32;
            ((place as f32 * scale).floor() as usize).min(from as usize - 1)
        };
        let columns: Vec<usize> = (0..width)
            .map(|x| if self.mirrored { width - 1 - x } else { x })
            .map(|x| nearest(x, self.source.width, self.input.width))
            .collect();
        let row = |y: usize| {
            let start = nearest(y, self.source.height, self.input.height) * self.source.width as usize;
            columns.iter().map(|x| source[start + x]).collect::<Vec<bool>>()
        };
        Bitmap { pixels: (0..height).flat_map(row).collect(), width, height }
    }
}

/// The polygons in the cells of a region, each 0 or 1.
fn draw_within(polygons: &[Vec<f64>], bbox: &BoxXyxy, side: usize) -> Vec<f32> {
    let scale = |length: f32| side as f64 / f64::from(length).max(0.1);
    let (x_scale, y_scale) = (scale(bbox.width()), scale(bbox.height()));
    let (left, top) = (f64::from(bbox.x1), f64::from(bbox.y1));
    let within = |polygon: &Vec<f64>| -> Vec<f64> {
        let points = polygon.as_chunks::<2>().0;
        points.iter().flat_map(|[x, y]| [(x - left) * x_scale, (y - top) * y_scale]).collect()
    };
    let polygons: Vec<_> = polygons.iter().map(within).collect();
    let size = Size { width: side as u32, height: side as u32 };
    let cells = Rle::from_polygons(&polygons, size).to_bitmap();
    cells.into_iter().map(|inside| f32::from(u8::from(inside))).collect()
}

/// Pixels row by row.
struct Bitmap {
    pixels: Vec<bool>,
    width: usize,
    height: usize,
}

impl Bitmap {
    /// The mean over the sampling points of each cell of a region: RoIAlign with as many points as a cell has pixels (He et al.,
    /// arXiv 1703.06870).
    fn average(&self, bbox: &BoxXyxy, side: usize, aligned: bool) -> Vec<f32> {
        let shift = if aligned { 0.5 } else { 0.0 };
        let least = if aligned { 0.0 } else { 1.0_f32 };
        let axis = |first: f32, last: f32, limit: usize| {
            let first = first - shift;
            let cell = (last - shift - first).max(least) / side as f32;
            let points = (cell.ceil() as usize).max(1);
            let of_cell = |index: usize| {
                let point = |number: usize| {
                    let place = first + index as f32 * cell + (number as f32 + 0.5) * cell / points as f32;
                    Sample::at(place, limit)
                };
                (0..points).map(point).collect::<Vec<_>>()
            };
            (0..side).map(of_cell).collect::<Vec<_>>()
        };
        let columns = axis(bbox.x1, bbox.x2, self.width);
        let rows = axis(bbox.y1, bbox.y2, self.height);
        let cell = |(ys, xs): (&Vec<Option<Sample>>, &Vec<Option<Sample>>)| {
            let mut sum = 0.0;
            for y in ys.iter().flatten() {
                sum += xs.iter().flatten().map(|x| self.value(x, y)).sum::<f32>();
            }
            sum / (ys.len() * xs.len()) as f32
        };
        rows.iter().flat_map(|ys| columns.iter().map(move |xs| (ys, xs))).map(cell).collect()
    }

    fn value(&self, x: &Sample, y: &Sample) -> f32 {
        let pixel = |x: usize, y: usize| f32::from(u8::from(self.pixels[y * self.width + x]));
        let row = |place: usize| (1.0 - x.weight) * pixel(x.low, place) + x.weight * pixel(x.high, place);
        (1.0 - y.weight) * row(y.low) + y.weight * row(y.high)
    }
}

/// A place between two pixels of an axis.
struct Sample {
    low: usize,
    high: usize,
    /// Of the higher one.
    weight: f32,
}

impl Sample {
    /// None more than a pixel outside; pixels of the border go on that far.
    fn at(place: f32, limit: usize) -> Option<Self> {
        if !(-1.0..=limit as f32).contains(&place) {
            return None;
        }
        let place = place.max(0.0);
        let low = place as usize;
        Some(match low + 1 < limit {
            true => Self { low, high: low + 1, weight: place - low as f32 },
            false => Self { low: limit - 1, high: limit - 1, weight: 0.0 },
        })
    }
}
