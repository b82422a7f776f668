//! Antialiased filling of outlines.

use super::shapes::{Outline, bounds};

/// Rows sampled within a pixel. Along a row the coverage is exact.
const SUBROWS: usize = 4;

/// The part of every pixel that an outline covers, over the outline's own rectangle, which may reach beyond the
/// image.
pub(super) struct Coverage {
    /// Column of the first pixel.
    pub left: i32,
    /// Row of the first pixel.
    pub top: i32,
    pub width: usize,
    pub height: usize,
    /// Row-major, in `[0, 1]`.
    alpha: Vec<f32>,
}

impl Coverage {
    /// Fills an outline given in pixels by the even-odd rule.
    pub fn fill(outline: &Outline) -> Self {
        let (low, high) = bounds(outline);
        let (left, top) = (low.x.floor() as i32, low.y.floor() as i32);
        let width = (high.x.ceil() as i32 - left).max(1) as usize;
        let height = (high.y.ceil() as i32 - top).max(1) as usize;
        let mut alpha = vec![0.0; width * height];
        for (subrow, mut xs) in crossings(outline, left, top, height).into_iter().enumerate() {
            xs.sort_by(f32::total_cmp);
            let row = &mut alpha[subrow / SUBROWS * width..][..width];
            for span in xs.chunks_exact(2) {
                add_span(row, span[0], span[1]);
            }
        }
        alpha.iter_mut().for_each(|a| *a = a.min(1.0));
        Self { left, top, width, height, alpha }
    }

    /// Pixels that belong to the outline: those covered by half or more.
    pub fn area(&self) -> u32 {
        self.alpha.iter().filter(|&&a| a >= 0.5).count() as u32
    }

    /// The covered pixels that lie in an image, as `(column, row, coverage)`, row by row.
    pub fn pixels(
        &self,
        image_width: u32,
        image_height: u32,
    ) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        let columns = inside(self.left, self.width, image_width);
        let rows = inside(self.top, self.height, image_height);
        rows.flat_map(move |y| {
            let start = (y as i32 - self.top) as usize * self.width;
            columns.clone().filter_map(move |x| {
                let alpha = self.alpha[start + (x as i32 - self.left) as usize];
                (alpha > 0.0).then_some((x, y, alpha))
            })
        })
    }

    /// The same coverage elsewhere, by whole pixels.
    pub fn shifted(&self, x: i32, y: i32) -> Self {
        Self { left: self.left + x, top: self.top + y, alpha: self.alpha.clone(), ..*self }
    }
}

/// The part of `start..start + length` within `0..limit`.
fn inside(start: i32, length: usize, limit: u32) -> std::ops::Range<usize> {
    let end = (start + length as i32).clamp(0, limit as i32);
    start.clamp(0, end) as usize..end as usize
}

/// Where the outline's edges cross each sampled row, in pixels from `left`.
fn crossings(outline: &Outline, left: i32, top: i32, height: usize) -> Vec<Vec<f32>> {
    let subrows = height * SUBROWS;
    let mut rows = vec![Vec::new(); subrows];
    for points in outline {
        for (i, a) in points.iter().enumerate() {
            let b = points[(i + 1) % points.len()];
            let (upper, lower) = if a.y <= b.y { (*a, b) } else { (b, *a) };
            // Row k is sampled at (k + 0.5) / SUBROWS; an edge owns its upper end and not its lower one.
            let row_of = |y: f32| ((y - top as f32) * SUBROWS as f32 - 0.5).ceil().max(0.0) as usize;
            let slope = (lower.x - upper.x) / (lower.y - upper.y);
            let range = row_of(upper.y)..row_of(lower.y).min(subrows);
            for k in range {
                let y = top as f32 + (k as f32 + 0.5) / SUBROWS as f32;
                rows[k].push(upper.x + (y - upper.y) * slope - left as f32);
            }
        }
    }
    rows
}

/// Adds one sampled row's share of the pixels from `start` to `end`.
fn add_span(row: &mut [f32], start: f32, end: f32) {
    const SHARE: f32 = 1.0 / SUBROWS as f32;
    let limit = row.len() as f32;
    let (start, end) = (start.clamp(0.0, limit), end.clamp(0.0, limit));
    let last = (end.ceil() as usize).min(row.len());
    for (x, alpha) in row.iter_mut().enumerate().take(last).skip(start as usize) {
        let covered = end.min(x as f32 + 1.0) - start.max(x as f32);
        *alpha += covered.max(0.0) * SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{Point, ShapeClass, fitted, randomly_turned};

    /// Whether a point lies inside, by the crossings of a ray: no spans, no sorting.
    fn contains(outline: &Outline, x: f32, y: f32) -> bool {
        let crosses =
            |a: &Point, b: &Point| (a.y > y) != (b.y > y) && x < a.x + (y - a.y) / (b.y - a.y) * (b.x - a.x);
        let count: usize = outline
            .iter()
            .map(|points| {
                (0..points.len()).filter(|&i| crosses(&points[i], &points[(i + 1) % points.len()])).count()
            })
            .sum();
        count % 2 == 1
    }

    #[test]
    fn coverage_agrees_with_counting_sample_points_in_every_pixel() {
        const GRID: usize = 16;
        let mut rng = scrl_core::random::stream(11, &[]);
        for class in ShapeClass::ALL {
            let turned = randomly_turned(&class.outline(0.3), 0.2, &mut rng);
            let outline = fitted(&turned, Point { x: 10.3, y: 12.8 }, 17.0);
            let coverage = Coverage::fill(&outline);
            let mut covered = vec![0.0; 24 * 24];
            coverage.pixels(24, 24).for_each(|(x, y, alpha)| covered[y * 24 + x] = alpha);
            for (i, &alpha) in covered.iter().enumerate() {
                let at = |k: usize| (k as f32 + 0.5) / GRID as f32;
                let hit = |k: &usize| {
                    contains(&outline, (i % 24) as f32 + at(k % GRID), (i / 24) as f32 + at(k / GRID))
                };
                let expected = (0..GRID * GRID).filter(hit).count() as f32 / (GRID * GRID) as f32;
                // Four sampled rows against sixteen: a nearly horizontal edge may differ by half a row.
                assert!((alpha - expected).abs() < 0.16, "{} pixel {i}: {alpha} {expected}", class.name());
            }
        }
    }

    #[test]
    fn pixels_beyond_the_image_count_in_the_area_and_are_not_listed() {
        let square = vec![vec![(-3.0, 1.0), (2.0, 1.0), (2.0, 4.0), (-3.0, 4.0)]];
        let outline: Outline =
            square.into_iter().map(|l| l.into_iter().map(|(x, y)| Point { x, y }).collect()).collect();
        let coverage = Coverage::fill(&outline);
        assert_eq!(coverage.area(), 15);
        let listed: Vec<_> = coverage.pixels(8, 3).collect();
        assert_eq!(listed, [(0, 1, 1.0), (1, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)]);
    }
}
