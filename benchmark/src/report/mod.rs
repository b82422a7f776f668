//! `report.md` and `report.html`: what was found, how sure it is, what it was made of and what it took.

mod costs;
mod curves;
mod environment;
mod pictures;
mod settings;
mod similarity;
pub mod tables;
mod verdict;

use std::path::Path;

use crate::error::Result;

use super::budget::ImageCounts;
use super::graph::{Cell, CellKey, Sources};
use super::plan::{Arm, ResolvedPlan};
use super::record::CellState;
use super::record::{Done, write_file};
use super::results::Results;
use scrl_figures::document::{Block, Document};

/// Where the report's pictures go, below the benchmark's folder.
const FIGURES: &str = "figures";

/// A benchmark all of whose cells have ended.
pub struct Finished<'a> {
    /// The plan.
    pub plan: &'a ResolvedPlan,
    /// With the plan's budget.
    pub arms: &'a [Arm],
    /// Numbers of images.
    pub counts: ImageCounts,
    /// Where the data lie.
    pub sources: &'a Sources,
    /// The cells.
    pub cells: &'a [Cell],
    /// How each of them ended, in the same order.
    pub states: &'a [CellState],
    /// All figures.
    pub results: &'a Results,
    /// The benchmark's folder.
    pub out: &'a Path,
    /// The seeds that the benchmark was begun with.
    pub first_seeds: &'a [u64],
    /// The program that shows the benchmark, for pictures that need a model.
    pub host: &'a crate::Host,
}

impl Finished<'_> {
    /// A warning where seeds were added to a benchmark that had begun.
    fn added_seeds(&self) -> Option<String> {
        let added = self.plan.plan.seeds.iter().filter(|seed| !self.first_seeds.contains(seed));
        let added: Vec<String> = added.map(u64::to_string).collect();
        (!added.is_empty()).then(|| {
            format!(
                "The plan was begun with other seeds; {} came later. Seeds that are added in sight of results make intervals \
                 and p-values too small.",
                added.join(", ")
            )
        })
    }

    /// The finished cells.
    fn done(&self) -> impl Iterator<Item = (&Cell, &Done)> {
        self.cells.iter().zip(self.states).filter_map(|(cell, state)| match state {
            CellState::Done(done) => Some((cell, &**done)),
            _ => None,
        })
    }

    /// The finished cell of a kind.
    fn find(&self, wanted: impl Fn(&CellKey) -> bool) -> Option<(&Cell, &Done)> {
        self.done().find(|(cell, _)| wanted(&cell.key))
    }

    /// The finished pretraining of an init with the smallest position among the seeds.
    fn pretraining(&self, init: &str) -> Option<(&Cell, &Done)> {
        self.find(|key| matches!(key, CellKey::Pretrain { init: of, .. } if of == init))
    }

    /// The first finished fine-tuning of an init with most labels.
    fn fine_tuning(&self, dataset: &str, init: &str) -> Option<(&Cell, &Done)> {
        let most = self.results.fractions(dataset).last().copied()?;
        self.find(|key| {
            matches!(key, CellKey::Transfer { dataset: d, init: i, fraction, .. }
                if d == dataset && i == init && *fraction == most)
        })
    }

    /// The position of an init in the plan, by which charts colour it.
    fn style(&self, init: &str) -> usize {
        self.arms.iter().position(|arm| arm.name == init).unwrap_or(0)
    }

    /// A title, with the data set where there are several.
    fn titled(&self, title: &str, dataset: &str) -> String {
        if self.results.datasets().len() > 1 { format!("{title}, {dataset}") } else { title.to_string() }
    }

    /// Writes a picture and gives its place below the benchmark's folder.
    fn write_figure(&self, name: &str, content: &[u8]) -> Result<String> {
        let file = format!("{FIGURES}/{name}");
        write_file(&self.out.join(&file), content)?;
        Ok(file)
    }
}

/// Writes both reports and their pictures.
///
/// # Errors
/// When a run's files cannot be read, or a file cannot be written.
pub fn write(finished: &Finished) -> Result<()> {
    let document = Document { title: finished.plan.plan.report.title.clone(), blocks: blocks(finished)? };
    write_file(&finished.out.join("report.md"), document.markdown().as_bytes())?;
    write_file(&finished.out.join("report.html"), document.html(finished.out).as_bytes())
}

fn blocks(finished: &Finished) -> Result<Vec<Block>> {
    let mut blocks = verdict::verdict(finished);
    blocks.extend(verdict::unfinished(finished));
    blocks.push(Block::Heading("Detection".into()));
    blocks.extend(tables::detection(finished));
    blocks.extend(curves::label_efficiency(finished)?);
    blocks.extend(tables::differences(finished));
    blocks.extend(tables::by_pretraining(finished));
    blocks.extend(curves::pretraining_length(finished)?);
    blocks.push(Block::Heading("Training".into()));
    blocks.extend(curves::training(finished)?);
    blocks.extend(curves::health(finished)?);
    blocks.extend(pictures::detections(finished)?);
    blocks.extend(similarity::maps(finished)?);
    blocks.extend(tables::per_class(finished));
    blocks.push(Block::Heading("What was compared".into()));
    blocks.extend(settings::arms(finished));
    blocks.extend(settings::sweep(finished));
    blocks.extend(settings::protocols(finished));
    blocks.extend(costs::onnx(finished));
    blocks.push(Block::Heading("Cost and environment".into()));
    blocks.extend(costs::costs(finished));
    blocks.extend(environment::blocks(finished));
    Ok(blocks)
}

/// A share in `[0, 1]` in percent with one decimal.
fn points(value: f64) -> String {
    // Adding zero turns a rounded -0 into 0.
    format!("{:.1}", (1000.0 * value).round() / 10.0 + 0.0)
}
