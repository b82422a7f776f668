//! Short texts on pictures, in capitals of 5×7 points.

use scrl_core::draw::{Rgb, brightness, fill};
use scrl_core::transforms::RgbImage;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Rows of each glyph from the top, five bits each, the leftmost highest. The last stands for all that is not here.
const GLYPHS: [(char, [u8; 7]); 51] = [
    ('A', [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001]),
    ('B', [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110]),
    ('C', [0b01111, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b01111]),
    ('D', [0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110]),
    ('E', [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111]),
    ('F', [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000]),
    ('G', [0b01111, 0b10000, 0b10000, 0b10011, 0b10001, 0b10001, 0b01111]),
    ('H', [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001]),
    ('I', [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110]),
    ('J', [0b00111, 0b00010, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100]),
    ('K', [0b10001, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b10001]),
    ('L', [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111]),
    ('M', [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001]),
    ('N', [0b10001, 0b11001, 0b11001, 0b10101, 0b10011, 0b10011, 0b10001]),
    ('O', [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110]),
    ('P', [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000]),
    ('Q', [0b01110, 0b10001, 0b10001, 0b10001, 0b10101, 0b10010, 0b01101]),
    ('R', [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001]),
    ('S', [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110]),
    ('T', [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100]),
    ('U', [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110]),
    ('V', [0b10001, 0b10001, 0b10001, 0b10001, 0b01010, 0b01010, 0b00100]),
    ('W', [0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001]),
    ('X', [0b10001, 0b01010, 0b01010, 0b00100, 0b01010, 0b01010, 0b10001]),
    ('Y', [0b10001, 0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b00100]),
    ('Z', [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b11111]),
    ('0', [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110]),
    ('1', [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110]),
    ('2', [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111]),
    ('3', [0b11110, 0b00001, 0b00001, 0b01110, 0b00001, 0b00001, 0b11110]),
    ('4', [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010]),
    ('5', [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110]),
    ('6', [0b01110, 0b10000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110]),
    ('7', [0b11111, 0b00001, 0b00010, 0b00010, 0b00100, 0b00100, 0b00100]),
    ('8', [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110]),
    ('9', [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00001, 0b01110]),
    (' ', [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000]),
    ('%', [0b11001, 0b11001, 0b00010, 0b00100, 0b01000, 0b10011, 0b10011]),
    ('.', [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100]),
    (',', [0b00000, 0b00000, 0b00000, 0b00000, 0b00100, 0b00100, 0b01000]),
    ('-', [0b00000, 0b00000, 0b00000, 0b01110, 0b00000, 0b00000, 0b00000]),
    ('_', [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b11111]),
    ('/', [0b00001, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b10000]),
    (':', [0b00000, 0b00100, 0b00100, 0b00000, 0b00100, 0b00100, 0b00000]),
    ('(', [0b00010, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00010]),
    (')', [0b01000, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01000]),
    ('+', [0b00000, 0b00100, 0b00100, 0b11111, 0b00100, 0b00100, 0b00000]),
    ('&', [0b01100, 0b10010, 0b10100, 0b01000, 0b10101, 0b10010, 0b01101]),
    ('\'', [0b00100, 0b00100, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000]),
    ('#', [0b01010, 0b01010, 0b11111, 0b01010, 0b11111, 0b01010, 0b01010]),
    ('?', [0b01110, 0b10001, 0b00001, 0b00110, 0b00100, 0b00000, 0b00100]),
];

/// Points from one character to the next.
const ADVANCE: u32 = 6;

/// Points from a plate's top to its bottom.
const HEIGHT: u32 = 9;

/// Width and height of the plate of a text, in pixels, with points of `scale` pixels.
pub fn plate_size(text: &str, scale: u32) -> [u32; 2] {
    [(ADVANCE * text.chars().count() as u32 + 1) * scale, HEIGHT * scale]
}

/// Writes a text on a plate of `color` with its top-left corner at `(x, y)`, in black, or in white where the plate is dark.
///
/// Letters become capitals; accents and other alphabets become question marks, see [`class_label`].
pub fn draw_text(image: &mut RgbImage, text: &str, [x, y]: [u32; 2], color: Rgb<u8>, scale: u32) {
    let [width, height] = plate_size(text, scale);
    fill(image, [x, y, x + width, y + height], color);
    let ink = if brightness(color) < 110.0 { Rgb([255; 3]) } else { Rgb([0; 3]) };
    for (position, character) in text.chars().enumerate() {
        for (row, bits) in glyph(character).iter().enumerate() {
            for column in (0..5).filter(|column| bits & (0b10000 >> column) != 0) {
                let left = x + (ADVANCE * position as u32 + 1 + column) * scale;
                let top = y + (row as u32 + 1) * scale;
                fill(image, [left, top, left + scale, top + scale], ink);
            }
        }
    }
}

/// What is written for a class: its name without accents or, where that has characters that cannot be drawn, its number
/// from 1, as `#3`. [`legend`] says what the numbers mean.
pub fn class_label(class: usize, name: &str) -> String {
    drawable(name).unwrap_or_else(|| format!("#{}", class + 1))
}

/// A line `#3 NAME` for each class that [`class_label`] gives a number; `None` where there is no such class.
pub fn legend<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let numbered = names.into_iter().enumerate().filter(|(_, name)| drawable(name).is_none());
    let lines: Vec<String> = numbered.map(|(class, name)| format!("#{} {name}\n", class + 1)).collect();
    (!lines.is_empty()).then(|| lines.concat())
}

/// The text without accents, if every character has a glyph.
fn drawable(text: &str) -> Option<String> {
    let plain: String = text.nfd().filter(|character| !is_combining_mark(*character)).collect();
    let known = |character: char| GLYPHS.iter().any(|(known, _)| *known == character.to_ascii_uppercase());
    plain.chars().all(known).then_some(plain)
}

fn glyph(character: char) -> &'static [u8; 7] {
    let capital = character.to_ascii_uppercase();
    let found = GLYPHS.iter().find(|(known, _)| *known == capital).or(GLYPHS.last());
    &found.expect("the table has a last glyph").1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ink of a text on a white plate, row by row.
    fn rows(text: &str) -> Vec<String> {
        let [width, height] = plate_size(text, 1);
        let mut image = RgbImage::new(width, height);
        draw_text(&mut image, text, [0, 0], Rgb([255; 3]), 1);
        let point = |x, y| if image.get_pixel(x, y).0 == [0; 3] { '#' } else { '.' };
        (0..height).map(|y| (0..width).map(|x| point(x, y)).collect()).collect()
    }

    #[test]
    fn letters_are_written_as_capitals() {
        assert_eq!(
            rows("dT"),
            [
                ".............",
                ".####..#####.",
                ".#...#...#...",
                ".#...#...#...",
                ".#...#...#...",
                ".#...#...#...",
                ".#...#...#...",
                ".####....#...",
                ".............",
            ]
        );
    }

    #[test]
    fn classes_are_told_apart_whatever_their_alphabet() {
        assert_eq!(class_label(0, "Zürich café"), "Zurich cafe");
        assert_eq!((class_label(1, "猫"), class_label(2, "犬")), ("#2".into(), "#3".into()));
        assert_eq!(rows(&class_label(1, "猫")), rows("#2"));
        assert_eq!(legend(["cat", "猫", "é", "犬"]).unwrap(), "#2 猫\n#4 犬\n");
        assert_eq!(legend(["cat", "é"]), None);
    }

    #[test]
    fn every_character_has_a_glyph_of_its_own_and_unknown_ones_are_question_marks() {
        let drawn: std::collections::HashSet<[u8; 7]> = GLYPHS.iter().map(|(_, rows)| *rows).collect();
        assert_eq!(drawn.len(), GLYPHS.len());
        assert_eq!(rows("é漢"), rows("??"));
    }
}
