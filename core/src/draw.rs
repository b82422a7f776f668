//! Drawing on images: colours that differ, boxes, small digits.
//!
//! Coordinates are pixels of the image; what lies beyond it is cut off.

pub use image::Rgb;

use crate::structures::BoxXyxy;
use crate::transforms::RgbImage;

/// A colour that differs well from those of the neighbouring indices: hues in steps of the golden ratio.
pub fn distinct_color(index: usize) -> Rgb<u8> {
    let hue = (index as f32 * 0.618_034 + 0.02).fract() * 6.0;
    let channel = |offset: f32| {
        let k = (offset + hue).rem_euclid(6.0);
        (255.0 * (1.0 - k.min(4.0 - k).clamp(0.0, 1.0))) as u8
    };
    Rgb([channel(5.0), channel(3.0), channel(1.0)])
}

/// Draws a box's edge, `width` pixels wide and inside the box, as far as it lies in the image.
pub fn draw_box(image: &mut RgbImage, bbox: &BoxXyxy, color: Rgb<u8>, width: u32) {
    let inside = bbox.clip(image.width() as f32, image.height() as f32);
    let [x1, y1, x2, y2] = inside.to_array().map(|v| v.round() as u32);
    let edge = width.min((x2 - x1).div_ceil(2)).min((y2 - y1).div_ceil(2));
    fill(image, [x1, y1, x2, y1 + edge], color);
    fill(image, [x1, y2 - edge, x2, y2], color);
    fill(image, [x1, y1, x1 + edge, y2], color);
    fill(image, [x2 - edge, y1, x2, y2], color);
}

/// Fills the rectangle `[x1, y1, x2, y2]`, right and lower edge excluded.
pub fn fill(image: &mut RgbImage, [x1, y1, x2, y2]: [u32; 4], color: Rgb<u8>) {
    for y in y1..y2.min(image.height()) {
        for x in x1..x2.min(image.width()) {
            image.put_pixel(x, y, color);
        }
    }
}

/// Rows of 3×5 glyphs from the top, three bits each, the leftmost highest: 0 to 9 and the colon.
const GLYPHS: [[u8; 5]; 11] = [
    [0b111, 0b101, 0b101, 0b101, 0b111],
    [0b010, 0b110, 0b010, 0b010, 0b111],
    [0b111, 0b001, 0b111, 0b100, 0b111],
    [0b111, 0b001, 0b011, 0b001, 0b111],
    [0b101, 0b101, 0b111, 0b001, 0b001],
    [0b111, 0b100, 0b111, 0b001, 0b111],
    [0b111, 0b100, 0b111, 0b101, 0b111],
    [0b111, 0b001, 0b010, 0b010, 0b010],
    [0b111, 0b101, 0b111, 0b101, 0b111],
    [0b111, 0b101, 0b111, 0b001, 0b111],
    [0b000, 0b010, 0b000, 0b010, 0b000],
];

/// Writes digits and colons, 5 · `scale` pixels high, on a plate of `color` whose top-left corner is `(x, y)`: in black,
/// or in white where the plate is dark. Other characters are left out.
pub fn draw_label(image: &mut RgbImage, text: &str, x: u32, y: u32, color: Rgb<u8>, scale: u32) {
    let glyphs: Vec<&[u8; 5]> = text.chars().filter_map(glyph).collect();
    let plate = [x, y, x + (4 * glyphs.len() as u32 + 1) * scale, y + 7 * scale];
    fill(image, plate, color);
    let ink = if brightness(color) < 110.0 { Rgb([255; 3]) } else { Rgb([0; 3]) };
    for (position, rows) in glyphs.into_iter().enumerate() {
        for (row, bits) in rows.iter().enumerate() {
            for column in (0..3).filter(|column| bits & (0b100 >> column) != 0) {
                let left = x + (4 * position as u32 + 1 + column) * scale;
                let top = y + (row as u32 + 1) * scale;
                fill(image, [left, top, left + scale, top + scale], ink);
            }
        }
    }
}

/// Luma of ITU-R BT.601, 0 to 255.
pub fn brightness(color: Rgb<u8>) -> f32 {
    let [r, g, b] = color.0.map(f32::from);
    0.299 * r + 0.587 * g + 0.114 * b
}

fn glyph(character: char) -> Option<&'static [u8; 5]> {
    match character {
        ':' => GLYPHS.last(),
        digit => GLYPHS.get(digit.to_digit(10)? as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_spell_their_digits() {
        let mut image = RgbImage::new(40, 12);
        draw_label(&mut image, "1:7", 0, 0, Rgb([255; 3]), 1);
        let row = |y: u32| {
            (0..13).map(|x| if image.get_pixel(x, y).0 == [0; 3] { '#' } else { '.' }).collect::<String>()
        };
        let rows: Vec<String> = (1..6).map(row).collect();
        assert_eq!(
            rows,
            ["..#......###.", ".##...#....#.", "..#.......#..", "..#...#...#..", ".###......#.."]
        );
    }

    #[test]
    fn an_edge_lies_inside_its_box() {
        let mut image = RgbImage::new(10, 10);
        draw_box(&mut image, &BoxXyxy::new(2.0, 3.0, 8.0, 9.0), Rgb([9; 3]), 2);
        let drawn = image.enumerate_pixels().filter(|(.., pixel)| pixel.0 == [9; 3]);
        let drawn: Vec<(u32, u32)> = drawn.map(|(x, y, _)| (x, y)).collect();
        assert_eq!(drawn.len(), 6 * 6 - 2 * 2);
        assert!(drawn.iter().all(|&(x, y)| (2..8).contains(&x) && (3..9).contains(&y)));
    }

    #[test]
    fn the_first_twelve_colours_differ() {
        for a in 0..12 {
            for b in 0..a {
                let (p, q) = (distinct_color(a).0, distinct_color(b).0);
                let distance: u32 = (0..3).map(|c| u32::from(p[c].abs_diff(q[c]))).sum();
                assert!(distance >= 60, "{a} {p:?} and {b} {q:?}");
            }
        }
    }
}
