//! The records of an instances file, read leniently: few of its fields are needed, and exporters write those in many ways.
//!
//! `S` is what becomes of `segmentation`: [`NoMasks`] passes over it, [`Masks`] reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scrl_core::data::DataError;
use scrl_core::structures::Size;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::data::text;
use crate::mask::{Segmentation, SegmentationField};

/// What is read of a `segmentation`.
pub(crate) trait MaskField: DeserializeOwned + Default {
    /// The mask in an image of this size.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn read(self, size: Size) -> Result<Option<Segmentation>, String>;
}

/// Masks are passed over, whatever the file has in their place.
pub(crate) type NoMasks = IgnoredAny;

/// Masks are read.
pub(crate) type Masks = Option<SegmentationField>;

impl MaskField for NoMasks {
    fn read(self, _: Size) -> Result<Option<Segmentation>, String> {
        Ok(None)
    }
}

impl MaskField for Masks {
    fn read(self, size: Size) -> Result<Option<Segmentation>, String> {
        self.map_or(Ok(None), |mask| mask.read(size))
    }
}

/// What is needed of an instances file; everything else in it may be anything.
#[derive(Deserialize)]
#[serde(bound = "S: MaskField")]
pub(crate) struct Instances<S> {
    pub images: Vec<ImageRecord>,
    pub annotations: Vec<AnnotationRecord<S>>,
    pub categories: Vec<CategoryRecord>,
}

#[derive(Deserialize)]
pub(crate) struct ImageRecord {
    #[serde(deserialize_with = "whole")]
    pub id: u64,
    pub file_name: Option<String>,
    /// Pixels; none where the file says nothing.
    pub width: Option<f64>,
    pub height: Option<f64>,
}

#[derive(Deserialize)]
#[serde(bound = "S: MaskField")]
pub(crate) struct AnnotationRecord<S> {
    #[serde(deserialize_with = "whole")]
    pub image_id: u64,
    #[serde(deserialize_with = "whole")]
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels; none where the file has no four numbers.
    #[serde(default, deserialize_with = "four_numbers")]
    pub bbox: Option<[f64; 4]>,
    pub area: Option<f64>,
    pub iscrowd: Option<Flag>,
    #[serde(default)]
    pub segmentation: S,
    #[serde(default)]
    id: Value,
}

impl<S> AnnotationRecord<S> {
    /// Square pixels: what the file says, else the box's.
    pub fn area(&self) -> Option<f64> {
        self.area.or(self.bbox.map(|[_, _, width, height]| width * height))
    }

    /// Whether it is a box around a group.
    pub fn is_crowd(&self) -> bool {
        self.iscrowd.as_ref().is_some_and(Flag::is_set)
    }

    /// Its id as the file has it; `null` where it has none.
    pub fn id(&self) -> &Value {
        &self.id
    }
}

#[derive(Deserialize)]
pub(crate) struct CategoryRecord {
    #[serde(deserialize_with = "whole")]
    pub id: u64,
    #[serde(default, deserialize_with = "text_or_empty")]
    pub name: String,
}

/// COCO writes 0 and 1; other tools write false and true.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected 0, 1, false or true")]
pub(crate) enum Flag {
    Number(f64),
    Bool(bool),
}

impl Flag {
    fn is_set(&self) -> bool {
        match self {
            Self::Number(value) => *value != 0.0,
            Self::Bool(value) => *value,
        }
    }
}

/// A whole number as exporters write it: `7`, `7.0` or `"7"`.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u64),
        Float(f64),
        Text(String),
        Other(serde::de::IgnoredAny),
    }
    let refused =
        |found: String| serde::de::Error::custom(format!("{found}; expected a whole number of 0 or more"));
    match Number::deserialize(deserializer)? {
        Number::Whole(value) => Ok(value),
        Number::Float(value) if value >= 0.0 && value.fract() == 0.0 && value < 2f64.powi(53) => {
            Ok(value as u64)
        }
        Number::Float(value) => Err(refused(format!("it is {value}"))),
        Number::Text(text) => text.trim().parse().map_err(|_| refused(format!("it is `{text}`"))),
        Number::Other(_) => Err(refused("it is not a number".into())),
    }
}

/// Text, or nothing where the file has `null`.
fn text_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Four finite numbers, or none for anything else.
fn four_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 4]>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let numbers: Vec<f64> = value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    Ok(numbers.try_into().ok().filter(|numbers: &[f64; 4]| numbers.iter().all(|value| value.is_finite())))
}

/// Reads what is needed of an instances file, and what is wrong with records that cannot be read.
///
/// # Errors
/// When the file cannot be read or does not hold instances.
pub(crate) fn read<S: MaskField>(path: &Path) -> Result<(Instances<S>, Vec<String>), DataError> {
    let text = text::read(path)?;
    let (mut instances, faults) = match serde_json::from_str(&text) {
        Ok(instances) => (instances, Vec::new()),
        Err(_) => one_by_one(&text).map_err(|reason| DataError::invalid(path, reason))?,
    };
    tell_apart(&mut instances.categories, path);
    Ok((instances, faults))
}

/// As [`read`], of a file without any fault.
///
/// # Errors
/// As [`read`], and when a record cannot be read.
pub(crate) fn read_all<S: MaskField>(path: &Path) -> Result<Instances<S>, DataError> {
    let (instances, faults) = read(path)?;
    refuse(&faults, path).map(|()| instances)
}

/// The first of the faults as an error.
pub(super) fn refuse(faults: &[String], path: &Path) -> Result<(), DataError> {
    match faults {
        [] => Ok(()),
        [only] => Err(DataError::invalid(path, only)),
        [first, others @ ..] => Err(DataError::invalid(
            path,
            format!("{first}; and {} more faults, which `scrl inspect dataset` lists", others.len()),
        )),
    }
}

/// The slow way through a file with faults, which finds all of them.
fn one_by_one<S: MaskField>(text: &str) -> Result<(Instances<S>, Vec<String>), String> {
    const EXPECTED: &str = "expected COCO instances: an object with `images`, `annotations` and `categories`";
    let mut file = match text::parse_json(text).map_err(|reason| format!("{reason}; {EXPECTED}"))? {
        Value::Object(file) => file,
        Value::Array(_) => return Err(format!("it is a list, as results are; {EXPECTED}")),
        _ => return Err(EXPECTED.to_string()),
    };
    let mut list = |key: &str| match file.remove(key) {
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(format!("its `{key}` is not a list; {EXPECTED}")),
        None => Err(format!("it has no `{key}`; {EXPECTED}")),
    };
    let (images, annotations, categories) = (list("images")?, list("annotations")?, list("categories")?);
    let mut faults = Vec::new();
    let instances = Instances {
        images: text::elements(images, "image", &mut faults),
        annotations: text::elements(annotations, "annotation", &mut faults),
        categories: text::elements(categories, "category", &mut faults),
    };
    Ok((instances, faults))
}

/// Trims names, names what has none after its id, and adds the id to names that several categories have.
fn tell_apart(categories: &mut [CategoryRecord], path: &Path) {
    for category in categories.iter_mut() {
        category.name = match category.name.trim() {
            "" => format!("category {}", category.id),
            name => name.to_string(),
        };
    }
    let mut ids = BTreeMap::<String, BTreeSet<u64>>::new();
    for category in categories.iter() {
        ids.entry(category.name.clone()).or_default().insert(category.id);
    }
    for (name, ids) in ids.iter().filter(|(_, ids)| ids.len() > 1) {
        tracing::warn!(file = %path.display(), ?ids, "several categories have the name `{name}`; their ids are added to it");
    }
    for category in categories.iter_mut().filter(|category| ids[&category.name].len() > 1) {
        category.name = format!("{} ({})", category.name, category.id);
    }
}
