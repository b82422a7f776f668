//! What an exported detector says about itself.

use std::collections::BTreeMap;

use scrl_transfer::DetectorMetadata;
use scrl_transfer::data::Category;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::DetectorOptions;

/// Value of the key `scrl.kind`.
pub const KIND: &str = "detector";

/// What the pixels of the input `images` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// 0 to 255; the graph normalises them.
    Raw,
    /// `(value / 255 − mean) / std`, zero in the padding.
    #[default]
    Normalized,
}

impl InputKind {
    /// `raw` or `normalized`.
    pub fn name(self) -> &'static str {
        match self {
            InputKind::Raw => "raw",
            InputKind::Normalized => "normalized",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        [InputKind::Raw, InputKind::Normalized].into_iter().find(|kind| kind.name() == name)
    }
}

/// What goes into a file beside the network.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorInfo {
    /// Config, classes and preprocessing.
    pub metadata: DetectorMetadata,
    /// SHA-256 of the weight file, in hexadecimal.
    pub weights_sha256: Option<String>,
    /// The recipe of the training, where it is known.
    pub protocol: Option<String>,
    /// What to add to a label for the number that the weights' own software uses: 1 for torchvision, whose 0 is the
    /// background.
    pub label_offset: i64,
}

impl DetectorInfo {
    /// A detector of which no more is known.
    pub fn new(metadata: DetectorMetadata) -> Self {
        Self { metadata, weights_sha256: None, protocol: None, label_offset: 0 }
    }

    pub(super) fn description(&self, options: &DetectorOptions) -> String {
        let config = &self.metadata.config;
        let pixels = match options.input {
            InputKind::Raw => "values from 0 to 255",
            InputKind::Normalized => "(value / 255 - scrl.mean) / scrl.std, 0 in the padding",
        };
        let sizes = match options.image_sizes {
            true => " Input `image_sizes`: [batch, 2], height and width of each image without padding.",
            false => "",
        };
        let masks = match config.has_masks() {
            true => {
                ", masks ([batch, detections, 28, 28], the probability of each cell of a box to be of the object; sampled at the \
                 centres of an image's pixels, one half is the edge)"
            }
            false => "",
        };
        format!(
            "{} with {} and FPN, {} classes, in the variant of {}. Input `images`: [batch, 3, height, width], RGB, \
             {pixels}.{sizes} Outputs: boxes (x1, y1, x2, y2 in pixels of the input), scores, labels (index into \
             scrl.classes), num_detections{masks}; zero beyond them.",
            config.architecture.title(),
            config.backbone.arch,
            config.num_classes,
            text(&config.variant).trim_matches('"')
        )
    }

    /// Key and value pairs of the file.
    pub fn properties(&self, options: &DetectorOptions) -> BTreeMap<String, String> {
        let DetectorMetadata { config, categories, preprocessing } = &self.metadata;
        let list = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
        let names: Vec<&str> = categories.iter().map(|category| category.name.as_str()).collect();
        let numbered: Vec<(u64, &str)> = categories.iter().map(|c| (c.id, c.name.as_str())).collect();
        let resize = format!(
            "short side {}, long side at most {}, {}; padded at the right and bottom to a multiple of 32",
            preprocessing.min_size,
            preprocessing.max_size,
            text(&preprocessing.interpolation).trim_matches('"'),
        );
        let mut pairs = vec![
            ("kind", KIND.to_string()),
            ("arch", config.backbone.arch.name().to_string()),
            ("width", config.backbone.width.to_string()),
            ("variant", text(&config.variant).trim_matches('"').to_string()),
            ("classes", text(&names)),
            ("labels", "index into scrl.classes, from 0".to_string()),
            ("label_offset", self.label_offset.to_string()),
            ("input", options.input.name().to_string()),
            ("image_sizes", options.image_sizes.to_string()),
            ("color_order", "RGB".to_string()),
            ("mean", list(preprocessing.mean)),
            ("std", list(preprocessing.std)),
            ("resize", resize),
            ("precision", if options.half { "float16" } else { "float32" }.to_string()),
            ("batch_norm", if options.fold_batch_norm { "folded" } else { "separate" }.to_string()),
            ("tool_version", env!("CARGO_PKG_VERSION").to_string()),
            ("config", text(config)),
            ("categories", text(&numbered)),
            ("preprocessing", text(preprocessing)),
        ];
        pairs.extend(self.weights_sha256.clone().map(|hash| ("weights_sha256", hash)));
        pairs.extend(self.protocol.clone().map(|protocol| ("protocol", protocol)));
        pairs.into_iter().map(|(key, value)| (format!("scrl.{key}"), value)).collect()
    }

    /// The inverse of [`properties`](Self::properties), or what is missing; `read` gives a property by its key.
    pub(crate) fn from_properties(
        read: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, DetectorOptions), String> {
        let entry = |key: &str| read(&format!("scrl.{key}"));
        let required = |key: &str| entry(key).ok_or_else(|| format!("its metadata has no `scrl.{key}`"));
        let kind = required("kind")?;
        if kind != KIND {
            return Err(format!("it is a {kind}"));
        }
        let categories: Vec<(u64, String)> = parse("categories", &required("categories")?)?;
        let metadata = DetectorMetadata {
            config: parse("config", &required("config")?)?,
            categories: categories.into_iter().map(|(id, name)| Category { id, name }).collect(),
            preprocessing: parse("preprocessing", &required("preprocessing")?)?,
        };
        let input = required("input")?;
        let options = DetectorOptions {
            input: InputKind::from_name(&input).ok_or_else(|| format!("its `scrl.input` is `{input}`"))?,
            image_sizes: parse("image_sizes", &required("image_sizes")?)?,
            half: required("precision")? == "float16",
            fold_batch_norm: required("batch_norm")? == "folded",
            ..Default::default()
        };
        let info = Self {
            metadata,
            weights_sha256: entry("weights_sha256"),
            protocol: entry("protocol"),
            label_offset: parse("label_offset", &required("label_offset")?)?,
        };
        Ok((info, options))
    }
}

/// Plain structs always have a JSON form.
fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(key: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("its `scrl.{key}` cannot be understood: {error}"))
}
