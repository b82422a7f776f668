//! One prepared image, and how it is prepared.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::data::DataError;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::random::Rng;
use scrl_core::structures::Size;

use crate::augment::View;
use crate::box_generator::MatchedBox;
use crate::config::PretrainConfig;

/// One prepared image: its views, the boxes that both views show, its class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageViews {
    /// As many as the method compares.
    pub views: Vec<ViewPixels>,
    /// Empty for methods that do not need boxes.
    pub boxes: Vec<MatchedBox>,
    /// Index of the class, where the image has one.
    pub label: Option<usize>,
}

/// The normalised pixels of a view.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewPixels {
    /// `[3, height, width]`
    pub values: Vec<f32>,
    /// Width and height.
    pub size: Size,
}

impl ViewPixels {
    /// A square view of `side` pixels.
    ///
    /// # Panics
    /// If there are not `3 · side²` values.
    pub fn square(values: Vec<f32>, side: u32) -> Self {
        assert_eq!(values.len(), 3 * (side * side) as usize, "three channels of {side} x {side} pixels");
        Self { values, size: Size { width: side, height: side } }
    }
}

impl From<View> for ViewPixels {
    fn from(view: View) -> Self {
        Self { values: view.pixels, size: view.geometry.output }
    }
}

/// View `index` of every image, `[N, 3, height, width]`.
///
/// # Panics
/// If the batch is empty, an image has no such view, or views differ in size.
pub fn stack_views(batch: &[ImageViews], index: usize, device: &Device) -> Tensor<4> {
    let size = batch[0].views[index].size;
    let mut pixels = Vec::with_capacity(batch.len() * batch[0].views[index].values.len());
    for image in batch {
        assert_eq!(image.views[index].size, size, "views of a batch have one size");
        pixels.extend_from_slice(&image.views[index].values);
    }
    let shape = [batch.len(), 3, size.height as usize, size.width as usize];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}

/// Prepares the image of an index from its own random stream.
pub type LoadViews = Arc<dyn Fn(usize, &mut Rng) -> Result<ImageViews, DataError> + Send + Sync>;

/// Decodes and augments one image as the method of `settings` sees it in training.
pub fn load_views(settings: &PretrainConfig, data: &ImageFolder) -> LoadViews {
    let facts = settings.method.facts();
    prepare(settings, data, facts.views, facts.needs_boxes)
}

/// The same two views with the boxes that SCRL would match in them, for methods that draw none: boxes are drawn after the
/// views, which stay the same.
pub fn load_views_with_boxes(settings: &PretrainConfig, data: &ImageFolder) -> LoadViews {
    prepare(settings, data, 2, true)
}

fn prepare(settings: &PretrainConfig, data: &ImageFolder, views: usize, boxed: bool) -> LoadViews {
    let (augment, boxes) = (settings.augment.clone(), settings.boxes.clone());
    let images = data.samples.clone();
    Arc::new(move |index, rng| {
        let source = &images[index];
        if views == 1 {
            let view = augment.load_supervised_view(&source.path, rng)?;
            return Ok(ImageViews { views: vec![view.into()], boxes: Vec::new(), label: source.label });
        }
        let [first, second] = augment.load_two_views(&source.path, rng)?;
        let boxes = match boxed {
            true => boxes.generate([&first.geometry, &second.geometry], rng),
            false => Vec::new(),
        };
        Ok(ImageViews { views: vec![first.into(), second.into()], boxes, label: source.label })
    })
}
