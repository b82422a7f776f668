//! VOC's annotation files.

use std::path::Path;

use crate::data::{AnnotatedObject, DetectionObject, text};
use encoding_rs::Encoding;
use scrl_core::data::error::DataError;
use scrl_core::structures::BoxXyxy;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// An annotation file; its parts in any order, so that objects need not be neighbours.
#[derive(Clone, Debug, Deserialize)]
pub struct Annotation {
    #[serde(rename = "$value", default)]
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Filename(String),
    Size(ImageSize),
    Object(Object),
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct ImageSize {
    #[serde(deserialize_with = "side")]
    width: u32,
    #[serde(deserialize_with = "side")]
    height: u32,
}

/// An object of an annotation file.
#[derive(Clone, Debug, Deserialize)]
pub struct Object {
    /// Name of its class.
    #[serde(deserialize_with = "trimmed")]
    pub name: String,
    #[serde(default)]
    difficult: String,
    bndbox: Corners,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Corners {
    #[serde(deserialize_with = "number")]
    xmin: f64,
    #[serde(deserialize_with = "number")]
    ymin: f64,
    #[serde(deserialize_with = "number")]
    xmax: f64,
    #[serde(deserialize_with = "number")]
    ymax: f64,
}

fn trimmed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.trim().to_string())
}

/// A finite number, with blanks and line breaks around it as some tools write them.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = trimmed(deserializer)?;
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| D::Error::custom(format!("`{text}` is not a number")))
}

/// A whole number of pixels, also as `64.0`.
fn side<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let value = number(deserializer)?;
    let whole = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
    whole.then_some(value as u32).ok_or_else(|| D::Error::custom(format!("a side of {value} pixels")))
}

/// The encoding that an XML declaration names, as in `<?xml version="1.0" encoding="gb2312"?>`.
fn declared_encoding(bytes: &[u8]) -> Option<&'static Encoding> {
    let declaration = bytes.strip_prefix(b"<?xml")?;
    let declaration = &declaration[..declaration.windows(2).position(|pair| pair == b"?>")?];
    let (_, value) = std::str::from_utf8(declaration).ok()?.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| "\"'".contains(*c))?;
    Encoding::for_label(value[1..].split(quote).next()?.as_bytes())
}

impl Annotation {
    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read or is no annotation.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(|e| DataError::read(path, e))?;
        let invalid =
            |reason: String| DataError::invalid(path, format!("it is not a VOC annotation: {reason}"));
        let text = text::decode(&bytes, declared_encoding(&bytes)).map_err(invalid)?;
        quick_xml::de::from_str(&text).map_err(|e| invalid(e.to_string()))
    }

    /// The objects in the order of the file.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.parts.iter().filter_map(|part| if let Part::Object(object) = part { Some(object) } else { None })
    }

    /// Width and height in pixels, where the file states both.
    pub fn size(&self) -> Option<(u32, u32)> {
        let size = |part: &Part| if let Part::Size(size) = part { Some(*size) } else { None };
        let size = self.parts.iter().find_map(size)?;
        (size.width > 0 && size.height > 0).then_some((size.width, size.height))
    }

    /// The name that the file gives its image.
    pub fn file_name(&self) -> Option<&str> {
        self.parts
            .iter()
            .find_map(|part| if let Part::Filename(name) = part { Some(name.as_str()) } else { None })
    }
}

impl Object {
    /// Whether VOC's evaluation ignores it.
    pub fn is_difficult(&self) -> bool {
        matches!(self.difficult.trim(), "1" | "true")
    }

    /// `xmin, ymin, xmax, ymax` as the file has them: pixels counted from 1, the last ones included; a few of VOC's are
    /// fractions.
    pub fn inclusive(&self) -> [f64; 4] {
        let Corners { xmin, ymin, xmax, ymax } = self.bndbox;
        [xmin, ymin, xmax, ymax]
    }

    /// The object as the file has it; `None` for a class that is not among `classes`.
    pub fn annotated(&self, classes: &[String]) -> Option<AnnotatedObject> {
        let [xmin, ymin, xmax, ymax] = self.inclusive();
        let category = classes.iter().position(|class| *class == self.name)?;
        let bbox = [xmin - 1.0, ymin - 1.0, xmax - xmin + 1.0, ymax - ymin + 1.0];
        let area = bbox[2] * bbox[3];
        Some(AnnotatedObject {
            bbox,
            category,
            crowd: false,
            difficult: self.is_difficult(),
            area,
            mask: None,
        })
    }

    /// The object in an image of `width × height` pixels; `None` for a box without area in its file or inside the image,
    /// and for a class that is not among `classes`.
    pub fn to_detection(&self, width: u32, height: u32, classes: &[String]) -> Option<DetectionObject> {
        let [xmin, ymin, xmax, ymax] = self.inclusive().map(|v| v as f32);
        if xmax <= xmin || ymax <= ymin {
            return None;
        }
        let bbox = BoxXyxy::new(xmin - 1.0, ymin - 1.0, xmax, ymax).clip(width as f32, height as f32);
        let category = classes.iter().position(|class| *class == self.name)?;
        let object = DetectionObject {
            bbox,
            category,
            crowd: false,
            difficult: self.is_difficult(),
            area: bbox.area(),
            mask: None,
        };
        (bbox.area() > 0.0).then_some(object)
    }
}
