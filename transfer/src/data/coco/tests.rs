use super::*;

const SMALL: &str = r#"{
    "info": {"year": 2024}, "licenses": [],
    "images": [
        {"id": 9, "file_name": "b.jpg", "width": 20, "height": 10, "license": 3},
        {"id": 4, "file_name": "a.jpg", "width": 30.0, "height": 30}
    ],
    "categories": [{"id": 90, "name": "zebra", "supercategory": "animal"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 90, "bbox": [1.5, 2, 3, 4], "area": 7.25, "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [15, 5, 10, 10], "iscrowd": 1},
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [5, 5, 0, 2], "area": 0},
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [25, 5, 4, 2], "area": 8}
    ]
}"#;

fn load_text(text: &str, files: &[&str]) -> Result<DetectionDataset, DataError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let annotations = folder.path().join("instances_test.json");
    std::fs::write(&annotations, text).expect("a file");
    for file in files {
        std::fs::write(folder.path().join(file), b"").expect("a file");
    }
    load(&annotations, folder.path(), Labels::Boxes)
}

fn error_of(text: &str, files: &[&str]) -> String {
    load_text(text, files).expect_err("an error").to_string()
}

#[test]
fn categories_become_contiguous_and_boxes_corners() {
    let set = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
    assert_eq!(set.name, "instances_test");
    let names: Vec<_> = set.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
    assert_eq!(names, [(3, "car"), (90, "zebra")]);
    let image = &set.images[0];
    assert_eq!((image.id, image.width, image.height, image.file_name.as_str()), (9, 20, 10, "b.jpg"));
    let first = DetectionObject {
        bbox: BoxXyxy::new(1.5, 2.0, 4.5, 6.0),
        category: 1,
        crowd: false,
        difficult: false,
        area: 7.25,
        mask: None,
    };
    assert_eq!(image.objects[0], first);
}

#[test]
fn boxes_are_clipped_and_those_without_area_are_counted() {
    let set = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
    let clipped = &set.images[0].objects[1];
    assert_eq!(clipped.bbox, BoxXyxy::new(15.0, 5.0, 20.0, 10.0));
    assert!(clipped.crowd);
    assert_eq!(clipped.area, 100.0, "a missing area is width times height");
    assert_eq!((set.images[0].objects.len(), set.dropped), (2, 2));
}

#[test]
fn boxes_left_out_can_be_had_by_image_and_numbers_without_any_image_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let annotations = folder.path().join("instances.json");
    std::fs::write(&annotations, SMALL).expect("a file");
    let CocoSurvey { dataset: set, dropped, .. } =
        survey(&annotations, folder.path(), Labels::Boxes).expect("a data set");
    assert_eq!((set.images.len(), set.dropped), (2, 2));
    let left_out = |bbox| DroppedBox { image: "b.jpg".into(), category: "car".into(), bbox };
    assert_eq!(dropped, [left_out([5.0, 5.0, 0.0, 2.0]), left_out([25.0, 5.0, 4.0, 2.0])]);
}

#[test]
fn what_exporters_write_is_understood() {
    let odd = SMALL
        .replace("\"id\": 9,", "\"id\": \"9\",")
        .replace("\"image_id\": 9", "\"image_id\": 9.0")
        .replace("\"iscrowd\": 0", "\"iscrowd\": 0.0")
        .replace("\"license\": 3", "\"date_captured\": 0, \"license\": \"none\"")
        .replace("\"segmentation\": []", "\"segmentation\": {\"counts\": null}, \"keypoints\": null")
        .replace("\"info\": {\"year\": 2024}, \"licenses\": []", "\"info\": \"none\", \"licenses\": null");
    let expected = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
    let found = load_text(&format!("\u{feff}{odd}"), &["a.jpg", "b.jpg"]).expect("a data set");
    let objects =
        |set: &DetectionDataset| set.images.iter().map(|i| (i.id, i.objects.clone())).collect::<Vec<_>>();
    assert_eq!(objects(&found), objects(&expected));
    for bbox in ["null", "[]", "[1, 2, null, 4]", "\"none\""] {
        let set = load_text(&SMALL.replace("[1.5, 2, 3, 4]", bbox), &["a.jpg", "b.jpg"]).expect("a data set");
        assert_eq!((set.images[0].objects.len(), set.dropped), (1, 3), "{bbox}");
    }
    for id in ["1.5", "-1", "\"nine\"", "null"] {
        let error = error_of(&SMALL.replace("\"image_id\": 9", &format!("\"image_id\": {id}")), &[]);
        assert!(
            error.contains("annotation 1 of image ") || error.contains("annotation 1: "),
            "the annotation is named: {error}"
        );
        assert!(error.contains("`image_id`: ") && error.contains("expected a whole number"), "{error}");
        assert!(error.contains("3 more faults"), "{error}");
    }
}

#[test]
fn names_are_trimmed_and_categories_of_one_name_stay_apart() {
    let text = SMALL.replace("\"name\": \"car\"", "\"name\": \" zebra \"");
    let names = |text: &str| -> Vec<String> {
        let set = load_text(text, &["a.jpg", "b.jpg"]).expect("a data set");
        set.categories.into_iter().map(|category| category.name).collect()
    };
    assert_eq!(names(&text), ["zebra (3)", "zebra (90)"]);
    assert_eq!(names(&SMALL.replace("\"name\": \"car\"", "\"name\": \"\"")), ["category 3", "zebra"]);
}

#[test]
fn an_image_without_annotations_is_kept() {
    let set = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
    assert_eq!(set.images[1].id, 4);
    assert!(set.images[1].objects.is_empty());
}

#[test]
fn missing_images_are_counted_and_the_first_is_named() {
    let error = error_of(SMALL, &["a.jpg"]);
    assert!(error.contains("1 of 2 images") && error.contains("the first is `b.jpg`"), "{error}");
}

#[test]
fn malformed_json_names_the_file_and_the_position() {
    for text in ["{\n  \"images\": [}", "[]", "{\"images\": []}", ""] {
        let error = error_of(text, &[]);
        assert!(
            error.contains("instances_test.json") && error.contains("expected COCO instances"),
            "{error}"
        );
    }
    let missing =
        load(Path::new("no/such.json"), Path::new("no"), Labels::Boxes).expect_err("no file").to_string();
    assert!(missing.contains("no/such.json"), "{missing}");
}

#[test]
fn files_that_contradict_themselves_are_refused() {
    let cases = [
        (SMALL.replace("\"image_id\": 9", "\"image_id\": 8"), "image 8"),
        (SMALL.replace("\"category_id\": 3", "\"category_id\": 5"), "category 5"),
        (SMALL.replace("\"id\": 4, \"file", "\"id\": 9, \"file"), "image id 9 is used twice"),
        (SMALL.replace("\"id\": 90", "\"id\": 3"), "category id 3 is used twice"),
        (SMALL.replace("\"width\": 20", "\"width\": 0"), "`b.jpg` has a width or height of 0"),
    ];
    for (text, reason) in cases {
        let error = error_of(&text, &["a.jpg", "b.jpg"]);
        assert!(error.contains(reason), "{error} should say {reason}");
    }
}

#[test]
fn a_survey_lists_every_fault_and_keeps_the_rest() {
    let text = SMALL
        .replace("\"id\": 1, \"image_id\": 9", "\"id\": 1, \"image_id\": 77")
        .replace("\"id\": 2, \"image_id\": 9, \"category_id\": 3", "\"id\": 2, \"image_id\": 9")
        .replace("[5, 5, 0, 2]", "[5, 5, NaN, 2]")
        .replace("\"id\": 4, \"file_name\": \"a.jpg\"", "\"id\": 4, \"file_name\": null");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let annotations = folder.path().join("instances.json");
    std::fs::write(&annotations, &text).expect("a file");
    let CocoSurvey { dataset, dropped, faults, .. } =
        survey(&annotations, folder.path(), Labels::Boxes).expect("a data set");
    assert_eq!((dataset.images.len(), dataset.images[0].objects.len(), dropped.len()), (1, 0, 2));
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert_eq!(faults[0], "annotation 2 of image 9: `category_id` is missing");
    assert_eq!(faults[1], "image 4 has no `file_name`");
    assert!(faults[2].starts_with("1 annotations belong to image 77"), "{faults:?}");
    let error = load(&annotations, folder.path(), Labels::Boxes).expect_err("faults").to_string();
    assert!(error.contains("annotation 2 of image 9") && error.contains("2 more faults"), "{error}");
}

#[test]
fn windows_separators_find_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("sub")).expect("a folder");
    std::fs::write(folder.path().join("sub/b.jpg"), b"").expect("a file");
    std::fs::write(folder.path().join("a.jpg"), b"").expect("a file");
    let annotations = folder.path().join("instances.json");
    std::fs::write(&annotations, SMALL.replace("b.jpg", "sub\\\\b.jpg")).expect("a file");
    let set = load(&annotations, folder.path(), Labels::Boxes).expect("a data set");
    assert_eq!(set.images[0].path, folder.path().join("sub/b.jpg"));
    assert_eq!(set.images[0].file_name, "sub\\b.jpg", "the name stays as the file has it");
}

#[test]
fn sizes_that_the_annotations_leave_out_are_read_from_the_images() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let annotations = folder.path().join("instances.json");
    let text = SMALL.replace("\"width\": 20, \"height\": 10, ", "").replace("b.jpg", "b.png");
    std::fs::write(&annotations, text).expect("a file");
    std::fs::write(folder.path().join("a.jpg"), b"").expect("a file");
    let error = load(&annotations, folder.path(), Labels::Boxes).expect_err("no image").to_string();
    assert!(error.contains("`b.png` has no `width` and `height`"), "{error}");
    image::RgbImage::new(21, 11).save(folder.path().join("b.png")).expect("an image");
    let set = load(&annotations, folder.path(), Labels::Boxes).expect("a data set");
    assert_eq!((set.images[0].width, set.images[0].height), (21, 11));
}
