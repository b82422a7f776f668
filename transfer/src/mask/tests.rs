//! pycocotools', torchvision's and PyTorch's masks: `fixtures/masks`.

use std::path::Path;
use std::sync::Arc;

use scrl_core::structures::{BoxXyxy, Size};
use serde::Deserialize;

use super::*;
use crate::detection::Variant;

#[derive(Deserialize)]
struct Fixture {
    drawn: Vec<Drawn>,
    regions: Vec<Regions>,
    pasted: Vec<Pasted>,
}

#[derive(Deserialize)]
struct Drawn {
    /// Height and width, as everywhere here.
    size: [u32; 2],
    polygons: Vec<Vec<f64>>,
    counts: String,
    area: u64,
    bbox: [f64; 4],
}

#[derive(Deserialize)]
struct Regions {
    source: [u32; 2],
    input: [u32; 2],
    mirrored: bool,
    polygons: Vec<Vec<f64>>,
    boxes: Vec<[f32; 4]>,
    /// Sums over the rows and over the columns of each region's cells.
    torchvision: Vec<[Vec<f64>; 2]>,
    detectron2: Vec<String>,
}

#[derive(Deserialize)]
struct Pasted {
    size: [u32; 2],
    r#box: [f32; 4],
    cells: Vec<f32>,
    torchvision: Pixels,
    detectron2: Pixels,
}

#[derive(Deserialize)]
struct Pixels {
    counts: String,
    /// How many pixels are within 1e-4 of the threshold.
    doubtful: usize,
}

const SIDE: usize = 28;

fn fixture() -> Fixture {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/masks/masks.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn size([height, width]: [u32; 2]) -> Size {
    Size { width, height }
}

fn corners([x1, y1, x2, y2]: [f32; 4]) -> BoxXyxy {
    BoxXyxy::new(x1, y1, x2, y2)
}

fn differing(a: &Rle, b: &Rle) -> usize {
    a.to_bitmap().iter().zip(b.to_bitmap()).filter(|(a, b)| **a != *b).count()
}

#[test]
fn polygons_have_the_pixels_of_pycocotools() {
    for case in fixture().drawn {
        let size = size(case.size);
        let rle = Rle::from_polygons(&case.polygons, size);
        assert_eq!(rle.compressed(), case.counts);
        assert_eq!((rle.area(), rle.bbox()), (case.area, case.bbox));
        let pixels = rle.to_bitmap();
        assert_eq!(pixels.iter().filter(|inside| **inside).count() as u64, case.area);
        assert_eq!(Rle::from_bitmap(&pixels, size), rle);
        assert_eq!(Rle::from_compressed(&case.counts, size).unwrap(), rle);
    }
}

/// torchvision averages in single precision, in another order: 28 cells of at most 1 differ by 1e-5 at most. Polygons drawn in cells are
/// those of pycocotools to the cell.
#[test]
fn regions_have_the_cells_of_torchvision_and_of_detectron2() {
    let mut halves = 0;
    for case in fixture().regions {
        let mask = ObjectMask {
            segmentation: Arc::new(Segmentation::Polygons(case.polygons)),
            source: size(case.source),
            input: size(case.input),
            mirrored: case.mirrored,
        };
        let boxes: Vec<BoxXyxy> = case.boxes.into_iter().map(corners).collect();
        for (cells, expected) in
            mask.regions(&boxes, SIDE, Variant::Torchvision).iter().zip(&case.torchvision)
        {
            for place in 0..SIDE {
                let row: f64 = cells[place * SIDE..][..SIDE].iter().map(|&cell| f64::from(cell)).sum();
                let column: f64 = (0..SIDE).map(|y| f64::from(cells[y * SIDE + place])).sum();
                let [columns, rows] = expected;
                assert!((row - rows[place]).abs() < 1e-4, "row {place}: {row}, not {}", rows[place]);
                assert!((column - columns[place]).abs() < 1e-4, "column {place}: {column}");
            }
            halves += cells.iter().filter(|&&cell| cell > 0.0 && cell < 1.0).count();
        }
        let cell_size = Size { width: SIDE as u32, height: SIDE as u32 };
        for (cells, expected) in mask.regions(&boxes, SIDE, Variant::Detectron2).iter().zip(&case.detectron2)
        {
            let inside: Vec<bool> = cells.iter().map(|&cell| cell == 1.0).collect();
            assert!(cells.iter().all(|&cell| cell == 0.0 || cell == 1.0));
            assert_eq!(&Rle::from_bitmap(&inside, cell_size).compressed(), expected);
        }
    }
    assert!(halves > 100, "some cells lie on an edge");
}

#[test]
fn run_lengths_in_a_region_are_those_of_the_polygon_but_for_its_edge() {
    let polygons = vec![vec![10.0, 10.0, 50.0, 12.0, 45.0, 52.0, 12.0, 40.0]];
    let source = Size { width: 60, height: 60 };
    let rle = Rle::from_polygons(&polygons, source);
    let cells = |segmentation| {
        let input = Size { width: 120, height: 90 };
        let mask = ObjectMask { segmentation: Arc::new(segmentation), source, input, mirrored: true };
        mask.regions(&[BoxXyxy::new(18.0, 14.0, 102.0, 80.0)], SIDE, Variant::Detectron2).remove(0)
    };
    let (drawn, averaged) = (cells(Segmentation::Polygons(polygons)), cells(Segmentation::Rle(rle)));
    let differ = drawn.iter().zip(&averaged).filter(|(a, b)| a != b).count();
    assert!(differ < 2 * SIDE && averaged.contains(&1.0) && averaged.contains(&0.0), "{differ} cells differ");
}

/// Interpolation in another order may move a pixel that is at the threshold to its other side.
#[test]
fn cells_are_pasted_as_torchvision_and_detectron2_do() {
    for case in fixture().pasted {
        let (bbox, image) = (corners(case.r#box), size(case.size));
        let cells = SoftMask { cells: case.cells, side: SIDE };
        let expected = [(Variant::Torchvision, &case.torchvision), (Variant::Detectron2, &case.detectron2)];
        for (variant, expected) in expected {
            let found = cells.paste(&bbox, image, variant);
            let expected_pixels = Rle::from_compressed(&expected.counts, image).unwrap();
            let differ = differing(&found, &expected_pixels);
            assert!(
                differ <= expected.doubtful,
                "{variant:?}: {differ} pixels differ in {bbox:?} of {image:?}"
            );
        }
    }
}

#[test]
fn a_mask_that_fills_the_image_is_one_run() {
    let cells = SoftMask { cells: vec![1.0; SIDE * SIDE], side: SIDE };
    let image = Size { width: 7, height: 5 };
    for variant in [Variant::Torchvision, Variant::Detectron2] {
        let found = cells.paste(&BoxXyxy::new(-20.0, -20.0, 30.0, 30.0), image, variant);
        assert_eq!(found, Rle::from_runs(vec![0, 35], image).unwrap(), "{variant:?}");
        let beside = cells.paste(&BoxXyxy::new(40.0, 40.0, 50.0, 50.0), image, variant);
        assert_eq!(beside.area(), 0);
    }
}

fn read(text: &str, size: Size) -> Result<Option<Segmentation>, String> {
    serde_json::from_str::<SegmentationField>(text).unwrap().read(size)
}

#[test]
fn what_files_have_in_the_place_of_a_mask_is_understood_or_refused_with_a_reason() {
    let size = Size { width: 4, height: 3 };
    let triangle = Segmentation::Polygons(vec![vec![0.0, 0.0, 3.0, 0.0, 3.0, 2.0]]);
    for text in [
        "[[0, 0, 3, 0.0, 3, 2]]",
        "[0, 0, 3, 0, 3, 2]",
        "[[[0, 0], [3, 0], [3, 2]]]",
        "[[0, 0, 3, 0, 3, 2], [1, 1], []]",
    ] {
        assert_eq!(read(text, size), Ok(Some(triangle.clone())), "{text}");
    }
    for text in ["[]", "null"] {
        assert_eq!(read(text, size), Ok(None), "{text}");
    }
    let runs = r#"{"size": [3, 4], "counts": [2, 4, 6]}"#;
    let Ok(Some(Segmentation::Rle(rle))) = read(runs, size) else { panic!("run lengths are read") };
    assert_eq!(rle.area(), 4);
    let compressed = format!(r#"{{"counts": {:?}, "size": [3, 4]}}"#, rle.compressed());
    assert_eq!(read(&compressed, size), Ok(Some(Segmentation::Rle(rle))));
    // What is left out at the end is outside.
    let short = read(r#"{"size": [3, 4], "counts": [2, 4]}"#, size).unwrap().unwrap();
    assert_eq!(short, Segmentation::Rle(Rle::from_runs(vec![2, 4, 6], size).unwrap()));
    let huge = Size { width: 100_000, height: 100_000 };
    assert!(read("[[0, 0, 3, 0, 3, 2]]", huge).unwrap_err().contains("too many for a mask"));
    for (text, reason) in [
        ("[[0, 0, 3, 0]]", "fewer than three points"),
        ("[[]]", "fewer than three points"),
        ("[[0, 0, 3, 0, 3]]", "half a point too many"),
        (r#"[["a"]]"#, "neither a list of polygons nor run lengths"),
        (r#""none""#, "neither a list of polygons nor run lengths"),
        ("7", "neither a list of polygons nor run lengths"),
        (r#"{"counts": null}"#, "have no `size`"),
        (r#"{"size": [3, 4], "counts": null}"#, "have no `counts`"),
        (r#"{"size": [3, 4], "counts": [-1, 13]}"#, "not whole numbers"),
        (r#"{"size": [3, 4], "counts": [2, 40]}"#, "42"),
        (r#"{"size": [4, 3], "counts": [12]}"#, "its mask is of 3×4 pixels, the image has 4×3"),
    ] {
        let error = read(text, size).expect_err(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
}
