//! One run of a file, compared step by step.

use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData};
use scrl_core::structures::Size;
use scrl_transfer::detection::{
    AnchorGenerator, BackboneWithFpn, BoxPredictions, Detection, FasterRcnn, Pooler, RetinaNet, Roi,
};
use scrl_transfer::mask::Mask;

use super::{Stage, decisions, proposal_boxes};
use crate::backbone::OutputTensor;
use crate::detector::{FasterRcnnNames, PartNames, RetinaNetNames};
use crate::detector_runtime::{bbox, detections};
use crate::validation::detector::DetectorTolerance;
use crate::validation::detector::filters::{detect, device, host, propose, retinanet_of_all};
use crate::validation::detector::matching::unmatched_boxes;
use crate::validation::detector::subgraph::{Probe, values};

/// One run of a file, and what was found out about it.
pub(super) struct FileRun<'a> {
    pub names: &'a PartNames,
    pub half: bool,
    pub outputs: Vec<OutputTensor>,
    pub tolerance: &'a DetectorTolerance,
    pub stages: Vec<Stage>,
}

impl FileRun<'_> {
    /// Compares the maps of backbone and pyramid; gives those of ONNX Runtime.
    pub fn maps(&mut self, model: &BackboneWithFpn, images: Tensor<4>) -> Vec<Tensor<4>> {
        let device = images.device();
        let stages = model.body.forward(images);
        let levels = model.fpn.forward(&stages);
        let expected = stages.iter().map(|(_, map)| map.clone()).chain(levels.iter().cloned());
        let mut found = Vec::new();
        for ((name, value), map) in self.names.maps.iter().zip(expected) {
            let probe = Probe::map(value, self.half);
            let dims = map.dims();
            self.tensor(name, host(map), values(&self.outputs, &probe).to_vec());
            // Another shape has failed already; the model's own map is as good as any then.
            let own = values(&self.outputs, &probe).to_vec();
            let usable = own.len() == dims.iter().product::<usize>();
            found.push(match usable {
                true => Tensor::from_data(TensorData::new(own, dims), &device),
                false => Tensor::zeros(dims, &device),
            });
        }
        found.split_off(4)
    }

    fn tensor(&mut self, name: &str, expected: Vec<f32>, found: Vec<f32>) {
        let largest = expected.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max);
        let difference = |(&a, &b): (&f32, &f32)| f64::from(a) - f64::from(b);
        let error = match expected.len() == found.len() {
            true => expected
                .iter()
                .zip(&found)
                .map(difference)
                .fold(0.0, |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b.abs()) }),
            false => f64::INFINITY,
        };
        let allowed = self.tolerance.tensors * largest;
        self.stages.push(Stage { name: name.to_string(), error, allowed });
    }

    /// The values of all levels, image after image, each image's levels one after another.
    fn by_image(&self, levels: &[String], images: usize) -> Vec<f32> {
        let levels: Vec<&[f32]> =
            levels.iter().map(|name| values(&self.outputs, &Probe::float(name))).collect();
        let of_image = |image: usize| {
            levels.iter().flat_map(move |level| {
                let count = level.len() / images.max(1);
                &level[image * count..(image + 1) * count]
            })
        };
        (0..images).flat_map(of_image).copied().collect()
    }

    pub fn faster_rcnn(
        &mut self,
        model: &FasterRcnn,
        names: &FasterRcnnNames,
        levels: &[Tensor<4>],
        image: [usize; 2],
        sizes: &[Size],
    ) -> Vec<Vec<Detection>> {
        let config = &model.config;
        let rpn = model.rpn.forward(levels);
        let anchors = AnchorGenerator::new(config).generate(image, &rpn.grids);
        let objectness = self.by_image(&names.objectness, sizes.len());
        let deltas = self.by_image(&names.deltas, sizes.len());
        self.tensor("objectness", host(rpn.objectness), objectness.clone());
        self.tensor("deltas", host(rpn.deltas), deltas.clone());
        let expected = propose(&objectness, &deltas, &anchors, sizes, config);
        let found = proposal_boxes(&self.outputs, names, sizes.len());
        let pixels = self.tolerance.pixels(image[0].max(image[1]));
        let lost = expected
            .iter()
            .zip(&found)
            .map(|(expected, found)| unmatched_boxes(expected, found, pixels))
            .sum();
        self.stages.push(decisions("proposals", lost, expected.iter().map(Vec::len).sum()));

        let rois = rois(&self.outputs, names);
        let logits = values(&self.outputs, &Probe::float(&names.class_logits)).to_vec();
        let box_deltas = values(&self.outputs, &Probe::float(&names.box_deltas)).to_vec();
        if rois.is_empty() {
            return vec![Vec::new(); sizes.len()];
        }
        let BoxPredictions { logits: own_logits, deltas: own_deltas } =
            model.roi_heads.predict(levels, &rois, Pooler::new(config));
        self.tensor("class_logits", host(own_logits), logits.clone());
        self.tensor("box_deltas", host(own_deltas), box_deltas.clone());
        self.masks(model, levels);
        detect(logits, &box_deltas, &rois, sizes, config)
    }

    /// Compares the masks of the file's own detections.
    fn masks(&mut self, model: &FasterRcnn, levels: &[Tensor<4>]) {
        let mut found = detections(&self.outputs);
        let cells = |found: &[Vec<Detection>]| -> Vec<f32> {
            let masks = found.iter().flatten().filter_map(|found| found.mask.as_ref());
            let cells = masks.map(|mask| match mask {
                Mask::Cells(mask) => mask.cells.as_slice(),
                Mask::Pixels(_) => &[],
            });
            cells.flatten().copied().collect()
        };
        let file = cells(&found);
        found.iter_mut().flatten().for_each(|found| found.mask = None);
        model.roi_heads.add_masks(levels, &mut found, &model.config);
        let own = cells(&found);
        if model.config.has_masks() && !own.is_empty() {
            self.tensor("masks", own, file);
        }
    }

    pub fn retinanet(
        &mut self,
        model: &RetinaNet,
        names: &RetinaNetNames,
        levels: &[Tensor<4>],
        image: [usize; 2],
        sizes: &[Size],
    ) -> Vec<Vec<Detection>> {
        let predictions = model.head.forward(levels);
        let anchors = AnchorGenerator::new(&model.config).generate(image, &predictions.grids);
        let logits = self.by_image(&names.logits, sizes.len());
        let probabilities = self.by_image(&names.probabilities, sizes.len());
        let deltas = self.by_image(&names.deltas, sizes.len());
        self.tensor("logits", host(predictions.logits), logits.clone());
        self.tensor("deltas", host(predictions.deltas), deltas.clone());
        let expected =
            sigmoid(Tensor::<1>::from_data(TensorData::new(logits.clone(), [logits.len()]), &device()));
        self.tensor("probabilities", host(expected), probabilities.clone());
        retinanet_of_all(&probabilities, &deltas, &anchors, sizes, &model.config)
    }
}

/// The regions that the file's box head sees.
fn rois(outputs: &[OutputTensor], names: &FasterRcnnNames) -> Vec<Roi> {
    let places = values(outputs, &Probe::int(&names.roi_places));
    let boxes = values(outputs, &Probe::float(&names.rois));
    let rows = places.chunks_exact(2).zip(boxes.chunks_exact(4));
    rows.map(|(place, row)| Roi { image: place[0] as usize, bbox: bbox(row) }).collect()
}
