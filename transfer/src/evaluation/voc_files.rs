//! The development kit's detection files: a text file a class, a detection a line.
//!
//! `comp4_det_<split>_<class>.txt` holds lines of `image score xmin ymin xmax ymax`: the image by its name in the split's
//! list, the box in pixels counted from 1, the last ones included.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::data::DetectionDataset;
use scrl_core::engine::atomic;

use super::voc::{ClassCase, Found, Truth, inclusive};
use super::{EvaluationError, ImageDetections, VocMetrics};
use crate::data::voc::{Annotation, VocImage, VocSplit};

/// The competitions that the kit has detection files of; the first one is written.
const COMPETITIONS: [&str; 2] = ["comp4", "comp3"];

/// The name of a class's file. Characters of the class that file names cannot have, or that lead to other folders, are written
/// as `%` and their code in hexadecimal, as in URLs.
fn file_name(competition: &str, split: &str, class: &str) -> String {
    let escaped: String = class
        .chars()
        .map(|c| match c {
            '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' | '%' => format!("%{:02X}", c as u32),
            c if c.is_control() => format!("%{:02X}", c as u32),
            c => c.to_string(),
        })
        .collect();
    format!("{competition}_det_{split}_{escaped}.txt")
}

/// VOC metrics of a folder of detection files, from the annotations as they are: boxes are neither clipped nor dropped.
///
/// # Errors
/// When the split cannot be read, an image is in it twice, a class has no file, or a line is malformed or names an image that
/// the split does not list.
pub fn evaluate_voc_files(
    root: &Path,
    split: &str,
    detections: &Path,
) -> Result<VocMetrics, EvaluationError> {
    let truth = VocSplit::read(root, split)?.complete()?;
    let images = positions(root, &truth)?;
    let class = |name: &String| {
        let path = class_file(detections, split, name)?;
        let case = ClassCase {
            name: name.clone(),
            objects: truth.images.iter().map(|image| objects_of(name, image)).collect(),
            found: read_class(&path, &images)?,
        };
        Ok(case.average_precision())
    };
    let classes = truth.classes.iter().map(class).collect::<Result<Vec<_>, EvaluationError>>()?;
    Ok(VocMetrics::of(classes.into_iter()))
}

fn positions<'a>(root: &Path, split: &'a VocSplit) -> Result<HashMap<&'a str, usize>, EvaluationError> {
    let mut positions = HashMap::new();
    for (position, image) in split.images.iter().enumerate() {
        if positions.insert(image.name.as_str(), position).is_some() {
            let reason = format!("its split lists image `{}` twice; list it once", image.name);
            return Err(EvaluationError::Data(scrl_core::data::DataError::invalid(root, reason)));
        }
    }
    Ok(positions)
}

fn objects_of(class: &str, image: &VocImage) -> Vec<Truth> {
    let objects = image.annotation.iter().flat_map(Annotation::objects).filter(|object| object.name == class);
    objects
        .map(|object| Truth { bbox: object.inclusive(), ignored: object.is_difficult(), taken: false })
        .collect()
}

fn class_file(folder: &Path, split: &str, class: &str) -> Result<PathBuf, EvaluationError> {
    let mut candidates = COMPETITIONS.iter().map(|name| folder.join(file_name(name, split, class)));
    candidates.find(|path| path.is_file()).ok_or_else(|| EvaluationError::ClassFile {
        path: folder.join(file_name(COMPETITIONS[0], split, class)),
        class: class.to_string(),
    })
}

fn read_class(path: &Path, images: &HashMap<&str, usize>) -> Result<Vec<Found>, EvaluationError> {
    let text = std::fs::read_to_string(path).map_err(|e| EvaluationError::io(path, e))?;
    let lines =
        text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let wrong = |reason| EvaluationError::Line { path: path.to_path_buf(), line: index + 1, reason };
            parse(line, images).map_err(wrong)
        })
        .collect()
}

fn parse(line: &str, images: &HashMap<&str, usize>) -> Result<Found, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // The name may have blanks of its own: it is what stands before the last five words.
    let numbers = &words[words.len().saturating_sub(5)..];
    let image =
        numbers.first().map_or("", |first| line[..first.as_ptr().addr() - line.as_ptr().addr()].trim());
    let values = numbers.iter().map(|word| word.parse::<f64>().ok().filter(|v| v.is_finite()));
    let values: Option<Vec<f64>> = values.collect::<Option<_>>().filter(|_| !image.is_empty());
    let Some([score, x1, y1, x2, y2]) = values.as_deref().and_then(|v| <[f64; 5]>::try_from(v).ok()) else {
        return Err(format!("`{line}` is not `image score xmin ymin xmax ymax` with five finite numbers"));
    };
    let position = images.get(image).copied();
    let image = position.ok_or_else(|| {
        format!(
            "the split does not list the image `{image}`; a line is `image score xmin ymin xmax ymax` with five finite numbers"
        )
    })?;
    Ok(Found { image, score, bbox: [x1, y1, x2, y2] })
}

/// Writes a detection file for every class into a folder, which is made if need be; images are named by their files, and
/// numbers keep all digits.
///
/// # Errors
/// When a file cannot be written.
///
/// # Panics
/// When a class index is not one of the data set's.
pub fn write_voc_files(
    folder: &Path,
    split: &str,
    dataset: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<(), EvaluationError> {
    std::fs::create_dir_all(folder).map_err(|e| EvaluationError::io(folder, e))?;
    let names: HashMap<u64, String> =
        dataset.images.iter().map(|image| (image.id, stem(&image.file_name))).collect();
    let mut texts = vec![String::new(); dataset.categories.len()];
    for result in results {
        let Some(name) = names.get(&result.image_id) else {
            return Err(EvaluationError::UnknownImage(result.image_id));
        };
        for found in &result.detections {
            let [x1, y1, x2, y2] = inclusive(&found.bbox);
            let score = f64::from(found.score);
            // Writing to a string cannot fail.
            let _ = writeln!(texts[found.class], "{name} {score} {x1} {y1} {x2} {y2}");
        }
    }
    for (category, text) in dataset.categories.iter().zip(texts) {
        let path = folder.join(file_name(COMPETITIONS[0], split, &category.name));
        atomic::write(&path, text.as_bytes()).map_err(|e| EvaluationError::io(&path, e))?;
    }
    Ok(())
}

fn stem(file_name: &str) -> String {
    Path::new(file_name).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::voc::evaluate_voc;
    use super::super::voc::tests::{Case, Object};
    use super::*;

    /// The case as a VOC folder and a folder of detection files.
    fn write(case: &Case, root: &Path) -> PathBuf {
        for folder in ["Annotations", "ImageSets/Main", "found"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let object = |o: &Object| {
            let [x1, y1, x2, y2] = o.r#box;
            format!(
                "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>\
                 <xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>",
                o.name,
                u8::from(o.difficult)
            )
        };
        let mut list = String::new();
        for (index, objects) in case.images.iter().enumerate() {
            let objects: String = objects.iter().map(object).collect();
            let xml = format!(
                "<annotation><size><width>500</width><height>500</height></size>{objects}</annotation>"
            );
            std::fs::write(root.join(format!("Annotations/{index:06}.xml")), xml).unwrap();
            list += &format!("{index:06}\n");
        }
        std::fs::write(root.join("ImageSets/Main/test.txt"), list).unwrap();
        for class in &case.classes {
            let rows = case.detections.iter().filter(|row| row.name == *class);
            let line = |row: &super::super::voc::tests::Row| {
                let [x1, y1, x2, y2] = row.r#box;
                format!("{:06} {} {x1} {y1} {x2} {y2}\n", row.image, row.score)
            };
            let text: String = rows.map(line).collect();
            std::fs::write(root.join("found").join(file_name("comp4", "test", class)), text).unwrap();
        }
        root.join("found")
    }

    /// The classes that the annotations name; the fixture has one without any object.
    fn known(case: &mut Case) {
        let Case { classes, images, .. } = case;
        classes.retain(|name| images.iter().flatten().any(|object| object.name == *name));
    }

    #[test]
    fn a_class_never_leads_out_of_the_folder() {
        assert_eq!(file_name("comp4", "test", "../a b"), "comp4_det_test_..%2Fa b.txt");
        assert_ne!(file_name("comp4", "test", "a/b"), file_name("comp4", "test", "a%2Fb"));
    }

    #[test]
    fn a_name_may_have_blanks() {
        let images = HashMap::from([("photo 2 (copy)", 1)]);
        let found = parse("photo 2 (copy)  0.5 1 2 3.5 4", &images).unwrap();
        assert_eq!((found.image, found.score, found.bbox), (1, 0.5, [1.0, 2.0, 3.5, 4.0]));
        assert!(parse("0.5 1 2 3 4", &images).is_err());
    }

    #[test]
    fn files_of_the_kit_give_its_figures() {
        for name in ["case.json", "decimals.json"] {
            let folder = tempfile::tempdir().unwrap();
            let mut case = Case::load(name);
            let found = write(&case, folder.path());
            known(&mut case);
            case.assert_equal(&evaluate_voc_files(folder.path(), "test", &found).unwrap());
        }
    }

    #[test]
    fn written_files_give_the_figures_of_the_detections_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let case = Case::load("decimals.json");
        write(&case, folder.path());
        let mut dataset =
            crate::data::voc::survey(folder.path(), "test", crate::data::Labels::Boxes).unwrap().0;
        let results: Vec<ImageDetections> = case
            .results()
            .into_iter()
            .filter(|result| result.detections.iter().all(|d| case.classes[d.class] != "unseen"))
            .map(|result| ImageDetections { image_id: result.image_id + 1, ..result })
            .collect();
        // The classes of the folder are the sorted ones that occur, which are the case's without its last.
        let names: Vec<_> = dataset.categories.iter().map(|c| c.name.clone()).collect();
        assert_eq!(names, case.classes[..names.len()]);
        dataset.images.iter_mut().for_each(|image| image.file_name = format!("{:06}.jpg", image.id - 1));
        let out = folder.path().join("ours");
        write_voc_files(&out, "test", &dataset, &results).unwrap();
        let files = evaluate_voc_files(folder.path(), "test", &out).unwrap();
        let memory = evaluate_voc(&dataset, &results).unwrap();
        assert!((files.area.unwrap() - memory.area.unwrap()).abs() < 1e-12);
        assert!((files.eleven_points.unwrap() - memory.eleven_points.unwrap()).abs() < 1e-12);
        assert!(memory.area.unwrap() > 0.1);
    }

    #[test]
    fn what_the_kit_could_not_read_is_named_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let case = Case::load("case.json");
        let found = write(&case, folder.path());
        let cat = found.join("comp4_det_test_cat.txt");
        let error = |text: &str| {
            std::fs::write(&cat, text).unwrap();
            evaluate_voc_files(folder.path(), "test", &found).unwrap_err().to_string()
        };
        let good = "000001 0.5 1 1 9 9\n";
        for (bad, reason) in [
            ("000001 0.5 1 1 9", "five finite numbers"),
            ("000001 high 1 1 9 9", "five finite numbers"),
            ("000001 nan 1 1 9 9", "five finite numbers"),
            ("000001 0.5 1 1 9 9 9", "five finite numbers"),
            ("4711 0.5 1 1 9 9", "`4711`"),
        ] {
            let message = error(&format!("{good}\n{bad}\n"));
            assert!(message.contains("comp4_det_test_cat.txt") && message.contains("line 3"), "{message}");
            assert!(message.contains(reason), "{message}");
        }
        std::fs::remove_file(&cat).unwrap();
        let message = evaluate_voc_files(folder.path(), "test", &found).unwrap_err().to_string();
        assert!(message.contains("comp4_det_test_cat.txt") && message.contains("empty"), "{message}");
        std::fs::write(found.join("comp3_det_test_cat.txt"), "").unwrap();
        let metrics = evaluate_voc_files(folder.path(), "test", &found).unwrap();
        assert_eq!(metrics.per_class.iter().find(|c| c.name == "cat").unwrap().area, Some(0.0));
    }
}
