//! What to render, checked.

use scrl_core::config::{SettingError, require, share};
use serde::{Deserialize, Serialize};

/// How many scenes of which kind to render. The defaults make a data set that a slim ResNet-18 detector learns in
/// minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SynthConfig {
    /// The same seed gives the same bytes.
    pub seed: u64,
    /// Image width, in pixels.
    pub width: u32,
    /// Image height, in pixels.
    pub height: u32,
    /// Annotated training scenes.
    pub train: usize,
    /// Annotated validation scenes.
    pub val: usize,
    /// Scenes without annotations, for pretraining.
    pub unlabelled: usize,
    /// Images of a single object, for each of the eight classes.
    pub class_images: usize,
    /// Least and greatest number of objects in a scene. A crowded scene may end up with fewer, never with none.
    pub objects: [usize; 2],
    /// Longer side of the smallest object, as a part of the image's shorter side.
    pub min_scale: f64,
    /// Longer side of the largest object, as a part of the image's shorter side.
    pub max_scale: f64,
    /// Share of the objects whose pattern is that of their class, as most things of a kind are of one stuff; the others,
    /// all of them at 0, have any pattern and are told only by their outline. Colours are always random.
    pub material: f64,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            width: 128,
            height: 128,
            train: 2000,
            val: 400,
            unlabelled: 4000,
            class_images: 250,
            objects: [2, 8],
            min_scale: 0.1,
            max_scale: 0.6,
            material: 0.0,
        }
    }
}

/// Scenes that cannot be rendered as asked, or not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A value of the configuration that cannot be used.
    #[error("{0}")]
    Setting(
        #[source]
        #[from]
        SettingError,
    ),

    /// The output folder is in use.
    #[error("`{path}` is not empty; pass --overwrite to replace its scenes, or another --out")]
    Occupied {
        /// The folder.
        path: std::path::PathBuf,
    },

    /// The output folder holds something else.
    #[error(
        "`{path}` holds files that `scrl synth` did not write, so it is not replaced; pass another --out"
    )]
    Foreign {
        /// The folder.
        path: std::path::PathBuf,
    },

    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Data(#[from] scrl_core::data::DataError),
}

/// The longer side of the smallest object whose class can be seen, in pixels.
const MIN_SIDE: f64 = 6.0;
const MAX_IMAGE_SIDE: u32 = 4096;
/// Each pixel's owner is a byte, and 0 is the background.
const MAX_OBJECTS: usize = 255;

impl SynthConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first key whose value cannot be used, with the values that can.
    pub fn validate(&self) -> Result<(), SettingError> {
        for (key, side) in [("width", self.width), ("height", self.height)] {
            let expected = format!("16 to {MAX_IMAGE_SIDE} pixels");
            require((16..=MAX_IMAGE_SIDE).contains(&side), key, side, expected)?;
        }
        let [least, most] = self.objects;
        let expected = format!("[least, most] with 1 ≤ least ≤ most ≤ {MAX_OBJECTS}");
        let ordered = 1 <= least && least <= most && most <= MAX_OBJECTS;
        require(ordered, "objects", format!("[{least}, {most}]"), expected)?;
        let smallest = MIN_SIDE / f64::from(self.width.min(self.height));
        let expected = format!("{smallest:.3} (objects of {MIN_SIDE} pixels) or more");
        // A comparison with NaN is false, so NaN is refused as well.
        require(self.min_scale >= smallest, "min_scale", self.min_scale, expected)?;
        let expected = format!("min_scale ({}) to 1", self.min_scale);
        require((self.min_scale..=1.0).contains(&self.max_scale), "max_scale", self.max_scale, expected)?;
        share("material", self.material)?;
        let scenes = self.train + self.val + self.unlabelled + self.class_images;
        require(scenes > 0, "train", 0, "at least one scene in train, val, unlabelled or class_images")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        SynthConfig::default().validate().unwrap();
    }

    #[test]
    fn each_impossible_value_is_refused_by_the_name_of_its_key() {
        let refused = |change: fn(&mut SynthConfig)| {
            let mut config = SynthConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.width = 0).starts_with("setting `width` is 0, but must be 16 to 4096 pixels"));
        assert!(refused(|c| c.height = 100_000).contains("`height`"));
        assert!(refused(|c| c.objects = [0, 3]).contains("`objects` is [0, 3]"));
        assert!(refused(|c| c.objects = [5, 3]).contains("`objects`"));
        assert!(refused(|c| c.objects = [1, 256]).contains("`objects`"));
        assert!(refused(|c| c.min_scale = 0.01).contains("`min_scale`"));
        assert!(refused(|c| c.min_scale = f64::NAN).contains("`min_scale`"));
        assert!(refused(|c| c.max_scale = 0.05).contains("`max_scale`"));
        assert!(refused(|c| c.max_scale = 1.5).contains("`max_scale`"));
        assert!(refused(|c| c.material = 1.1).contains("`material`"));
        assert!(
            refused(|c| (c.train, c.val, c.unlabelled, c.class_images) = (0, 0, 0, 0))
                .contains("at least one")
        );
    }

    #[test]
    fn an_unknown_key_is_refused_and_a_missing_one_takes_its_default() {
        let config: SynthConfig = toml::from_str("train = 3\nobjects = [1, 2]").unwrap();
        assert_eq!(config, SynthConfig { train: 3, objects: [1, 2], ..SynthConfig::default() });
        let error = toml::from_str::<SynthConfig>("trian = 3").unwrap_err();
        assert!(error.to_string().contains("trian"), "{error}");
    }
}
