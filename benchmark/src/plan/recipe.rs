//! A recipe file with settings that replace its own.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// `"scrl.toml"`, or `{ recipe = "scrl.toml", set = ["schedule.epochs=4"] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recipe {
    /// Relative to the plan's file.
    pub recipe: PathBuf,
    /// Settings that replace the recipe's, as on the command line.
    pub set: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    recipe: PathBuf,
    #[serde(default)]
    set: Vec<String>,
}

impl<'de> Deserialize<'de> for Recipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathOrTable)
    }
}

struct PathOrTable;

impl<'de> Visitor<'de> for PathOrTable {
    type Value = Recipe;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a recipe's path or a table { recipe = PATH, set = [\"KEY=VALUE\"] }")
    }

    fn visit_str<E>(self, path: &str) -> Result<Recipe, E> {
        Ok(Recipe { recipe: path.into(), set: Vec::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Recipe, A::Error> {
        let Table { recipe, set } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Recipe { recipe, set })
    }
}
