//! The tables of figures: detection, differences, pretrainings, classes.

use super::{Finished, points};
use crate::graph::percent;
use crate::results::{Difference, shown, signed_points};
use crate::statistics::Summary;
use scrl_figures::document::{Block, Table};

/// Classes of the table of classes, at most.
const MOST_CLASSES: usize = 80;

/// The main table.
pub fn detection(finished: &Finished) -> Vec<Block> {
    let mut blocks = vec![Block::Paragraph(
        "AP, AP50 and AP75 are COCO's, of boxes and of masks; VOC07 mAP is the 11-point AP at IoU 0.5. Mean ± standard deviation \
         over seeds; in brackets the 95 % interval of the mean."
            .into(),
    )];
    for dataset in finished.results.datasets() {
        if finished.results.datasets().len() > 1 {
            blocks.push(Block::Subheading(dataset.into()));
        }
        blocks.push(Block::Table(detection_table(finished.results, dataset, true)));
    }
    blocks
}

/// The figures of a data set, a row for each cell.
pub fn detection_table(results: &crate::results::Results, dataset: &str, intervals: bool) -> Table {
    let metrics = results.metrics_of(dataset);
    let mut header = vec!["init", "labels"];
    header.extend(metrics.iter().map(|(_, shown)| shown));
    header.extend(["images", "seeds"]);
    let mut table = Table::new(&header);
    for fraction in results.fractions(dataset) {
        for init in results.inits() {
            let cell: Vec<_> = results.cell(dataset, init, fraction).collect();
            let Some(first) = cell.first() else { continue };
            let start = [init.to_string(), format!("{} %", percent(fraction))];
            let counts = [first.train_images.to_string(), cell.len().to_string()];
            let figures = metrics.iter().map(|(metric, _)| {
                let summary = Summary::of(cell.iter().filter_map(|r| r.metric(metric)));
                summary.map_or("–".into(), |summary| figure(summary, intervals))
            });
            table.row(start.into_iter().chain(figures).chain(counts));
        }
    }
    if let Some(chance) = results.chance.get(dataset) {
        let start = ["boxes that ignore the image".to_string(), "–".into()];
        let figures = metrics
            .iter()
            .map(|(metric, _)| chance.get(*metric).map_or("–".into(), |value| points(*value)));
        table.row(start.into_iter().chain(figures).chain(["–".to_string(), "–".into()]));
    }
    table
}

/// `31.4 ± 0.6 [29.9, 32.9]`.
pub(super) fn figure(summary: Summary, interval: bool) -> String {
    let mean = points(summary.mean);
    match (summary.std, summary.half_width) {
        (Some(std), Some(half)) if interval => format!(
            "{mean} ± {} [{}, {}]",
            points(std),
            points(summary.mean - half),
            points(summary.mean + half)
        ),
        (Some(std), _) => format!("{mean} ± {}", points(std)),
        _ => mean,
    }
}

/// The headline metric of each pretraining apart, where several fine-tunings share one: how far pretrainings differ.
pub fn by_pretraining(finished: &Finished) -> Vec<Block> {
    let (results, metric) = (finished.results, &finished.plan.plan.report.metric);
    let seeds = finished.plan.pretrain_seeds();
    if seeds.len() < 2 || seeds.len() == finished.plan.plan.seeds.len() {
        return Vec::new();
    }
    let mut blocks = Vec::new();
    for dataset in results.datasets() {
        let mut table = Table { header: vec!["init".into(), "labels".into()], rows: Vec::new() };
        table.header.extend(seeds.iter().map(|seed| format!("pretraining {seed}")));
        for fraction in results.fractions(dataset) {
            for arm in finished.arms.iter().filter(|arm| arm.recipe().is_some()) {
                let figures = seeds.iter().map(|seed| {
                    let cell = results.cell(dataset, &arm.name, fraction);
                    let shared = cell.filter(|r| finished.plan.pretrain_seed(r.seed) == *seed);
                    let summary = Summary::of(shared.filter_map(|r| r.metric(metric)));
                    summary.map_or("–".to_string(), |summary| figure(summary, false))
                });
                let start = [arm.name.clone(), format!("{} %", percent(fraction))];
                table.row(start.into_iter().chain(figures));
            }
        }
        blocks.push(Block::Subheading(
            finished.titled(&format!("{} of each pretraining", shown(metric)), dataset),
        ));
        blocks.push(Block::Table(table));
    }
    if !blocks.is_empty() {
        blocks.push(Block::Paragraph(
            "Mean ± standard deviation over the fine-tunings that start from it.".into(),
        ));
    }
    blocks
}

/// Paired differences of every metric.
pub fn differences(finished: &Finished) -> Vec<Block> {
    let results = finished.results;
    let subject = finished.plan.subject();
    let mut blocks = Vec::new();
    for dataset in results.datasets() {
        let metrics = results.metrics_of(dataset);
        let mut header = vec!["against", "labels", "seeds"];
        header.extend(metrics.iter().map(|(_, shown)| shown));
        let mut table = Table::new(&header);
        for baseline in results.inits().into_iter().filter(|init| *init != subject) {
            for fraction in results.fractions(dataset) {
                let find = |metric: &str| {
                    results.differences.iter().find(|d| {
                        d.dataset == dataset
                            && d.baseline == baseline
                            && d.label_fraction == fraction
                            && d.metric == metric
                    })
                };
                let Some(first) = metrics.iter().find_map(|(metric, _)| find(metric)) else { continue };
                let start = [
                    baseline.to_string(),
                    format!("{} %", percent(fraction)),
                    first.over_seeds.count.to_string(),
                ];
                let figures = metrics.iter().map(|(metric, _)| find(metric).map_or("–".into(), signed));
                table.row(start.into_iter().chain(figures));
            }
        }
        if table.rows.is_empty() {
            continue;
        }
        let several = results.datasets().len() > 1;
        let place = if several { format!(" on {dataset}") } else { String::new() };
        blocks.push(Block::Subheading(format!("{subject} less each other init{place}")));
        blocks.push(Block::Table(table));
    }
    if !blocks.is_empty() {
        blocks.push(Block::Paragraph(
            "Percentage points, mean of the differences of equal seeds ± half of its 95 % interval. A star marks differences \
             whose p-value, corrected by Holm's method for the comparisons of its metric, is below 0.05."
                .into(),
        ));
    }
    blocks
}

fn signed(difference: &Difference) -> String {
    let summary = difference.over_seeds;
    let mean = signed_points(summary.mean);
    match summary.half_width {
        Some(half) => {
            let star = if difference.separable == Some(true) { "\u{a0}*" } else { "" };
            format!("{mean} ± {}{star}", points(half))
        }
        None => mean,
    }
}

/// AP of each class with most labels.
pub fn per_class(finished: &Finished) -> Vec<Block> {
    let results = finished.results;
    let mut blocks = Vec::new();
    for dataset in results.datasets() {
        let Some(most) = results.fractions(dataset).last().copied() else { continue };
        let inits = results.inits();
        let mut of_set = results.transfer.iter().filter(|r| r.dataset == dataset && r.label_fraction == most);
        let Some(classes) = of_set.next().map(|r| &r.per_class) else { continue };
        let mut table = Table { header: vec!["class".into()], rows: Vec::new() };
        table.header.extend(inits.iter().map(ToString::to_string));
        for (index, class) in classes.iter().take(MOST_CLASSES).enumerate() {
            let figure = |init: &&str| {
                let aps = results.cell(dataset, init, most).filter_map(|r| r.per_class.get(index)?.ap);
                Summary::of(aps).map_or("–".to_string(), |summary| figure(summary, false))
            };
            table.row(std::iter::once(class.name.clone()).chain(inits.iter().map(figure)));
        }
        blocks.push(Block::Heading(finished.titled("AP of each class", dataset)));
        let labels = percent(most);
        blocks.push(Block::Paragraph(format!(
            "{labels} % of the labels; mean ± standard deviation over seeds."
        )));
        blocks.push(Block::Table(table));
    }
    blocks
}
