//! Where detection data lies and in which format.

use std::path::{Path, PathBuf};

use scrl_core::data::coco;
use scrl_core::data::detection::DetectionDataset;
use scrl_core::data::error::DataError;
use serde::{Deserialize, Serialize};

use super::voc;

/// A split of a data set, as a config file names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase", deny_unknown_fields)]
pub enum DataSource {
    /// `format = "coco"`: an instances file and the folder of its images.
    Coco { annotations: PathBuf, images: PathBuf },
    /// `format = "voc"`: a VOC folder or development kit (filled in by `--data` when empty) and a list in
    /// `ImageSets/Main`.
    Voc {
        #[serde(default)]
        root: PathBuf,
        split: String,
    },
}

impl DataSource {
    /// Reads the annotations; images are decoded when they are needed.
    ///
    /// # Errors
    /// See [`coco::load`] and [`voc::load`].
    pub fn load(&self) -> Result<DetectionDataset, DataError> {
        match self {
            Self::Coco { annotations, images } => coco::load(annotations, images),
            Self::Voc { root, split } => voc::load(root, split),
        }
    }

    /// The training and the evaluation split of a folder, found by its layout.
    ///
    /// - VOC (`Annotations/` or `VOC20xx/` inside): `trainval` and `test`, else `train` and `val`; the splits of sources
    ///   that are given already are kept. From a kit with several years, evaluation takes VOC 2007's `test`.
    /// - COCO (`annotations/instances_train*.json`): images in the folder named as the file, for example `train2017/`,
    ///   and `instances_val*.json` in the same way.
    ///
    /// # Errors
    /// When the folder has neither layout.
    pub fn detect(folder: &Path, given: [Option<&DataSource>; 2]) -> Result<[DataSource; 2], DataError> {
        if voc::is_voc_root(folder) { Self::detect_voc(folder, given) } else { Self::detect_coco(folder) }
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
        Ok([
            Self::Voc { root: folder.to_path_buf(), split: train },
            Self::Voc { root: test_root, split: test },
        ])
    }

    fn detect_coco(folder: &Path) -> Result<[DataSource; 2], DataError> {
        let [train, val] = ["train", "val"].map(|split| coco_split(folder, split));
        Ok([train?, val?])
    }
}

fn coco_split(folder: &Path, split: &str) -> Result<DataSource, DataError> {
    let annotations = folder.join("annotations");
    let prefix = format!("instances_{split}");
    let mut found: Vec<String> = std::fs::read_dir(&annotations)
        .map(|entries| entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    found.retain(|name| name.starts_with(&prefix) && name.ends_with(".json"));
    found.sort();
    let [name] = found.as_slice() else {
        let reason = match found.len() {
            0 => format!(
                "there is no `annotations/{prefix}*.json` and no VOC layout; add the file or pass another --data"
            ),
            count => format!("it has {count} files `annotations/{prefix}*.json`; name one in data.{split}"),
        };
        return Err(DataError::invalid(folder, reason));
    };
    let stem = name.trim_start_matches("instances_").trim_end_matches(".json");
    let candidates =
        [folder.join(stem), folder.join("images").join(stem), folder.join(split), folder.join("images")];
    match candidates.into_iter().find(|path| path.is_dir()) {
        Some(images) => Ok(DataSource::Coco { annotations: annotations.join(name), images }),
        None => Err(DataError::invalid(
            folder,
            format!("`{stem}/`, the folder of the images of `{name}`, is not there"),
        )),
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
