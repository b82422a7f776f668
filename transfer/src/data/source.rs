//! Where detection data lies and in which format.

use std::path::{Path, PathBuf};

use crate::data::DetectionDataset;
use crate::data::coco;
use scrl_core::data::error::DataError;
use serde::{Deserialize, Serialize};

use super::{union, voc};

/// What is read of annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Boxes and classes.
    Boxes,
    /// Masks as well.
    Masks,
}

/// A split of a data set, as a config file names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase", deny_unknown_fields)]
pub enum DataSource {
    /// `format = "coco"`: an instances file and the folder of its images.
    Coco {
        /// The file of annotations.
        annotations: PathBuf,
        /// The folder of images.
        images: PathBuf,
    },
    /// `format = "voc"`: a VOC folder or development kit (filled in by `--data` when empty) and a list in
    /// `ImageSets/Main`.
    Voc {
        /// The folder that holds `Annotations`, `ImageSets` and `JPEGImages`.
        #[serde(default)]
        root: PathBuf,
        /// The list in `ImageSets/Main`, for example `trainval`.
        split: String,
    },
    /// `format = "union"`: several sources of the same classes as one, for example VOC 2007's `trainval` and `test` with
    /// VOC 2012's `trainval`. With `--data`, relative roots of VOC parts are looked for in that folder.
    Union {
        /// The sources.
        parts: Vec<DataSource>,
    },
}

impl DataSource {
    /// Reads the annotations; images are decoded when they are needed. The number of boxes left out is logged.
    ///
    /// # Errors
    /// See [`coco::load`], [`voc::load`] and [`union::join`].
    pub fn load(&self, labels: Labels) -> Result<DetectionDataset, DataError> {
        let dataset = match self {
            Self::Coco { annotations, images } => coco::load(annotations, images, labels)?,
            Self::Voc { root, split } => voc::load(root, split, labels)?,
            Self::Union { parts } => {
                return union::join(parts.iter().map(|part| part.load(labels)).collect::<Result<_, _>>()?);
            }
        };
        if dataset.dropped > 0 {
            tracing::warn!(
                dropped = dataset.dropped,
                data = dataset.name,
                "left out boxes without area inside their image; `scrl inspect dataset` lists them"
            );
        }
        Ok(dataset)
    }

    /// The source with the relative roots of its VOC parts in `folder`.
    fn placed_in(&self, folder: &Path) -> Self {
        match self {
            Self::Coco { .. } => self.clone(),
            Self::Voc { root, split } => Self::Voc { root: folder.join(root), split: split.clone() },
            Self::Union { parts } => {
                Self::Union { parts: parts.iter().map(|part| part.placed_in(folder)).collect() }
            }
        }
    }

    /// The training and the evaluation split of a folder, found by its layout.
    ///
    /// - VOC (`Annotations/` or `VOC20xx/` inside): `trainval` and `test`, else `train` and `val`; the splits of sources
    ///   that are given already are kept, and so are unions. From a kit with several years, evaluation takes VOC 2007's
    ///   `test`.
    /// - COCO (`annotations/instances_train*.json`): images in the folder named as the file, for example `train2017/`,
    ///   and `instances_val*.json` in the same way.
    /// - COCO with a folder for each split, `train/` and `valid/`, `val/` or `validation/`: `_annotations.coco.json`
    ///   beside the images (Roboflow), or `labels.json` beside `data/` (FiftyOne).
    ///
    /// # Errors
    /// When the folder has none of these layouts.
    pub fn detect(folder: &Path, given: [Option<&DataSource>; 2]) -> Result<[DataSource; 2], DataError> {
        if voc::is_voc_root(folder) { Self::detect_voc(folder, given) } else { Self::detect_coco(folder) }
    }

    /// Every split of a folder by its name, or those that are asked for; empty where the folder has neither layout.
    ///
    /// VOC: the lists of whole splits, without `train` and `val` where `trainval` holds both. COCO: the files
    /// `annotations/instances_<name>.json`, whose images need not be there, or the folders of splits.
    ///
    /// # Errors
    /// When a folder cannot be read or lacks a split that is asked for.
    pub fn splits(folder: &Path, wanted: &[String]) -> Result<Vec<(String, DataSource)>, DataError> {
        let is_voc = voc::is_voc_root(folder);
        let folders = split_folders(folder);
        if !is_voc && !folders.is_empty() && coco_names(folder, "instances_").is_empty() {
            return chosen(folder, folders, wanted);
        }
        let found = if is_voc { voc::split_names(folder)? } else { coco_names(folder, "instances_") };
        let whole = is_voc && found.iter().any(|name| name == "trainval");
        let part = |name: &str| whole && (name == "train" || name == "val");
        let names: Vec<String> = if wanted.is_empty() {
            found.iter().filter(|name| !part(name)).cloned().collect()
        } else {
            wanted.to_vec()
        };
        if !is_voc && !found.is_empty() {
            check_splits(folder, &found, &names)?;
        }
        let source = |name: &String| match is_voc {
            true => Self::Voc { root: folder.to_path_buf(), split: name.clone() },
            false => Self::Coco {
                annotations: folder.join("annotations").join(format!("instances_{name}.json")),
                images: coco_images(folder, name).unwrap_or_else(|| folder.join(name)),
            },
        };
        if found.is_empty() {
            return Ok(Vec::new());
        }
        Ok(names.into_iter().map(|name| (name.clone(), source(&name))).collect())
    }

    fn detect_voc(folder: &Path, given: [Option<&DataSource>; 2]) -> Result<[DataSource; 2], DataError> {
        let has =
            |root: &Path, split: &str| root.join("ImageSets/Main").join(format!("{split}.txt")).is_file();
        let in_2007 = folder.join("VOC2007");
        let test_root = if in_2007.is_dir() { in_2007 } else { folder.to_path_buf() };
        let anywhere = |split: &str| {
            let years = ["", "VOC2007", "VOC2008", "VOC2009", "VOC2010", "VOC2011", "VOC2012"];
            years.iter().any(|year| has(&folder.join(year), split))
        };
        let split = |source: Option<&DataSource>| match source {
            Some(Self::Voc { split, .. }) => Some(split.clone()),
            _ => None,
        };
        let [train, test] = match (split(given[0]), split(given[1])) {
            (Some(train), Some(test)) => [train, test],
            (train, test) => {
                let [found_train, found_test] = if anywhere("trainval") && anywhere("test") {
                    ["trainval", "test"]
                } else if anywhere("train") && anywhere("val") {
                    ["train", "val"]
                } else {
                    let reason = "`ImageSets/Main` has neither `trainval` and `test` nor `train` and `val`; name the \
                                  splits in data.train and data.val";
                    return Err(DataError::invalid(folder, reason));
                };
                [train.unwrap_or(found_train.into()), test.unwrap_or(found_test.into())]
            }
        };
        let test_root = if has(&test_root, &test) { test_root } else { folder.to_path_buf() };
        let union = |source: Option<&DataSource>| match source {
            Some(union @ Self::Union { .. }) => Some(union.placed_in(folder)),
            _ => None,
        };
        Ok([
            union(given[0]).unwrap_or_else(|| Self::Voc { root: folder.to_path_buf(), split: train }),
            union(given[1]).unwrap_or(Self::Voc { root: test_root, split: test }),
        ])
    }

    fn detect_coco(folder: &Path) -> Result<[DataSource; 2], DataError> {
        let folders = split_folders(folder);
        if !folders.is_empty() && coco_names(folder, "instances_").is_empty() {
            return Ok([split_of(folder, &folders, &["train"])?, split_of(folder, &folders, &EVALUATION)?]);
        }
        let [train, val] = ["train", "val"].map(|split| coco_split(folder, split));
        Ok([train?, val?])
    }
}

/// Names of the folder of the evaluation split.
const EVALUATION: [&str; 3] = ["valid", "val", "validation"];

/// Splits that have a folder each, by name: annotations and images as Roboflow and FiftyOne write them.
fn split_folders(folder: &Path) -> Vec<(String, DataSource)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let source = |name: String| {
        let split = folder.join(&name);
        let layouts = [("_annotations.coco.json", split.clone()), ("labels.json", split.join("data"))];
        let (annotations, images) =
            layouts.into_iter().find(|(file, images)| split.join(file).is_file() && images.is_dir())?;
        Some((name, DataSource::Coco { annotations: split.join(annotations), images }))
    };
    let mut found: Vec<_> = names.filter_map(source).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The first of these folders that is there.
fn split_of(folder: &Path, found: &[(String, DataSource)], names: &[&str]) -> Result<DataSource, DataError> {
    let of = |name: &&str| found.iter().find(|(split, _)| split == name);
    let split = names.iter().find_map(of).ok_or_else(|| {
        let there: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let reason = format!(
            "it has annotations in `{}/`, but no `{}/` with any; add it, or name the files in data.train and data.val",
            there.join("/`, `"),
            names.join("/` or `")
        );
        DataError::invalid(folder, reason)
    })?;
    Ok(split.1.clone())
}

/// Those of the splits that are asked for; all where none is.
fn chosen(
    folder: &Path,
    mut found: Vec<(String, DataSource)>,
    wanted: &[String],
) -> Result<Vec<(String, DataSource)>, DataError> {
    let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    check_splits(folder, &names, wanted)?;
    found.retain(|(name, _)| wanted.is_empty() || wanted.contains(name));
    Ok(found)
}

fn check_splits(folder: &Path, found: &[String], wanted: &[String]) -> Result<(), DataError> {
    match wanted.iter().find(|name| !found.contains(name)) {
        None => Ok(()),
        Some(absent) => {
            let reason = format!("it has no split `{absent}`; splits here: {}", found.join(", "));
            Err(DataError::invalid(folder, reason))
        }
    }
}

/// The files of `annotations/` that start with `prefix`, without it and `.json`; sorted.
fn coco_names(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("annotations"));
    let names = entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let rest = |name: String| Some(name.strip_prefix(prefix)?.strip_suffix(".json")?.to_string());
    let mut found: Vec<String> = names.filter_map(rest).collect();
    found.sort();
    found
}

/// The folder of a split's images.
fn coco_images(folder: &Path, name: &str) -> Option<PathBuf> {
    let short = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let candidates =
        [folder.join(name), folder.join("images").join(name), folder.join(short), folder.join("images")];
    candidates.into_iter().find(|path| path.is_dir())
}

fn coco_split(folder: &Path, split: &str) -> Result<DataSource, DataError> {
    let prefix = format!("instances_{split}");
    let found = coco_names(folder, &prefix);
    let [rest] = found.as_slice() else {
        let reason = match found.len() {
            0 => format!(
                "there is no `annotations/{prefix}*.json`, no `{split}/_annotations.coco.json` and no VOC layout; add the \
                 file, pass another --data, or name the files in data.train and data.val of the config"
            ),
            count => format!("it has {count} files `annotations/{prefix}*.json`; name one in data.{split}"),
        };
        return Err(DataError::invalid(folder, reason));
    };
    let name = format!("{split}{rest}");
    let annotations = folder.join("annotations").join(format!("instances_{name}.json"));
    match coco_images(folder, &name).or_else(|| Some(folder.join(split)).filter(|path| path.is_dir())) {
        Some(images) => Ok(DataSource::Coco { annotations, images }),
        None => {
            let reason =
                format!("`{name}/`, the folder of the images of `instances_{name}.json`, is not there");
            Err(DataError::invalid(folder, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn a_coco_folder_is_recognised_by_its_instances_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for split in ["train2017", "val2017"] {
            touch(root.join(format!("annotations/instances_{split}.json")));
            std::fs::create_dir_all(root.join(split)).unwrap();
        }
        touch(root.join("annotations/captions_train2017.json"));
        let coco = |split: &str| DataSource::Coco {
            annotations: root.join(format!("annotations/instances_{split}.json")),
            images: root.join(split),
        };
        assert_eq!(DataSource::detect(root, [None, None]).unwrap(), [coco("train2017"), coco("val2017")]);
        std::fs::remove_dir(root.join("val2017")).unwrap();
        assert!(DataSource::detect(root, [None, None]).unwrap_err().to_string().contains("val2017"));
    }

    #[test]
    fn splits_in_folders_of_their_own_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let roboflow = folder.path().join("roboflow");
        for split in ["train", "valid", "test"] {
            touch(roboflow.join(split).join("_annotations.coco.json"));
        }
        let coco = |root: &Path, split: &str, file: &str, images: &str| DataSource::Coco {
            annotations: root.join(split).join(file),
            images: root.join(split).join(images),
        };
        let beside = |split: &str| coco(&roboflow, split, "_annotations.coco.json", "");
        assert_eq!(DataSource::detect(&roboflow, [None, None]).unwrap(), [beside("train"), beside("valid")]);
        let names = |wanted: &[String]| -> Vec<String> {
            DataSource::splits(&roboflow, wanted).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            (names(&[]), names(&["test".into()])),
            (vec!["test".into(), "train".into(), "valid".into()], vec!["test".into()])
        );
        let error = DataSource::splits(&roboflow, &["dev".into()]).unwrap_err().to_string();
        assert!(error.contains("`dev`") && error.contains("test, train, valid"), "{error}");
        let fiftyone = folder.path().join("fiftyone");
        touch(fiftyone.join("train/labels.json"));
        touch(fiftyone.join("train/data/a.jpg"));
        let error = DataSource::detect(&fiftyone, [None, None]).unwrap_err().to_string();
        assert!(error.contains("annotations in `train/`") && error.contains("`valid/` or `val/`"), "{error}");
        touch(fiftyone.join("validation/labels.json"));
        touch(fiftyone.join("validation/data/a.jpg"));
        let apart = |split: &str| coco(&fiftyone, split, "labels.json", "data");
        assert_eq!(
            DataSource::detect(&fiftyone, [None, None]).unwrap(),
            [apart("train"), apart("validation")]
        );
    }

    #[test]
    fn a_development_kit_trains_on_all_years_and_tests_on_2007() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (year, split) in [("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")] {
            touch(root.join(year).join("ImageSets/Main").join(format!("{split}.txt")));
            std::fs::create_dir_all(root.join(year).join("Annotations")).unwrap();
        }
        let voc = |root: PathBuf, split: &str| DataSource::Voc { root, split: split.into() };
        let found = DataSource::detect(root, [None, None]).unwrap();
        assert_eq!(found, [voc(root.into(), "trainval"), voc(root.join("VOC2007"), "test")]);
        let wish = voc(PathBuf::new(), "train");
        let [train, _] = DataSource::detect(root, [Some(&wish), None]).unwrap();
        assert_eq!(train, voc(root.into(), "train"));
    }

    #[test]
    fn a_union_in_the_recipe_is_looked_for_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (year, split) in [("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")] {
            touch(root.join(year).join("ImageSets/Main").join(format!("{split}.txt")));
            std::fs::create_dir_all(root.join(year).join("Annotations")).unwrap();
        }
        let text = "format = \"union\"\nparts = [{ format = \"voc\", root = \"VOC2007\", split = \"test\" }, \
                    { format = \"voc\", split = \"trainval\" }]";
        let union: DataSource = toml::from_str(text).unwrap();
        let [train, test] = DataSource::detect(root, [Some(&union), None]).unwrap();
        let voc = |root: PathBuf, split: &str| DataSource::Voc { root, split: split.into() };
        let parts = vec![voc(root.join("VOC2007"), "test"), voc(root.join(""), "trainval")];
        assert_eq!(train, DataSource::Union { parts });
        assert_eq!(test, voc(root.join("VOC2007"), "test"));
        assert_eq!(toml::from_str::<DataSource>(&toml::to_string(&union).unwrap()).unwrap(), union);
    }

    #[test]
    fn all_splits_of_a_folder_are_found_or_those_that_are_asked_for() {
        let names = |root: &Path, wanted: &[&str]| -> Vec<String> {
            let wanted: Vec<String> = wanted.iter().map(|name| name.to_string()).collect();
            DataSource::splits(root, &wanted).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let folder = tempfile::tempdir().unwrap();
        let (coco, kit, plain) = (folder.path().join("c"), folder.path().join("v"), folder.path().join("p"));
        touch(coco.join("annotations/instances_train2017.json"));
        touch(coco.join("annotations/instances_minival.json"));
        assert_eq!(names(&coco, &[]), ["minival", "train2017"]);
        assert_eq!(names(&coco, &["minival"]), ["minival"]);
        let error = DataSource::splits(&coco, &["test".into()]).unwrap_err().to_string();
        assert!(error.contains("`test`") && error.contains("minival, train2017"), "{error}");
        for split in ["train", "val", "trainval", "test", "dog_train"] {
            touch(kit.join("ImageSets/Main").join(format!("{split}.txt")));
        }
        std::fs::create_dir_all(kit.join("Annotations")).unwrap();
        assert_eq!(names(&kit, &[]), ["test", "trainval"]);
        assert_eq!(names(&kit, &["val"]), ["val"]);
        touch(plain.join("a.jpg"));
        assert!(names(&plain, &[]).is_empty());
    }

    #[test]
    fn a_folder_of_another_layout_is_refused_with_what_is_expected() {
        let folder = tempfile::tempdir().unwrap();
        let message = DataSource::detect(folder.path(), [None, None]).unwrap_err().to_string();
        assert!(message.contains("instances_train*.json"), "{message}");
    }

    #[test]
    fn sources_are_written_and_read_as_toml() {
        let source: DataSource = toml::from_str("format = \"voc\"\nsplit = \"trainval\"").unwrap();
        assert_eq!(source, DataSource::Voc { root: PathBuf::new(), split: "trainval".into() });
        let text = toml::to_string(&source).unwrap();
        assert_eq!(toml::from_str::<DataSource>(&text).unwrap(), source);
        assert!(toml::from_str::<DataSource>("format = \"voc\"\nsplit = \"a\"\nspilt = \"b\"").is_err());
    }
}
