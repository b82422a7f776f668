//! Run lengths.

use hotcoco::mask;
use scrl_core::structures::Size;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A mask of a whole image as run lengths, column by column from the left: pixels outside, pixels inside, outside, …
#[derive(Clone, Debug, PartialEq)]
pub struct Rle(hotcoco::Rle);

impl Rle {
    /// From pixels row by row.
    ///
    /// # Panics
    /// When there are not as many pixels as the size says, or more than 2³² of them.
    pub fn from_bitmap(pixels: &[bool], size: Size) -> Self {
        let (width, height) = (size.width as usize, size.height as usize);
        assert_eq!(pixels.len(), width * height, "a mask has a value for each pixel");
        let mut columns = vec![0; pixels.len()];
        for (y, row) in pixels.chunks_exact(width.max(1)).enumerate() {
            for (x, &inside) in row.iter().enumerate() {
                columns[x * height + y] = u8::from(inside);
            }
        }
        Self(mask::encode(&columns, size.height, size.width).expect("fewer than 2³² pixels"))
    }

    /// From COCO's compressed text.
    ///
    /// # Errors
    /// When the text is damaged or says more pixels than the image has.
    pub fn from_compressed(text: &str, size: Size) -> Result<Self, String> {
        let rle =
            mask::rle_from_string(text, size.height, size.width).map_err(|reason| reason.to_string())?;
        Self::from_runs(rle.counts, size)
    }

    /// From COCO's list of runs; pixels that it leaves out at the end are outside.
    ///
    /// # Errors
    /// When it says more pixels than the image has.
    pub fn from_runs(mut runs: Vec<u32>, size: Size) -> Result<Self, String> {
        let (w, h) = (size.width, size.height);
        mask::check_counts(&runs, h, w).map_err(|reason| reason.to_string())?;
        let pixels = u64::from(w) * u64::from(h);
        let missing = pixels - runs.iter().map(|&run| u64::from(run)).sum::<u64>();
        let missing =
            u32::try_from(missing).map_err(|_| format!("an image of {w}×{h} pixels is too large"))?;
        if missing > 0 {
            match runs.len() % 2 {
                0 => runs.push(missing),
                _ => runs.last_mut().into_iter().for_each(|last| *last += missing),
            }
        }
        Ok(Self(hotcoco::Rle { h, w, counts: runs }))
    }

    /// The union of polygons, each a list `x, y, x, y, …` in pixels, as pycocotools draws them.
    ///
    /// # Panics
    /// When the image has more than 2³² pixels.
    pub fn from_polygons(polygons: &[Vec<f64>], size: Size) -> Self {
        Self(mask::fr_polys(polygons, size.height, size.width).expect("fewer than 2³² pixels"))
    }

    /// Of the image.
    pub fn size(&self) -> Size {
        Size { width: self.0.w, height: self.0.h }
    }

    /// Pixels inside.
    pub fn area(&self) -> u64 {
        mask::area(&self.0)
    }

    /// The smallest box around it, `x, y, width, height` in pixels; zeros for an empty one.
    pub fn bbox(&self) -> [f64; 4] {
        mask::to_bbox(&self.0)
    }

    /// Pixels row by row.
    pub fn to_bitmap(&self) -> Vec<bool> {
        let (width, height) = (self.0.w as usize, self.0.h as usize);
        let mut pixels = vec![false; width * height];
        let mut place = 0;
        for (run, &length) in self.0.counts.iter().enumerate() {
            let end = place + length as usize;
            if run % 2 == 1 {
                (place..end).for_each(|place| pixels[place % height * width + place / height] = true);
            }
            place = end;
        }
        pixels
    }

    /// As hotcoco has it.
    pub(crate) fn to_wire(&self) -> hotcoco::Segmentation {
        hotcoco::Segmentation::CompressedRle { size: [self.0.h, self.0.w], counts: self.compressed() }
    }

    /// COCO's compressed text.
    pub fn compressed(&self) -> String {
        mask::rle_to_string(&self.0)
    }
}

/// As COCO's results have it: `{"size": [height, width], "counts": "…"}`.
impl Serialize for Rle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Rle", 2)?;
        fields.serialize_field("size", &[self.0.h, self.0.w])?;
        fields.serialize_field("counts", &self.compressed())?;
        fields.end()
    }
}
