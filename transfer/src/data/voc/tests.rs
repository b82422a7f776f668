//! Reading folders that the tests write, and the real ones.

use scrl_core::structures::BoxXyxy;

use super::*;

/// With boxes alone.
fn load(root: &Path, split: &str) -> Result<DetectionDataset, DataError> {
    super::load(root, split, Labels::Boxes)
}

fn object(name: &str, difficult: &str, [x1, y1, x2, y2]: [&str; 4]) -> String {
    format!(
        "<object><name>{name}</name><pose>Left</pose>{difficult}<part><name>head</name><bndbox><xmin>1</xmin>\
         <ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin>\
         <ymin>{y1}</ymin><ymax>{y2}</ymax></bndbox></object>"
    )
}

fn write(root: &Path, name: &str, objects: &[String], size: bool) {
    for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let size = if size { "<size><width>40</width><height>30</height><depth>3</depth></size>" } else { "" };
    // Objects apart from each other, with something between them.
    let objects = objects.join("<segmented>0</segmented>\n");
    let xml = format!("<annotation>\n<filename>{name}.jpg</filename>{objects}{size}</annotation>");
    std::fs::write(annotation_path(root, name), xml).unwrap();
    let image = image::RgbImage::from_pixel(40, 30, image::Rgb([9, 99, 200]));
    image.save(root.join("JPEGImages").join(format!("{name}.jpg"))).unwrap();
}

fn list(root: &Path, split: &str, text: &str) {
    std::fs::write(root.join("ImageSets/Main").join(format!("{split}.txt")), text).unwrap();
}

#[test]
fn boxes_become_edges_and_boxes_without_area_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let objects = [
        object("rbc", "<difficult>1</difficult>", ["1", "2", "40", "30"]),
        object("wbc", "", ["10.5", "3", "20", "4"]),
        object("rbc", "<difficult>0</difficult>", ["7", "7", "7", "7"]),
    ];
    write(root, "a", &objects, true);
    write(root, "b", &[], false);
    list(root, "train", "a\nb\n");
    let data = load(root, "train").unwrap();
    assert_eq!((data.images.len(), data.dropped), (2, 1));
    let names: Vec<_> = data.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
    assert_eq!(names, [(1, "rbc"), (2, "wbc")]);
    let first = &data.images[0];
    assert_eq!((first.id, first.width, first.height, first.objects.len()), (1, 40, 30, 2));
    assert_eq!(first.objects[0].bbox, BoxXyxy::new(0.0, 1.0, 40.0, 30.0));
    assert!(first.objects[0].difficult && !first.objects[1].difficult);
    assert_eq!(first.objects[1].bbox, BoxXyxy::new(9.5, 2.0, 20.0, 4.0));
    assert_eq!(first.objects[1].category, 1);
    // Without a size in the annotation the image's own counts.
    assert_eq!((data.images[1].width, data.images[1].height), (40, 30));
}

#[test]
fn classes_come_from_all_splits_or_are_the_twenty_of_voc() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a", &[object("dog", "", ["2", "2", "9", "9"])], true);
    write(root, "b", &[object("cat", "", ["2", "2", "9", "9"])], true);
    list(root, "train", "a -1\n");
    list(root, "test", "b  1\n");
    assert_eq!(load(root, "train").unwrap().categories.len(), 20);
    assert_eq!(load(root, "train").unwrap().images[0].objects[0].category, 11);
    write(root, "b", &[object("axolotl", "", ["2", "2", "9", "9"])], true);
    let names = |split| load(root, split).unwrap().categories.into_iter().map(|c| c.name).collect::<Vec<_>>();
    assert_eq!(names("train"), ["axolotl", "dog"]);
    assert_eq!(names("train"), names("test"));
}

#[test]
fn year_folders_are_joined_where_they_have_the_split() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("VOC2007"), folder.path().join("VOC2012"));
    write(&old, "1", &[], true);
    write(&new, "2", &[], true);
    list(&old, "trainval", "1\n");
    list(&new, "trainval", "2\n");
    list(&old, "test", "1\n");
    let ids = |split| load(folder.path(), split).unwrap().images.iter().map(|i| i.id).collect::<Vec<_>>();
    assert_eq!(ids("trainval"), [1, 2]);
    assert_eq!(ids("test"), [1]);
    assert!(is_voc_root(folder.path()) && is_voc_root(&old) && !is_voc_root(&old.join("JPEGImages")));
    let message = load(folder.path(), "val").unwrap_err().to_string();
    assert!(message.contains("`val`") && message.contains("test, trainval"), "{message}");
}

#[test]
fn a_missing_annotation_or_image_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a", &[], true);
    list(root, "train", "a\nlost\n");
    assert!(load(root, "train").unwrap_err().to_string().contains("lost.xml"));
    list(root, "train", "a\n");
    std::fs::remove_file(root.join("JPEGImages/a.jpg")).unwrap();
    assert!(load(root, "train").unwrap_err().to_string().contains("a.jpg"));
}

#[test]
fn the_real_sets_have_their_known_sizes() {
    let Some(cells) = crate::test_data::folder("bccd") else { return };
    let parts = ["trainval", "test"].map(|split| load(&cells, split).unwrap());
    let objects = |data: &DetectionDataset| data.images.iter().map(|i| i.objects.len()).sum::<usize>();
    assert_eq!(parts[0].images.len() + parts[1].images.len(), 364);
    assert_eq!(objects(&parts[0]) + objects(&parts[1]), 4886);
    assert_eq!(parts[0].dropped + parts[1].dropped, 2);
    let names: Vec<_> = parts[1].categories.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["Platelets", "RBC", "WBC"]);
    let Some(voc) = crate::test_data::folder("voc100") else { return };
    let voc = load(&voc, "test").unwrap();
    assert_eq!((voc.images.len(), objects(&voc), voc.categories.len()), (100, 273, 20));
    assert!(voc.images.iter().flat_map(|i| &i.objects).any(|object| object.difficult));
}

#[test]
fn a_survey_reports_what_load_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(
        root,
        "a",
        &[object("rbc", "", ["7", "7", "7", "9"]), object("rbc", "", ["1", "1", "9", "9"])],
        true,
    );
    write(root, "gone", &[], true);
    write(root, "broken", &[], true);
    std::fs::remove_file(root.join("JPEGImages/gone.jpg")).unwrap();
    std::fs::write(annotation_path(root, "broken"), "<annotation><size>").unwrap();
    list(root, "train", "a\ngone\nlost\nbroken\n");
    let (data, dropped, problems) = survey(root, "train", Labels::Boxes).unwrap();
    let names: Vec<_> = data.images.iter().map(|image| image.file_name.as_str()).collect();
    assert_eq!(names, ["a.jpg", "gone.jpg"]);
    assert_eq!(
        (dropped.len(), dropped[0].image.as_str(), dropped[0].bbox),
        (1, "a.jpg", [7.0, 7.0, 7.0, 9.0])
    );
    let problems: Vec<String> = problems.iter().map(DataError::to_string).collect();
    assert!(problems[0].contains("broken.xml") && problems[1].contains("lost.xml"), "{problems:?}");
    assert_eq!(problems.len(), 2);
    assert!(load(root, "train").unwrap_err().to_string().contains("broken.xml"));
}

#[test]
fn lists_of_a_class_are_no_splits() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a", &[], true);
    for name in ["train", "my_val", "dog_train", "val", "cat_my_val"] {
        list(root, name, "a\n");
    }
    // `my_val` reads as class `my` of split `val`; a split with such a name can still be asked for.
    assert_eq!(split_names(root).unwrap(), ["train", "val"]);
    assert_eq!(load(root, "my_val").unwrap().images.len(), 1);
}

#[test]
fn names_of_a_list_may_have_blanks_and_a_classes_list_has_a_second_column() {
    assert_eq!(image_names("photo 1\nphoto 2 (copy)\n\n"), ["photo 1", "photo 2 (copy)"]);
    assert_eq!(image_names("a  1\nb -1\nc c  0\n"), ["a", "b", "c c"]);
    assert_eq!(image_names("000005\n000007\n"), ["000005", "000007"]);
}

#[test]
fn numbers_may_have_fractions_and_blanks_around_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.xml");
    let xml = |width: &str, xmin: &str| {
        format!(
            "<annotation><size><width>{width}</width><height>48.0</height></size><object><name> dog\n</name>\
             <bndbox><xmin>{xmin}</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
        )
    };
    std::fs::write(&path, xml("64.0", "\n 5.5 ")).unwrap();
    let annotation = Annotation::read(&path).unwrap();
    let object = annotation.objects().next().unwrap();
    assert_eq!((annotation.size(), object.name.as_str()), (Some((64, 48)), "dog"));
    assert_eq!(object.inclusive(), [5.5, 2.0, 30.0, 40.0]);
    for (width, xmin) in [("64.5", "5"), ("64", "five"), ("64", "NaN")] {
        std::fs::write(&path, xml(width, xmin)).unwrap();
        let error = Annotation::read(&path).unwrap_err().to_string();
        assert!(error.contains("a.xml"), "{error}");
    }
}

#[test]
fn annotations_are_read_in_the_encoding_that_they_declare() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a", &[object("cat", "", ["1", "2", "30", "30"])], true);
    list(root, "train", "a\n");
    let path = annotation_path(root, "a");
    let xml = std::fs::read_to_string(&path).unwrap();
    // 猫 and ñ in these encodings.
    for (encoding, bytes, expected) in
        [("gb2312", &b"\xc3\xa8"[..], "猫"), ("ISO-8859-1", b"\xf1", "ñ"), ("utf-8", "猫".as_bytes(), "猫")]
    {
        let (before, after) = xml.split_once("cat").unwrap();
        let declaration = format!("<?xml version='1.0' encoding=\"{encoding}\"?>\n");
        let text = [declaration.as_bytes(), before.as_bytes(), bytes, after.as_bytes()].concat();
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(root, "train").unwrap().categories[0].name, expected);
    }
    std::fs::write(&path, [xml.as_bytes(), b"\xf1"].concat()).unwrap();
    let error = load(root, "train").unwrap_err().to_string();
    assert!(error.contains("a.xml") && error.contains("not UTF-8"), "{error}");
}

#[test]
fn masks_are_those_of_the_images_that_the_segmentation_lists_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let object = |name: &str, x: u32| {
        let bndbox = format!("<xmin>{x}</xmin><ymin>3</ymin><xmax>{}</xmax><ymax>9</ymax>", x + 7);
        format!("<object><name>{name}</name><bndbox>{bndbox}</bndbox></object>")
    };
    for name in ["a", "b"] {
        write(root, name, &[object("dog", 2), object("cat", 20)], true);
    }
    list(root, "train", "a\nb\n");
    for part in ["ImageSets/Segmentation", "SegmentationObject"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    std::fs::write(root.join("ImageSets/Segmentation/train.txt"), "b\n").unwrap();
    let number = |x: u32, y: u32| match (x, y) {
        (1..8, 2..9) => 1,
        (19..26, 4..9) => 2,
        _ => 0,
    };
    let picture = image::GrayImage::from_fn(40, 30, |x, y| image::Luma([number(x, y)]));
    picture.save(root.join("SegmentationObject/b.png")).unwrap();
    let data = super::load(root, "train", Labels::Masks).unwrap();
    let [image] = data.images.as_slice() else { panic!("one image is listed") };
    let areas = |masks: Vec<_>| -> Vec<u64> {
        masks
            .into_iter()
            .map(|mask: Option<std::sync::Arc<crate::mask::Segmentation>>| {
                mask.unwrap().to_rle(image.size()).area()
            })
            .collect()
    };
    assert_eq!(areas(image.objects.iter().map(|object| object.mask.clone()).collect()), [49, 35]);
    assert_eq!(areas(image.truth().iter().map(|object| object.mask.clone()).collect()), [49, 35]);
    assert_eq!(load(root, "train").unwrap().images.len(), 2);
    assert!(load(root, "train").unwrap().images[1].objects[0].mask.is_none());
}
