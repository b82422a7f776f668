//! The fixture, which `voc_files` reads too, and cases small enough to see through.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::data::{Category, DetectionImage, DetectionObject};

use super::*;
use crate::detection::Detection;

#[derive(Deserialize)]
pub struct Object {
    pub name: String,
    pub difficult: bool,
    pub r#box: [f64; 4],
}

#[derive(Deserialize)]
pub struct Row {
    pub image: usize,
    pub name: String,
    pub r#box: [f64; 4],
    pub score: f64,
}

#[derive(Deserialize)]
pub struct Ap {
    pub eleven_points: f64,
    pub area: f64,
}

/// Boxes as the kit has them.
#[derive(Deserialize)]
pub struct Case {
    pub classes: Vec<String>,
    pub images: Vec<Vec<Object>>,
    pub detections: Vec<Row>,
    pub expected: BTreeMap<String, Option<Ap>>,
    pub mean: Ap,
}

impl Case {
    pub fn load(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/voc_metrics");
        let path = PathBuf::from(folder).join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn class(&self, name: &str) -> usize {
        self.classes.iter().position(|class| class == name).unwrap()
    }

    pub fn dataset(&self) -> DetectionDataset {
        let object = |object: &Object| DetectionObject {
            bbox: edges(object.r#box),
            category: self.class(&object.name),
            crowd: false,
            difficult: object.difficult,
            area: edges(object.r#box).area(),
            mask: None,
        };
        let image = |(id, objects): (usize, &Vec<Object>)| DetectionImage {
            id: id as u64,
            path: PathBuf::new(),
            file_name: format!("{id:06}.jpg"),
            width: 500,
            height: 500,
            objects: objects.iter().map(object).collect(),
            annotated: None,
        };
        let category = |(id, name): (usize, &String)| Category { id: id as u64 + 1, name: name.clone() };
        DetectionDataset {
            name: "case".into(),
            images: self.images.iter().enumerate().map(image).collect(),
            categories: self.classes.iter().enumerate().map(category).collect(),
            dropped: 0,
        }
    }

    pub fn results(&self) -> Vec<ImageDetections> {
        let result = |found: &Row| ImageDetections {
            image_id: found.image as u64,
            detections: vec![Detection {
                bbox: edges(found.r#box),
                class: self.class(&found.name),
                score: found.score as f32,
                mask: None,
            }],
        };
        self.detections.iter().map(result).collect()
    }

    /// Demands the kit's figures; both sides compute in double precision, sums may be in another order.
    pub fn assert_equal(&self, metrics: &VocMetrics) {
        let close = |ours: f64, theirs: f64| (ours - theirs).abs() < 1e-12;
        assert_eq!(metrics.per_class.len(), self.classes.len());
        for class in &metrics.per_class {
            match &self.expected[&class.name] {
                Some(ap) => {
                    assert!(close(class.eleven_points.unwrap(), ap.eleven_points), "{class:?}");
                    assert!(close(class.area.unwrap(), ap.area), "{class:?}");
                }
                None => assert_eq!((class.eleven_points, class.area), (None, None)),
            }
        }
        assert!(close(metrics.eleven_points.unwrap(), self.mean.eleven_points));
        assert!(close(metrics.area.unwrap(), self.mean.area));
    }
}

fn edges([x1, y1, x2, y2]: [f64; 4]) -> BoxXyxy {
    BoxXyxy::new((x1 - 1.0) as f32, (y1 - 1.0) as f32, x2 as f32, y2 as f32)
}

#[test]
fn both_average_precisions_equal_the_development_kits() {
    let case = Case::load("case.json");
    case.assert_equal(&evaluate_voc(&case.dataset(), &case.results()).unwrap());
}

fn square(side: f64) -> Truth {
    Truth { bbox: [1.0, 1.0, side, side], ignored: false, taken: false }
}

fn case(objects: Vec<Truth>, found: &[(f64, [f64; 4])]) -> ClassCase {
    let found = found.iter().map(|&(score, bbox)| Found { image: 0, score, bbox }).collect();
    ClassCase { name: "x".into(), objects: vec![objects], found }
}

#[test]
fn a_perfect_ranking_scores_one_and_a_second_hit_on_an_object_is_an_error() {
    let perfect = curve(&[true, true]);
    assert_eq!((eleven_point_ap(&perfect, 2), area_ap(&perfect, 2)), (1.0, 1.0));
    let twice = [(0.5, [1.0, 1.0, 10.0, 9.0]); 2];
    assert_eq!(case(vec![square(10.0)], &twice).matches(), [true, false]);
}

#[test]
fn an_overlap_of_one_half_is_enough_and_the_last_pixel_counts() {
    // 10 × 5 of 10 × 10 pixels; without the last pixels it would be 9 × 4 of 9 × 9.
    assert_eq!(case(vec![square(10.0)], &[(1.0, [1.0, 1.0, 10.0, 5.0])]).matches(), [true]);
    assert_eq!(case(vec![square(10.0)], &[(1.0, [1.0, 1.0, 10.0, 4.999])]).matches(), [false]);
}

#[test]
fn equal_scores_keep_their_order() {
    let (hit, miss) = ([1.0, 1.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]);
    assert_eq!(case(vec![square(10.0)], &[(0.5, hit), (0.5, miss)]).matches(), [true, false]);
    assert_eq!(case(vec![square(10.0)], &[(0.5, miss), (0.5, hit)]).matches(), [false, true]);
}

#[test]
fn three_of_ten_objects_do_not_reach_the_kits_third_level_and_six_reach_the_sixth() {
    let three = curve(&[true; 3]);
    assert_eq!(eleven_point_ap(&three, 10), 3.0 / 11.0);
    let six = curve(&[true; 6]);
    assert_eq!(eleven_point_ap(&six, 10), 7.0 / 11.0);
}

#[test]
fn without_objects_to_find_there_is_no_figure() {
    let mut dataset = Case::load("case.json").dataset();
    dataset.images.iter_mut().for_each(|image| image.objects.iter_mut().for_each(|o| o.difficult = true));
    let metrics = evaluate_voc(&dataset, &[]).unwrap();
    assert_eq!((metrics.eleven_points, metrics.area), (None, None));
    assert!(metrics.by_name()["VOC07_AP"]["cat"].is_null());
}
