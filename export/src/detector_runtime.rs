//! Exported detectors in ONNX Runtime.
//!
//! N images in the batch, H and W in pixels.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::session::{Session, SessionOutputs};
use ort::value::{TensorElementType, TensorRef};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_core::transforms::RgbImage;
use scrl_transfer::data::Preprocessing;
use scrl_transfer::detection::{Detection, MASK_SIDE};
use scrl_transfer::inference::to_source;
use scrl_transfer::mask::{Mask, SoftMask};

use crate::ExportError;
use crate::backbone::OutputTensor;
use crate::detector::{DetectorInfo, DetectorOptions, InputKind, MASKS, OUTPUTS};
use crate::runtime::runtime;

/// Sides of a padded batch are multiples of this, as in training.
const SIZE_DIVISOR: usize = 32;

/// Images of one size, each in the top-left corner and zero beyond its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBatch {
    /// `[N, 3, H, W]`, row-major.
    pub values: Vec<f32>,
    /// N, 3, H, W.
    pub shape: [usize; 4],
    /// The images' own sizes.
    pub sizes: Vec<Size>,
}

impl ImageBatch {
    /// Pads images, `[3, H, W]` of these sizes, to the largest height and width, rounded up to a multiple of `divisor`.
    pub fn pad(images: &[(Vec<f32>, Size)], divisor: usize) -> Self {
        let longest =
            |side: fn(&Size) -> u32| images.iter().map(|(_, s)| side(s) as usize).max().unwrap_or(0);
        let width = longest(|size| size.width).next_multiple_of(divisor);
        let height = longest(|size| size.height).next_multiple_of(divisor);
        let shape = [images.len(), 3, height, width];
        let mut values = vec![0.0; shape.iter().product()];
        let mut rows = values.chunks_exact_mut(width.max(1));
        for (pixels, size) in images {
            let own = size.width as usize;
            for plane in pixels.chunks_exact((own * size.height as usize).max(1)) {
                for (row, target) in rows.by_ref().take(height).enumerate() {
                    if row < size.height as usize {
                        target[..own].copy_from_slice(&plane[row * own..][..own]);
                    }
                }
            }
        }
        Self { values, shape, sizes: images.iter().map(|(_, size)| *size).collect() }
    }
}

/// An exported detector, ready to run; one batch at a time.
#[derive(Debug)]
pub struct OnnxDetector {
    session: Mutex<Session>,
    path: PathBuf,
    /// What the file says about the network, its classes and its input.
    pub info: DetectorInfo,
    /// How it was exported.
    pub options: DetectorOptions,
}

impl OnnxDetector {
    /// Opens a file that [`export_detector`](crate::export_detector) wrote. `threads` work within one operator; 0 for one
    /// a core.
    ///
    /// # Errors
    /// When ONNX Runtime is missing, or the file cannot be read or is not an exported detector.
    pub fn open(path: &Path, threads: usize) -> Result<Self, ExportError> {
        let session = runtime()?.session(path, threads)?;
        let wrong = |reason: String| ExportError::NotDetector { path: path.to_path_buf(), reason };
        let found: Vec<&str> = session.outputs().iter().map(|outlet| outlet.name()).collect();
        let file = session.metadata().map_err(|error| wrong(error.to_string()))?;
        let (info, options) = DetectorInfo::from_properties(|key| file.custom(key)).map_err(wrong)?;
        if !found.starts_with(&OUTPUTS) {
            return Err(wrong(format!("its outputs are {}", found.join(", "))));
        }
        drop(file);
        Ok(Self { session: Mutex::new(session), path: path.to_path_buf(), info, options })
    }

    /// Objects in each image, best first, in pixels of the image.
    ///
    /// Images are resized as the file says and run as one padded batch; one by one when the file takes no sizes.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn detect(&self, images: &[RgbImage]) -> Result<Vec<Vec<Detection>>, ExportError> {
        let preprocessing = &self.info.metadata.preprocessing;
        let prepared: Vec<(Vec<f32>, Size)> = images.iter().map(|image| preprocessing.apply(image)).collect();
        let found = self.detect_normalized(&prepared)?;
        let sizes = prepared.iter().map(|(_, size)| *size).zip(images);
        let variant = self.info.metadata.config.variant;
        let restored = found.into_iter().zip(sizes).map(|(found, (size, image))| {
            to_source(found, size, Size { width: image.width(), height: image.height() }, variant)
        });
        Ok(restored.collect())
    }

    /// Objects in each image, best first, in pixels of what is given: resized and normalised images as
    /// [`Preprocessing::apply`] makes them, `[3, H, W]`.
    ///
    /// They run as one padded batch; one by one when the file takes no sizes.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn detect_normalized(&self, images: &[(Vec<f32>, Size)]) -> Result<Vec<Vec<Detection>>, ExportError> {
        let (preprocessing, input) = (&self.info.metadata.preprocessing, self.options.input);
        let images: Vec<(Vec<f32>, Size)> =
            images.iter().map(|(pixels, size)| (to_input(pixels, preprocessing, input), *size)).collect();
        if images.is_empty() {
            return Ok(Vec::new());
        }
        if self.options.image_sizes {
            return self.detect_batch(&ImageBatch::pad(&images, SIZE_DIVISOR));
        }
        let mut found = Vec::with_capacity(images.len());
        for image in images.chunks(1) {
            found.extend(self.detect_batch(&ImageBatch::pad(image, 1))?);
        }
        Ok(found)
    }

    /// Objects in each image of a prepared batch, best first, in pixels of the batch.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn detect_batch(&self, batch: &ImageBatch) -> Result<Vec<Vec<Detection>>, ExportError> {
        let sizes = self.options.image_sizes;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = run(&mut session, batch, sizes).map_err(|error| ExportError::Run {
            path: self.path.clone(),
            case: format!("a batch of {:?}", batch.shape),
            reason: error.to_string(),
        })?;
        Ok(detections(&outputs))
    }
}

/// Normalised pixels as the graph takes them: themselves, or whole numbers from 0 to 255.
pub(crate) fn to_input(pixels: &[f32], preprocessing: &Preprocessing, input: InputKind) -> Vec<f32> {
    let plane = (pixels.len() / 3).max(1);
    let value = |(index, value): (usize, &f32)| {
        let channel = index / plane;
        let unit = value * preprocessing.std[channel] + preprocessing.mean[channel];
        (255.0 * unit).round()
    };
    match input {
        InputKind::Normalized => pixels.to_vec(),
        InputKind::Raw => pixels.iter().enumerate().map(value).collect(),
    }
}

/// All outputs of the graph; integers as floats.
pub(crate) fn run(
    session: &mut Session,
    batch: &ImageBatch,
    with_sizes: bool,
) -> ort::Result<Vec<OutputTensor>> {
    let sizes: Vec<i64> =
        batch.sizes.iter().flat_map(|size| [i64::from(size.height), i64::from(size.width)]).collect();
    let images = TensorRef::from_array_view((batch.shape, batch.values.as_slice()))?;
    let outputs = match with_sizes {
        true => {
            let sizes = TensorRef::from_array_view(([batch.sizes.len(), 2], sizes.as_slice()))?;
            session.run(ort::inputs!["images" => images, "image_sizes" => sizes])?
        }
        false => session.run(ort::inputs!["images" => images])?,
    };
    outputs_of(&outputs)
}

/// The outputs of a session; integers as floats.
pub(crate) fn outputs_of(outputs: &SessionOutputs<'_>) -> ort::Result<Vec<OutputTensor>> {
    let tensors = outputs.iter().map(|(name, value)| {
        let (shape, values) = match value.dtype().tensor_type() {
            Some(TensorElementType::Int64) => {
                let (shape, values) = value.try_extract_tensor::<i64>()?;
                (shape, values.iter().map(|&value| value as f32).collect())
            }
            _ => {
                let (shape, values) = value.try_extract_tensor::<f32>()?;
                (shape, values.to_vec())
            }
        };
        let shape = shape.iter().map(|&dim| dim as usize).collect();
        Ok(OutputTensor { name: name.to_string(), shape, values })
    });
    tensors.collect()
}

/// The detections of each image from the outputs [`OUTPUTS`].
pub(crate) fn detections(outputs: &[OutputTensor]) -> Vec<Vec<Detection>> {
    let values = |name: &str| {
        let output = outputs.iter().find(|output| output.name == name);
        output.map(|output| output.values.as_slice()).unwrap_or_default()
    };
    let [boxes, scores, labels, counts] = OUTPUTS.map(values);
    let masks = values(MASKS);
    let most = scores.len() / counts.len().max(1);
    let of_image = |(image, &count): (usize, &f32)| {
        let rows = image * most..image * most + (count as usize).min(most);
        let mask = |row: usize| {
            let cells = MASK_SIDE * MASK_SIDE;
            let cells = masks.get(row * cells..(row + 1) * cells)?.to_vec();
            Some(Mask::Cells(SoftMask { cells, side: MASK_SIDE }))
        };
        rows.map(|row| Detection {
            bbox: bbox(&boxes[row * 4..row * 4 + 4]),
            class: labels[row] as usize,
            score: scores[row],
            mask: mask(row),
        })
        .collect()
    };
    counts.iter().enumerate().map(of_image).collect()
}

/// A row of a box tensor.
pub(crate) fn bbox(row: &[f32]) -> BoxXyxy {
    BoxXyxy::new(row[0], row[1], row[2], row[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_each_image_in_its_corner_and_zeros_beyond() {
        let size = |width, height| Size { width, height };
        let image = |value: f32, size: Size| (vec![value; (3 * size.width * size.height) as usize], size);
        let batch = ImageBatch::pad(&[image(1.0, size(2, 3)), image(2.0, size(4, 1))], 1);
        assert_eq!((batch.shape, batch.sizes.clone()), ([2, 3, 3, 4], vec![size(2, 3), size(4, 1)]));
        let at = |n: usize, c: usize, y: usize, x: usize| batch.values[((n * 3 + c) * 3 + y) * 4 + x];
        assert_eq!([at(0, 0, 2, 1), at(0, 2, 0, 0), at(0, 1, 0, 2)], [1.0, 1.0, 0.0]);
        assert_eq!([at(1, 2, 0, 3), at(1, 0, 1, 0)], [2.0, 0.0]);
        assert_eq!(batch.values.iter().sum::<f32>(), 18.0 + 24.0);
        assert_eq!(ImageBatch::pad(&[image(1.0, size(2, 3))], 32).shape, [1, 3, 32, 32]);
    }

    #[test]
    fn detections_end_at_the_count_of_each_image() {
        let tensor = |name: &str, shape: &[usize], values: &[f32]| OutputTensor {
            name: name.to_string(),
            shape: shape.to_vec(),
            values: values.to_vec(),
        };
        let boxes: Vec<f32> = (0..16).map(|value| value as f32).collect();
        let outputs = [
            tensor("boxes", &[2, 2, 4], &boxes),
            tensor("scores", &[2, 2], &[0.9, 0.0, 0.8, 0.7]),
            tensor("labels", &[2, 2], &[3.0, 0.0, 1.0, 2.0]),
            tensor("num_detections", &[2], &[1.0, 2.0]),
        ];
        let found = detections(&outputs);
        assert_eq!(found[0], [Detection { bbox: bbox(&boxes[..4]), class: 3, score: 0.9, mask: None }]);
        assert_eq!(found[1][1], Detection { bbox: bbox(&boxes[12..]), class: 2, score: 0.7, mask: None });
    }
}
