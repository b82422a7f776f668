//! The pictures of a sheet: views with their boxes, heat maps, rows below each other.
//!
//! A panel is a view enlarged by a whole factor, so that its pixels stay those that the network sees.

use scrl_core::draw::{Rgb, brightness, distinct_color, draw_box, draw_label};
use scrl_core::structures::BoxXyxy;
use scrl_core::transforms::RgbImage;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};

use crate::similarity::SimilarityMap;

/// Smallest side of a panel, in pixels.
const PANEL: u32 = 320;
/// Pixels around each panel.
const GAP: u32 = 8;
const BACKGROUND: Rgb<u8> = Rgb([255; 3]);
const BLACK: Rgb<u8> = Rgb([0; 3]);
/// Pixels of a digit's dot.
const DIGIT: u32 = 2;
/// Share of the colour of a heat map; the rest is the view in grey.
const HEAT: f32 = 0.65;

/// Colours of a heat map from the smallest value to the largest, each brighter than the one before.
const HEAT_COLORS: [[f32; 3]; 5] = [
    [10.0, 8.0, 44.0],
    [88.0, 24.0, 118.0],
    [196.0, 54.0, 92.0],
    [244.0, 142.0, 44.0],
    [255.0, 246.0, 172.0],
];

/// Colours of the first pairs, which differ in hue or in brightness.
const PAIR_COLORS: [[u8; 3]; 12] = [
    [235, 40, 40],
    [60, 200, 70],
    [50, 110, 255],
    [255, 225, 40],
    [250, 80, 240],
    [80, 235, 240],
    [250, 140, 40],
    [140, 60, 200],
    [255, 255, 255],
    [0, 130, 120],
    [255, 180, 190],
    [150, 95, 40],
];

/// The colour of a pair of boxes in both views.
pub fn pair_color(number: usize) -> Rgb<u8> {
    PAIR_COLORS.get(number).map_or_else(|| distinct_color(number), |color| Rgb(*color))
}

/// A box to outline.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// In view pixels.
    pub bbox: BoxXyxy,
    /// Written into the corner.
    pub number: usize,
    /// Colour of the line.
    pub color: Rgb<u8>,
    /// Width of the line, in pixels of the panel.
    pub width: u32,
}

/// The picture of normalised pixels `[3, side, side]`.
///
/// # Panics
/// If `pixels` does not hold `3 · side · side` values.
pub fn picture(pixels: &[f32], side: u32) -> RgbImage {
    let area = (side * side) as usize;
    assert_eq!(pixels.len(), 3 * area, "a view is three square planes");
    RgbImage::from_fn(side, side, |x, y| {
        let at = (y * side + x) as usize;
        Rgb(std::array::from_fn(|c| {
            let value = pixels[c * area + at] * IMAGENET_STD[c] + IMAGENET_MEAN[c];
            (255.0 * value).round().clamp(0.0, 255.0) as u8
        }))
    })
}

/// A view with boxes, the small ones on top.
pub fn panel(view: &RgbImage, outlines: &[Outline]) -> RgbImage {
    let factor = PANEL.div_ceil(view.width());
    let (width, height) = (view.width() * factor, view.height() * factor);
    let mut panel = RgbImage::from_fn(width, height, |x, y| *view.get_pixel(x / factor, y / factor));
    let mut outlines = outlines.to_vec();
    outlines.sort_by(|a, b| b.bbox.area().total_cmp(&a.bbox.area()));
    outlines.iter().for_each(|outline| draw_outline(&mut panel, outline, factor as f32));
    outlines.iter().for_each(|outline| draw_number(&mut panel, outline, factor as f32));
    panel
}

/// A line with a black rim, so that it shows on every ground.
fn draw_outline(panel: &mut RgbImage, outline: &Outline, factor: f32) {
    let b = outline.bbox.scale(factor, factor);
    let rim = BoxXyxy::new(b.x1 - 1.0, b.y1 - 1.0, b.x2 + 1.0, b.y2 + 1.0);
    draw_box(panel, &rim, BLACK, outline.width + 2);
    draw_box(panel, &b, outline.color, outline.width);
}

/// The number in the top-left corner of its box.
fn draw_number(panel: &mut RgbImage, outline: &Outline, factor: f32) {
    let b = outline.bbox.scale(factor, factor);
    let (x, y) = (b.x1.max(0.0).round() as u32, b.y1.max(0.0).round() as u32);
    draw_label(panel, &outline.number.to_string(), x, y, outline.color, DIGIT);
}

/// A view in grey under the colours of a map, which span the map's range.
pub fn heat(view: &RgbImage, map: &SimilarityMap) -> RgbImage {
    let (low, high) = map.range();
    let span = (high - low).max(f32::EPSILON);
    RgbImage::from_fn(view.width(), view.height(), |x, y| {
        let place = |pixel: u32, side: u32| (pixel as f32 + 0.5) / side as f32;
        let value = map.at(place(x, view.width()), place(y, view.height()));
        let color = heat_color((value - low) / span);
        let grey = brightness(*view.get_pixel(x, y));
        Rgb(color.map(|c| (HEAT * c + (1.0 - HEAT) * grey).round() as u8))
    })
}

/// The colour of a value in `[0, 1]`.
fn heat_color(value: f32) -> [f32; 3] {
    let position = value.clamp(0.0, 1.0) * (HEAT_COLORS.len() - 1) as f32;
    let index = (position as usize).min(HEAT_COLORS.len() - 2);
    let share = position - index as f32;
    std::array::from_fn(|c| HEAT_COLORS[index][c] * (1.0 - share) + HEAT_COLORS[index + 1][c] * share)
}

/// Rows of panels of one size on a white ground.
///
/// # Panics
/// If there is no panel.
pub fn stack(rows: &[Vec<RgbImage>]) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().expect("a sheet has a row") as u32;
    let (width, height) = rows[0][0].dimensions();
    let mut sheet = RgbImage::from_pixel(
        columns * (width + GAP) + GAP,
        rows.len() as u32 * (height + GAP) + GAP,
        BACKGROUND,
    );
    for (row, panels) in (0u32..).zip(rows) {
        for (column, panel) in (0u32..).zip(panels) {
            let (left, top) = (GAP + column * (width + GAP), GAP + row * (height + GAP));
            for (x, y, pixel) in panel.enumerate_pixels() {
                sheet.put_pixel(left + x, top + y, *pixel);
            }
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use scrl_core::transforms::normalize::chw;

    use super::*;

    #[test]
    fn a_normalised_view_becomes_the_picture_that_it_was() {
        let image = RgbImage::from_fn(16, 16, |x, y| Rgb([(16 * y + x) as u8, (7 * x) as u8, 255 - y as u8]));
        assert_eq!(picture(&chw(&image, IMAGENET_MEAN, IMAGENET_STD), 16), image);
    }

    #[test]
    fn a_box_is_drawn_where_the_enlarged_view_shows_it() {
        let outline =
            Outline { bbox: BoxXyxy::new(2.0, 4.0, 8.0, 10.0), number: 7, color: Rgb([250, 0, 0]), width: 2 };
        let panel = panel(&RgbImage::from_pixel(16, 16, Rgb([90; 3])), &[outline]);
        assert_eq!(panel.dimensions(), (320, 320));
        // Twenty pixels of the panel are one of the view.
        let color = |x, y| panel.get_pixel(x, y).0;
        for (x, y) in [(159, 100), (158, 198), (100, 199)] {
            assert_eq!(color(x, y), [250, 0, 0], "on the edge at {x}, {y}");
        }
        assert_eq!((color(160, 100), color(157, 100)), ([0; 3], [0; 3]), "the rim");
        assert_eq!((color(161, 100), color(156, 100)), ([90; 3], [90; 3]), "beyond the rim");
    }

    #[test]
    fn a_heat_map_is_brightest_at_the_largest_value() {
        let luma = |i: u8| brightness(Rgb(heat_color(f32::from(i) / 20.0).map(|c| c as u8)));
        let scale: Vec<f32> = (0..=20).map(luma).collect();
        assert!(scale.windows(2).all(|pair| pair[0] < pair[1]), "{scale:?}");

        let map = SimilarityMap::new([3, 3], vec![0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]);
        let heated = heat(&RgbImage::from_pixel(96, 96, Rgb([100; 3])), &map);
        let brightest = heated
            .enumerate_pixels()
            .max_by(|a, b| brightness(*a.2).total_cmp(&brightness(*b.2)))
            .map(|(x, y, _)| (x / 32, y / 32));
        assert_eq!(brightest, Some((2, 1)));
    }

    #[test]
    fn panels_stand_side_by_side_and_rows_below_each_other() {
        let panel = |value| RgbImage::from_pixel(4, 4, Rgb([value; 3]));
        let sheet = stack(&[vec![panel(1), panel(2)], vec![panel(3)]]);
        assert_eq!(sheet.dimensions(), (2 * (4 + GAP) + GAP, 2 * (4 + GAP) + GAP));
        let at = |x, y| sheet.get_pixel(x, y).0[0];
        assert_eq!([at(GAP, GAP), at(2 * GAP + 4, GAP), at(GAP, 2 * GAP + 4)], [1, 2, 3]);
        assert_eq!([at(0, 0), at(2 * GAP + 4, 2 * GAP + 4)], [255, 255]);
    }
}
