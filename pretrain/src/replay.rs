//! The batch of a step that failed, saved so that it can be looked at and run again.
//!
//! `step_N.safetensors` holds `view1` (and `view2`) `[N, 3, S, S]`, `rois1` and `rois2` `[boxes, 5]` with rows
//! `(image, x1, y1, x2, y2)` in view pixels, and `labels` `[N]` where the data has them. Seed, epoch, step, the images' indices
//! and paths are metadata.

mod rerun;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use scrl_core::checkpoint::CheckpointError;
use scrl_core::checkpoint::weights::{read_safetensors, write_safetensors};
use scrl_core::models::parameters::TensorMap;
use scrl_core::structures::{BoxXyxy, Size};
use serde::{Deserialize, Serialize};

use crate::box_generator::MatchedBox;
use crate::image_views::{ImageViews, ViewPixels};
pub use rerun::{Rerun, rerun};

/// The metadata's key.
const KEY: &str = "scrl.replay";

/// Which step it was; with the configuration this determines the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayInfo {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step, from 0.
    pub step: u64,
    /// The loss as text: JSON has no infinities.
    pub loss: String,
    /// Learning rate of the step.
    pub lr: f64,
    /// Hash of the run's settings.
    pub config_hash: String,
    /// Of each image in the data set.
    pub indices: Vec<usize>,
    /// Of each image.
    pub paths: Vec<PathBuf>,
}

/// Writes a batch to `folder/step_N.safetensors` and returns that path.
///
/// # Errors
/// When the file cannot be written.
pub fn save(folder: &Path, batch: &[ImageViews], info: &ReplayInfo) -> Result<PathBuf, CheckpointError> {
    let path = folder.join(format!("step_{}.safetensors", info.step));
    let mut tensors = TensorMap::new();
    for view in 0..batch.first().map_or(0, |sample| sample.views.len()) {
        let pixels = batch.iter().flat_map(|image| image.views[view].values.iter().copied());
        let Size { width, height } = batch[0].views[view].size;
        let shape = [batch.len(), 3, height as usize, width as usize];
        tensors.insert(format!("view{}", view + 1), TensorData::new(pixels.collect::<Vec<_>>(), shape));
    }
    for (name, side) in [("rois1", first as fn(&MatchedBox) -> BoxXyxy), ("rois2", second)] {
        let rows = rois(batch, side);
        tensors.insert(name.to_string(), TensorData::new(rows.clone(), [rows.len() / 5, 5]));
    }
    if let Some(labels) = batch.iter().map(|sample| sample.label.map(|label| label as f32)).collect() {
        let labels: Vec<f32> = labels;
        tensors.insert("labels".to_string(), TensorData::new(labels, [batch.len()]));
    }
    let text = serde_json::to_string(info).map_err(|error| format_error(&path, error))?;
    write_safetensors(&path, &tensors, &BTreeMap::from([(KEY.to_string(), text)]))?;
    Ok(path)
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// When the file cannot be read or is of another kind.
pub fn load(path: &Path) -> Result<(Vec<ImageViews>, ReplayInfo), CheckpointError> {
    let (tensors, metadata) = read_safetensors(path)?;
    let problem = |what: &str| format_error(path, format!("{what}; it is not a saved batch"));
    let text = metadata.get(KEY).ok_or_else(|| problem("it has no description of its step"))?;
    let info: ReplayInfo = serde_json::from_str(text).map_err(|error| problem(&error.to_string()))?;
    let count = info.indices.len();
    let values = |name: &str| -> Option<Vec<f32>> { Some(tensors.get(name)?.iter::<f32>().collect()) };
    let views: Vec<Vec<ViewPixels>> =
        ["view1", "view2"].into_iter().filter_map(|name| Some(images(tensors.get(name)?))).collect();
    let [first, second] = ["rois1", "rois2"].map(|name| values(name).unwrap_or_default());
    let labels = values("labels");
    let consistent = count > 0
        && !views.is_empty()
        && views.iter().all(|view| view.len() == count)
        && first.len() == second.len()
        && labels.as_ref().is_none_or(|labels| labels.len() == count);
    if !consistent {
        return Err(problem("its tensors do not fit together"));
    }
    let boxes: Vec<(usize, MatchedBox)> =
        first.chunks_exact(5).zip(second.chunks_exact(5)).map(matched).collect();
    let image = |index: usize| ImageViews {
        views: views.iter().map(|view| view[index].clone()).collect(),
        boxes: boxes.iter().filter(|(of, _)| *of == index).map(|(_, matched)| *matched).collect(),
        label: labels.as_ref().map(|labels| labels[index] as usize),
    };
    Ok(((0..count).map(image).collect(), info))
}

/// The images of a `[N, 3, height, width]` tensor; none of one of another shape.
fn images(tensor: &TensorData) -> Vec<ViewPixels> {
    let &[_, 3, height, width] = &tensor.shape()[..] else { return Vec::new() };
    let size = Size { width: width as u32, height: height as u32 };
    let values: Vec<f32> = tensor.iter::<f32>().collect();
    let view = |values: &[f32]| ViewPixels { values: values.to_vec(), size };
    values.chunks_exact((3 * height * width).max(1)).map(view).collect()
}

fn format_error(path: &Path, problem: impl ToString) -> CheckpointError {
    CheckpointError::Format { path: path.to_path_buf(), problem: problem.to_string() }
}

fn first(matched: &MatchedBox) -> BoxXyxy {
    matched.view1
}

fn second(matched: &MatchedBox) -> BoxXyxy {
    matched.view2
}

/// Rows `(image, x1, y1, x2, y2)`.
fn rois(batch: &[ImageViews], side: fn(&MatchedBox) -> BoxXyxy) -> Vec<f32> {
    let mut rows = Vec::new();
    for (image, sample) in batch.iter().enumerate() {
        for matched in &sample.boxes {
            rows.push(image as f32);
            rows.extend(side(matched).to_array());
        }
    }
    rows
}

fn matched((first, second): (&[f32], &[f32])) -> (usize, MatchedBox) {
    let corners = |row: &[f32]| BoxXyxy { x1: row[1], y1: row[2], x2: row[3], y2: row[4] };
    (first[0] as usize, MatchedBox { view1: corners(first), view2: corners(second) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: usize, boxes: usize) -> ImageViews {
        let pixels = |view: usize| {
            let values = (0..18).map(|i| (number * 100 + view * 20 + i) as f32).collect();
            ViewPixels { values, size: Size { width: 3, height: 2 } }
        };
        let corners = |x: f32| BoxXyxy { x1: x, y1: 1.0, x2: x + 5.0, y2: 9.5 };
        let matched = |i| MatchedBox { view1: corners(i as f32), view2: corners(10.0 + i as f32) };
        ImageViews {
            views: vec![pixels(0), pixels(1)],
            boxes: (0..boxes).map(matched).collect(),
            label: Some(number % 2),
        }
    }

    #[test]
    fn a_saved_batch_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let info = ReplayInfo {
            seed: 7,
            epoch: 2,
            step: 31,
            loss: f64::NAN.to_string(),
            lr: 0.25,
            config_hash: "abc".into(),
            indices: vec![4, 0, 9],
            paths: ["a.png", "b.png", "c.png"].map(PathBuf::from).to_vec(),
        };
        let batch = [image(0, 2), image(1, 0), image(2, 1)];
        let path = save(&folder.path().join("replay"), &batch, &info).unwrap();
        assert!(path.ends_with("replay/step_31.safetensors"));
        let (read, read_info) = load(&path).unwrap();
        assert_eq!(read_info, info);
        assert_eq!(read.len(), 3);
        for (read, saved) in read.iter().zip(&batch) {
            assert_eq!((&read.views, &read.boxes, read.label), (&saved.views, &saved.boxes, saved.label));
        }
    }

    #[test]
    fn a_file_that_is_no_batch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let tensors = TensorMap::from([("w".to_string(), TensorData::new(vec![1.0f32], [1]))]);
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("weights.safetensors") && error.contains("not a saved batch"), "{error}");
    }
}
