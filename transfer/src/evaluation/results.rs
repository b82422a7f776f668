//! Detections in COCO's results format: a JSON list of `{image_id, category_id, bbox: [x, y, w, h], segmentation, score}`, where boxes
//! or masks may be missing.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::data::{DetectionDataset, coco, file_names, text};
use scrl_core::data::DataError;
use scrl_core::engine::atomic;
use scrl_core::structures::{BoxXyxy, Size};
use serde::{Deserialize, Serialize};

use super::{EvaluationError, ImageDetections};
use crate::detection::Detection;
use crate::mask::{Mask, Segmentation, SegmentationField};

/// One detection as COCO writes it: the data set's own ids, box as left, top, width and height in pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ResultRecord")]
pub struct CocoResult {
    /// Id of the image in the annotation file.
    pub image_id: u64,
    /// Id of the category in the annotation file.
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels of the image; the mask's where a file has none.
    pub bbox: [f64; 4],
    /// Its mask, where the detector gives masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<Segmentation>,
    /// In `[0, 1]`; higher is more certain.
    pub score: f64,
    /// Name of the image, which some tools add.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
}

/// A result as files have it.
#[derive(Deserialize)]
struct ResultRecord {
    #[serde(deserialize_with = "coco::whole")]
    image_id: u64,
    #[serde(deserialize_with = "coco::whole")]
    category_id: u64,
    bbox: Option<[f64; 4]>,
    segmentation: Option<SegmentationField>,
    score: f64,
    file_name: Option<String>,
}

impl TryFrom<ResultRecord> for CocoResult {
    type Error = String;

    fn try_from(record: ResultRecord) -> Result<Self, String> {
        let ResultRecord { image_id, category_id, bbox, segmentation, score, file_name } = record;
        let segmentation = segmentation.map(SegmentationField::read_alone).transpose()?.flatten();
        let bbox = bbox.or_else(|| segmentation.as_ref().map(Segmentation::bbox));
        let bbox = bbox.ok_or("missing field `bbox`")?;
        Ok(Self { image_id, category_id, bbox, segmentation, score, file_name })
    }
}

/// Detections with the data set's original category ids.
///
/// # Panics
/// When a class index is not one of the data set's.
pub fn to_coco_results(dataset: &DetectionDataset, results: &[ImageDetections]) -> Vec<CocoResult> {
    let rows = results.iter().flat_map(|image| image.detections.iter().map(|found| (image.image_id, found)));
    rows.map(|(image_id, found)| CocoResult {
        image_id,
        category_id: dataset.categories[found.class].id,
        bbox: xywh(&found.bbox),
        segmentation: found.mask.as_ref().and_then(Mask::pixels).cloned().map(Segmentation::Rle),
        score: f64::from(found.score),
        file_name: None,
    })
    .collect()
}

/// The box as COCO has it; the side is computed in double precision, so that reading gives the corners back.
pub(super) fn xywh(bbox: &BoxXyxy) -> [f64; 4] {
    let [x1, y1, x2, y2] = bbox.to_array().map(f64::from);
    [x1, y1, x2 - x1, y2 - y1]
}

/// Writes a results file, in place of one that is there.
///
/// # Errors
/// When the file cannot be written.
pub fn write_results(
    path: &Path,
    dataset: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<(), EvaluationError> {
    let written = serde_json::to_vec(&to_coco_results(dataset, results)).map_err(Into::into);
    written.and_then(|text| atomic::write(path, &text)).map_err(|e| EvaluationError::io(path, e))
}

/// Reads a results file into class indices and corners, grouped by image in the order of first appearance.
///
/// Detections of categories that the data set lacks are left out, with a log line.
///
/// # Errors
/// When the file cannot be read or is not a results file.
pub fn read_results(
    path: &Path,
    dataset: &DetectionDataset,
) -> Result<Vec<ImageDetections>, EvaluationError> {
    let classes: HashMap<u64, usize> =
        dataset.categories.iter().enumerate().map(|(index, category)| (category.id, index)).collect();
    let sizes: HashMap<u64, Size> = dataset.images.iter().map(|image| (image.id, image.size())).collect();
    let mut positions: HashMap<u64, usize> = HashMap::new();
    let mut images: Vec<ImageDetections> = Vec::new();
    let mut dropped = 0;
    for (index, row) in read_rows(path)?.into_iter().enumerate() {
        let Some(&class) = classes.get(&row.category_id) else {
            dropped += 1;
            continue;
        };
        let position = *positions.entry(row.image_id).or_insert_with(|| {
            images.push(ImageDetections { image_id: row.image_id, detections: Vec::new() });
            images.len() - 1
        });
        let found = detection(row, class, &sizes).map_err(|reason| mask_error(path, index, &reason))?;
        images[position].detections.push(found);
    }
    if dropped > 0 {
        tracing::warn!(dropped, "detections of categories that the ground truth lacks");
    }
    Ok(images)
}

fn detection(row: CocoResult, class: usize, sizes: &HashMap<u64, Size>) -> Result<Detection, String> {
    let [x, y, width, height] = row.bbox;
    let [x1, y1, x2, y2] = [x, y, x + width, y + height].map(|v| v as f32);
    let mask = match (row.segmentation, sizes.get(&row.image_id)) {
        (Some(mask), Some(&size)) => {
            mask.check_size(size)?;
            Some(Mask::Pixels(mask.to_rle(size)))
        }
        _ => None,
    };
    Ok(Detection { bbox: BoxXyxy::new(x1, y1, x2, y2), class, score: row.score as f32, mask })
}

/// What is wrong with the mask of the result at `index`, from 0.
pub(super) fn mask_error(path: &Path, index: usize, reason: &str) -> EvaluationError {
    DataError::invalid(path, format!("result number {}: {reason}", index + 1)).into()
}

pub(super) fn read_rows(path: &Path) -> Result<Vec<CocoResult>, EvaluationError> {
    let text = text::read(path)?;
    match serde_json::from_str(&text) {
        Ok(rows) => Ok(rows),
        Err(_) => one_by_one(&text).map_err(|reason| DataError::invalid(path, reason).into()),
    }
}

/// The slow way through a file with a fault, which names it.
fn one_by_one(text: &str) -> Result<Vec<CocoResult>, String> {
    const EXPECTED: &str =
        "expected COCO results: a list of objects with `image_id`, `category_id`, `bbox` and `score`";
    let list = match text::parse_json(text).map_err(|reason| format!("{reason}; {EXPECTED}"))? {
        serde_json::Value::Array(list) => list,
        _ => return Err(format!("it is not a list; {EXPECTED}")),
    };
    let mut faults = Vec::new();
    let rows = text::elements(list, "result", &mut faults);
    match faults.as_slice() {
        [] => Ok(rows),
        [first, others @ ..] => {
            let nan = if first.contains("null") {
                " (JSON has no NaN and no infinity; they are read as null)"
            } else {
                ""
            };
            let more = if others.is_empty() { String::new() } else { format!("; and {} more", others.len()) };
            Err(format!("{first}{nan}{more}; {EXPECTED}"))
        }
    }
}

/// Gives rows that name their image that image's id, whatever number they carry: programs that know only image files number
/// them by themselves. A name counts as a whole or, where it is the only one, by its last part.
///
/// # Errors
/// When a row names an image that the ground truth does not list, but carries the id of one that it does.
pub(super) fn match_by_name(
    rows: &mut [CocoResult],
    images: &[(u64, String)],
    path: &Path,
    ground_truth: &Path,
) -> Result<(), EvaluationError> {
    let last = |name: &str| file_names::key(name).rsplit('/').next().unwrap_or_default().to_string();
    let whole: HashMap<String, u64> = images.iter().map(|(id, name)| (file_names::key(name), *id)).collect();
    let mut by_last: HashMap<String, Option<u64>> = HashMap::new();
    for (id, name) in images {
        by_last.entry(last(name)).and_modify(|found| *found = None).or_insert(Some(*id));
    }
    let known: HashSet<u64> = images.iter().map(|(id, _)| *id).collect();
    let mut renumbered = 0;
    for (index, row) in rows.iter_mut().enumerate() {
        let Some(name) = &row.file_name else { continue };
        let found = whole
            .get(&file_names::key(name))
            .copied()
            .or_else(|| by_last.get(&last(name)).copied().flatten());
        match found {
            Some(id) => {
                renumbered += usize::from(id != row.image_id);
                row.image_id = id;
            }
            None if known.contains(&row.image_id) => {
                return Err(EvaluationError::UnknownImageName {
                    path: path.to_path_buf(),
                    index: index + 1,
                    name: name.clone(),
                    image: row.image_id,
                    ground_truth: ground_truth.to_path_buf(),
                });
            }
            None => {}
        }
    }
    if renumbered > 0 {
        tracing::warn!(
            detections = renumbered,
            "the results number their images in another way than the ground truth; images were matched by `file_name`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::data::Category;

    use super::*;

    fn row(image_id: u64, file_name: Option<&str>) -> CocoResult {
        let file_name = file_name.map(String::from);
        CocoResult {
            image_id,
            category_id: 1,
            bbox: [0.0, 0.0, 1.0, 1.0],
            segmentation: None,
            score: 0.5,
            file_name,
        }
    }

    #[test]
    fn images_are_matched_by_name_where_results_have_one() {
        let images: Vec<(u64, String)> = [(40, "a/x.jpg"), (50, "a/y.jpg"), (60, "b/y.jpg"), (70, "z.jpg")]
            .map(|(id, n)| (id, n.into()))
            .into();
        let matched = |rows: &[CocoResult]| {
            let mut rows = rows.to_vec();
            let result = match_by_name(&mut rows, &images, Path::new("found.json"), Path::new("truth.json"));
            result.map(|()| rows.iter().map(|row| row.image_id).collect::<Vec<_>>())
        };
        let rows =
            [row(1, Some("x.jpg")), row(2, Some("b\\y.jpg")), row(70, None), row(3, Some("photos/z.jpg"))];
        assert_eq!(matched(&rows).unwrap(), [40, 60, 70, 70]);
        let error = matched(&[row(40, Some("other.jpg"))]).unwrap_err().to_string();
        assert!(
            error.contains("detection 1") && error.contains("`other.jpg`") && error.contains("image 40"),
            "{error}"
        );
        assert!(matched(&[row(40, Some("c/y.jpg"))]).is_err(), "two images end in this name");
    }

    #[test]
    fn written_results_come_back_with_their_boxes_scores_and_categories() {
        let category = |id, name: &str| Category { id, name: name.into() };
        let dataset = DetectionDataset {
            name: "two".into(),
            images: Vec::new(),
            categories: vec![category(18, "dog"), category(44, "bottle")],
            dropped: 0,
        };
        let found =
            Detection { bbox: BoxXyxy::new(0.1, 7.3, 101.7, 33.33), class: 1, score: 0.7, mask: None };
        let results = vec![ImageDetections { image_id: 9, detections: vec![found] }];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        write_results(&path, &dataset, &results).unwrap();
        assert_eq!(read_rows(&path).unwrap()[0].category_id, 44);
        let back = read_results(&path, &dataset).unwrap();
        assert_eq!((back.len(), back[0].image_id, back[0].detections.len()), (1, 9, 1));
        let read = &back[0].detections[0];
        assert_eq!((read.class, read.score), (1, 0.7));
        assert_eq!(read.bbox, BoxXyxy::new(0.1, 7.3, 101.7, 33.33));
    }

    #[test]
    fn a_result_that_cannot_be_read_is_named_with_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_rows(&path).unwrap_err().to_string()
        };
        let row = |score: &str| {
            format!(r#"{{"image_id": 4, "category_id": 1, "bbox": [0, 0, 1, 1], "score": {score}}}"#)
        };
        let two = error(&format!("[{}, {}]", row("0.5"), row("NaN")));
        assert!(two.contains("result number 2 of image 4: `score`: ") && two.contains("NaN"), "{two}");
        assert!(error(&row("1")).contains("it is not a list"));
        assert!(error("[{").contains("expected COCO results"));
    }
}
