//! What a data set holds, broken parts included.

use crate::data::coco;
use crate::data::{DetectionDataset, DroppedBox};
use scrl_core::data::error::DataError;

use super::{DataSource, Labels, union, voc};

/// A data set as its annotations describe it; its images need not be there.
#[derive(Debug)]
pub struct Survey {
    /// All images with a readable annotation.
    pub dataset: DetectionDataset,
    /// Boxes that are not in it, for having no area inside their image.
    pub dropped: Vec<DroppedBox>,
    /// Masks that cannot be used, and why; their objects are in `dataset` without them.
    pub bad_masks: Vec<String>,
    /// Annotations that are missing, cannot be read or contradict each other.
    pub problems: Vec<DataError>,
}

/// Reads annotations and goes on where [`DataSource::load`] would stop.
///
/// # Errors
/// When nothing can be said about the data: a COCO file that is not JSON of instances, a layout or split that is not
/// there.
pub fn survey(source: &DataSource, labels: Labels) -> Result<Survey, DataError> {
    match source {
        DataSource::Coco { annotations, images } => {
            let coco::CocoSurvey { dataset, dropped, faults, bad_masks } =
                coco::survey(annotations, images, labels)?;
            let problems = faults.into_iter().map(|fault| DataError::invalid(annotations, fault)).collect();
            Ok(Survey { dataset, dropped, bad_masks, problems })
        }
        DataSource::Voc { root, split } => {
            let (dataset, dropped, problems) = voc::survey(root, split, labels)?;
            Ok(Survey { dataset, dropped, bad_masks: Vec::new(), problems })
        }
        DataSource::Union { parts } => {
            let parts = parts.iter().map(|part| survey(part, labels)).collect::<Result<Vec<_>, _>>()?;
            let (mut datasets, mut dropped) = (Vec::new(), Vec::new());
            let (mut bad_masks, mut problems) = (Vec::new(), Vec::new());
            for part in parts {
                datasets.push(part.dataset);
                dropped.extend(part.dropped);
                bad_masks.extend(part.bad_masks);
                problems.extend(part.problems);
            }
            Ok(Survey { dataset: union::join(datasets)?, dropped, bad_masks, problems })
        }
    }
}
