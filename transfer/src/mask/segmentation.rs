//! What annotations say of an object's mask.

use std::fmt;

use hotcoco::Segmentation as Wire;
use scrl_core::structures::Size;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Rle;

/// A polygon has this many numbers at least.
const TRIANGLE: usize = 6;

/// The mask of an object in an annotation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Segmentation {
    /// Outlines of its parts, each a list `x, y, x, y, …` in pixels of the image.
    Polygons(Vec<Vec<f64>>),
    /// Run lengths.
    Rle(Rle),
}

/// A `segmentation` as files have it, whatever stands there.
#[derive(Clone, Debug)]
pub(crate) enum SegmentationField {
    Polygons(Vec<Vec<f64>>),
    Rle(RleRecord),
    /// Something else.
    Odd,
}

/// Run lengths as files have them.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RleRecord {
    #[serde(default)]
    size: Value,
    #[serde(default)]
    counts: Value,
}

impl<'de> Deserialize<'de> for SegmentationField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

/// Reads without going through a [`Value`], since most of a large file is polygons.
struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = SegmentationField;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("polygons or run lengths")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut polygons, mut numbers, mut odd) = (Vec::new(), Vec::new(), false);
        while let Some(element) = list.next_element()? {
            match element {
                Element::Polygon(polygon) => polygons.push(polygon),
                Element::Number(number) => numbers.push(number),
                Element::Odd => odd = true,
            }
        }
        Ok(match (polygons.is_empty(), numbers.is_empty(), odd) {
            (_, true, false) => SegmentationField::Polygons(polygons),
            // Some tools write a single polygon without the list around it.
            (true, false, false) => SegmentationField::Polygons(vec![numbers]),
            _ => SegmentationField::Odd,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        RleRecord::deserialize(MapAccessDeserializer::new(map)).map(SegmentationField::Rle)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(SegmentationField::Polygons(Vec::new()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(SegmentationField::Odd)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(SegmentationField::Odd)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(SegmentationField::Odd)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(SegmentationField::Odd)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(SegmentationField::Odd)
    }
}

/// An element of a list in the place of polygons.
enum Element {
    Polygon(Vec<f64>),
    Number(f64),
    Odd,
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a polygon")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let mut polygon = Vec::with_capacity(list.size_hint().unwrap_or(32));
        let mut odd = false;
        while let Some(element) = list.next_element()? {
            match element {
                Element::Number(number) => polygon.push(number),
                // Some tools write points as lists of their own.
                Element::Polygon(point) if point.len() == 2 => polygon.extend(point),
                Element::Polygon(_) | Element::Odd => odd = true,
            }
        }
        polygon.shrink_to_fit();
        Ok(if odd { Element::Odd } else { Element::Polygon(polygon) })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Element, E> {
        Ok(Element::Number(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Element, E> {
        Ok(Element::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Element, E> {
        Ok(Element::Number(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Element, E> {
        Ok(Element::Odd)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Element, E> {
        Ok(Element::Odd)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Element, E> {
        Ok(Element::Odd)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Element::Odd)
    }
}

impl SegmentationField {
    /// The mask in an image of this size; none where the list of polygons is empty.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(self, size: Size) -> Result<Option<Segmentation>, String> {
        let mask = self.read_alone()?;
        mask.as_ref().map_or(Ok(()), |mask| mask.check_size(size))?;
        Ok(mask)
    }

    /// As [`read`](Self::read), for an image of any size.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_alone(self) -> Result<Option<Segmentation>, String> {
        match self {
            Self::Polygons(polygons) if polygons.is_empty() => Ok(None),
            Self::Polygons(polygons) => self::polygons(polygons).map(Some),
            Self::Rle(record) => record.read().map(|rle| Some(Segmentation::Rle(rle))),
            Self::Odd => Err("its `segmentation` is neither a list of polygons nor run lengths".into()),
        }
    }
}

impl RleRecord {
    fn read(self) -> Result<Rle, String> {
        let size = self.size.as_array().and_then(|size| match size.as_slice() {
            [height, width] => Some([height.as_u64()?, width.as_u64()?]),
            _ => None,
        });
        let sides = size.map(|size| size.map(u32::try_from));
        let Some([Ok(height), Ok(width)]) = sides else {
            return Err("its run lengths have no `size` of height and width".into());
        };
        let size = Size { width, height };
        match self.counts {
            Value::String(text) => Rle::from_compressed(&text, size),
            Value::Array(runs) => {
                let run = |run: &Value| run.as_u64().and_then(|run| u32::try_from(run).ok());
                let runs: Option<Vec<u32>> = runs.iter().map(run).collect();
                Rle::from_runs(runs.ok_or("its run lengths are not whole numbers")?, size)
            }
            _ => Err("its run lengths have no `counts`".into()),
        }
    }
}

/// The parts that are polygons; parts of fewer points are left out as long as one is left.
fn polygons(mut parts: Vec<Vec<f64>>) -> Result<Segmentation, String> {
    if let Some(part) = parts.iter().find(|part| part.len() % 2 == 1) {
        return Err(format!("a polygon has {} numbers, half a point too many", part.len()));
    }
    if parts.iter().flatten().any(|value| !value.is_finite()) {
        return Err("a polygon has a number that is not finite".into());
    }
    parts.retain(|part| part.len() >= TRIANGLE);
    match parts.is_empty() {
        true => Err("its polygons have fewer than three points".into()),
        false => Ok(Segmentation::Polygons(parts)),
    }
}

impl Segmentation {
    /// Refuses run lengths of another image's size, and images with too many pixels for a mask.
    ///
    /// # Errors
    /// Says the sizes.
    pub fn check_size(&self, image: Size) -> Result<(), String> {
        if u64::from(image.width) * u64::from(image.height) > u64::from(u32::MAX) {
            return Err(format!(
                "an image of {}×{} pixels has too many for a mask",
                image.width, image.height
            ));
        }
        match self {
            Self::Rle(rle) if rle.size() != image => {
                let Size { width, height } = rle.size();
                let of_image = format!("the image has {}×{}", image.width, image.height);
                Err(format!("its mask is of {width}×{height} pixels, {of_image}"))
            }
            _ => Ok(()),
        }
    }

    /// The smallest box around it, `x, y, width, height` in pixels; zeros for an empty one.
    pub fn bbox(&self) -> [f64; 4] {
        match self {
            Self::Rle(rle) => rle.bbox(),
            Self::Polygons(polygons) => {
                let points = || polygons.iter().flat_map(|polygon| polygon.as_chunks::<2>().0);
                let bound = |axis: usize, better: fn(f64, f64) -> f64| {
                    points().map(|point| point[axis]).reduce(better).unwrap_or_default()
                };
                let (left, top) = (bound(0, f64::min), bound(1, f64::min));
                [left, top, bound(0, f64::max) - left, bound(1, f64::max) - top]
            }
        }
    }

    /// As hotcoco has it.
    pub(crate) fn to_wire(&self) -> Wire {
        match self {
            Self::Polygons(polygons) => Wire::Polygon(polygons.clone()),
            Self::Rle(rle) => rle.to_wire(),
        }
    }

    /// The mask in an image of this size, which is that of the annotation.
    pub fn to_rle(&self, size: Size) -> Rle {
        match self {
            Self::Polygons(polygons) => Rle::from_polygons(polygons, size),
            Self::Rle(rle) => rle.clone(),
        }
    }
}
