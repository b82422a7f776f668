//! What the image files hold.

use std::collections::BTreeMap;

use rayon::prelude::*;
use scrl_core::structures::Size;
use scrl_core::transforms::{RgbImage, decode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::splits::{Entry, Split};

/// What decoding a file showed.
pub enum FileFacts {
    /// It can be read; two files of the same pixels have the same digest, however they are compressed.
    Image { size: Size, digest: [u8; 32] },
    /// It is not there.
    Missing,
    /// It is there and cannot be decoded.
    Broken(String),
}

/// Decodes every image of a split.
pub fn examine(split: &Split) -> Vec<FileFacts> {
    split.images.par_iter().map(facts).collect()
}

fn facts(entry: &Entry) -> FileFacts {
    if !entry.path.is_file() {
        return FileFacts::Missing;
    }
    match decode::decode(&entry.path) {
        Ok(image) => FileFacts::Image {
            size: Size { width: image.width(), height: image.height() },
            digest: digest(&image),
        },
        Err(error) => FileFacts::Broken(error.to_string()),
    }
}

fn digest(image: &RgbImage) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(image.width().to_le_bytes());
    hash.update(image.as_raw());
    hash.finalize().into()
}

/// Images of the same pixels, in one split or in several.
#[derive(Debug, Serialize)]
pub struct Duplicate {
    /// Whether they are in more than one split: what is trained on is then judged on too.
    pub across_splits: bool,
    /// As `split: file`.
    pub images: Vec<String>,
}

/// All groups of images of the same pixels, those across splits first.
pub fn duplicates(splits: &[Split], facts: &[Vec<FileFacts>]) -> Vec<Duplicate> {
    let mut groups: BTreeMap<&[u8; 32], Vec<(&str, &str)>> = BTreeMap::new();
    for (split, facts) in splits.iter().zip(facts) {
        for (entry, facts) in split.images.iter().zip(facts) {
            if let FileFacts::Image { digest, .. } = facts {
                groups.entry(digest).or_default().push((&split.name, &entry.name));
            }
        }
    }
    let repeated = groups.into_values().filter(|group| group.len() > 1);
    let mut found: Vec<Duplicate> = repeated
        .map(|group| Duplicate {
            across_splits: group.iter().any(|(split, _)| *split != group[0].0),
            images: group.into_iter().map(|(split, name)| format!("{split}: {name}")).collect(),
        })
        .collect();
    found.sort_by(|a, b| b.across_splits.cmp(&a.across_splits).then_with(|| a.images.cmp(&b.images)));
    found
}
