//! Damage to a file.

use bolero::TypeGenerator;

/// Which seed is damaged, and how.
#[derive(Debug, TypeGenerator)]
pub struct Damage {
    seed: u16,
    edits: [Option<Edit>; 4],
}

/// One change; places are taken modulo the file's length.
#[derive(Debug, TypeGenerator)]
enum Edit {
    Flip {
        at: u32,
        bit: u8,
    },
    Set {
        at: u32,
        value: u8,
    },
    /// Numbers in headers of binary files: little or big endian, near a limit.
    Number {
        at: u32,
        value: Extreme,
        big_endian: bool,
        bytes: u8,
    },
    Remove {
        at: u32,
        count: u8,
    },
    Repeat {
        at: u32,
        count: u8,
        times: u8,
    },
    Move {
        from: u32,
        to: u32,
        count: u16,
    },
    Word {
        at: u32,
        word: u8,
    },
    /// Replaces the whole number or string at a place of a text.
    Token {
        at: u32,
        word: u8,
    },
    Truncate {
        at: u32,
    },
}

/// A number that lengths and counts fail at.
#[derive(Debug, TypeGenerator)]
enum Extreme {
    Zero,
    One,
    Ones,
    Half,
    Any(u64),
}

/// What stands in texts where something else is expected.
const WORDS: [&str; 32] = [
    "null",
    "true",
    "NaN",
    "Infinity",
    "-1",
    "0",
    "1e999",
    "-1e999",
    "18446744073709551616",
    "9007199254740993",
    "4294967296",
    "1.5",
    "\"\"",
    "\"9\"",
    "[]",
    "{}",
    "[[",
    "{{",
    "]",
    "}",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\u{feff}",
    "\n",
    "<",
    "</object>",
    "<bndbox>",
    "nan",
    "inf",
    "= [1, 2",
];

impl Damage {
    /// The damaged file.
    pub fn apply(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[usize::from(self.seed) % seeds.len()].clone();
        for edit in self.edits.iter().flatten() {
            if !bytes.is_empty() {
                edit.apply(&mut bytes);
            }
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let place = |at: u32| at as usize % length;
        match self {
            Self::Flip { at, bit } => bytes[place(*at)] ^= 1 << (bit % 8),
            Self::Set { at, value } => bytes[place(*at)] = *value,
            Self::Number { at, value, big_endian, bytes: width } => {
                let value = match value {
                    Extreme::Zero => 0,
                    Extreme::One => 1,
                    Extreme::Ones => u64::MAX,
                    Extreme::Half => 1 << 31,
                    Extreme::Any(value) => *value,
                };
                let width = [1, 2, 4, 8][usize::from(width % 4)];
                let little = value.to_le_bytes();
                let digits = little[..width].iter().copied();
                let digits: Vec<u8> = if *big_endian { digits.rev().collect() } else { digits.collect() };
                bytes[place(*at)..].iter_mut().zip(digits).for_each(|(byte, digit)| *byte = digit);
            }
            Self::Remove { at, count } => {
                let start = place(*at);
                bytes.drain(start..(start + usize::from(*count)).min(length));
            }
            Self::Repeat { at, count, times } => {
                let start = place(*at);
                let part =
                    bytes[start..(start + usize::from(*count)).min(length)].repeat(usize::from(*times % 16));
                bytes.splice(start..start, part);
            }
            Self::Move { from, to, count } => {
                let (start, to) = (place(*from), place(*to));
                let part = bytes[start..(start + usize::from(*count)).min(length)].to_vec();
                bytes.splice(to..to, part);
            }
            Self::Word { at, word } => {
                let start = place(*at);
                bytes.splice(start..start, WORDS[usize::from(*word) % WORDS.len()].bytes());
            }
            Self::Token { at, word } => {
                let is_end = |byte: &u8| b",:{}[]<>=\n \"".contains(byte);
                let middle = place(*at);
                let start = bytes[..middle].iter().rposition(is_end).map_or(0, |end| end + 1);
                let end = bytes[middle..].iter().position(is_end).map_or(length, |end| middle + end);
                bytes.splice(start..end.max(start), WORDS[usize::from(*word) % WORDS.len()].bytes());
            }
            Self::Truncate { at } => bytes.truncate(place(*at)),
        }
    }
}
