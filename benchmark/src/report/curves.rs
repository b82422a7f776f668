//! The report's charts.

use std::path::PathBuf;

use crate::error::Result;
use serde_json::Value;

use super::Finished;
use super::tables::figure;
use crate::events;
use crate::graph::percent;
use crate::results::shown;
use crate::statistics::Summary;
use scrl_figures::chart::{Chart, Point, Series};
use scrl_figures::document::{Block, Picture, Table};

/// AP against the share of labels, a chart for each data set.
///
/// # Errors
/// When a chart cannot be written.
pub fn label_efficiency(finished: &Finished) -> Result<Vec<Block>> {
    let metric = &finished.plan.plan.report.metric;
    let name = shown(metric);
    let results = finished.results;
    let mut charts = Vec::new();
    for dataset in results.datasets() {
        let fractions = results.fractions(dataset);
        let point = |init: &str, fraction: f64| {
            let summary = results.over_seeds(dataset, init, fraction, metric)?;
            let half_width = summary.half_width.map(|half| 100.0 * half);
            Some(Point { x: percent(fraction), y: 100.0 * summary.mean, half_width })
        };
        let series = results.inits().into_iter().map(|init| Series {
            name: init.to_string(),
            style: finished.style(init),
            points: fractions.iter().filter_map(|&fraction| point(init, fraction)).collect(),
        });
        let chart = Chart {
            title: finished.titled(&format!("{name} by share of labels"), dataset),
            x_label: "labelled images, %".into(),
            y_label: format!("{name}, %"),
            log_x: fractions.len() > 1,
            marks: true,
            series: series.collect(),
            ..Chart::default()
        };
        charts.extend(draw(finished, &format!("labels-{dataset}.svg"), &chart)?);
    }
    let mut blocks = show(charts);
    if !blocks.is_empty() && finished.plan.plan.seeds.len() > 1 {
        blocks.push(Block::Paragraph("Bars are 95 % intervals of the mean over seeds.".into()));
    }
    Ok(blocks)
}

/// AP against the length of the pretraining; inits of which there is one length only are level lines.
///
/// # Errors
/// When the chart cannot be written.
pub fn pretraining_length(finished: &Finished) -> Result<Vec<Block>> {
    let metric = &finished.plan.plan.report.metric;
    let name = shown(metric);
    let rows: Vec<_> = finished.results.lengths.iter().filter(|row| row.metric == *metric).collect();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
    let (dataset, fraction) = (&first.dataset, first.label_fraction);
    let ends = [first.epochs as f64, last.epochs as f64];
    let point = |x: f64, summary: &Summary| Point {
        x,
        y: 100.0 * summary.mean,
        half_width: summary.half_width.map(|half| 100.0 * half),
    };
    let series = finished.results.inits().into_iter().filter_map(|init| {
        let own: Vec<_> = rows.iter().filter(|row| row.init == init).collect();
        let points = if own.is_empty() {
            let summary = finished.results.over_seeds(dataset, init, fraction, metric)?;
            ends.map(|x| Point { half_width: None, ..point(x, &summary) }).to_vec()
        } else {
            own.into_iter().map(|row| point(row.epochs as f64, &row.over_seeds)).collect()
        };
        Some(Series { name: init.to_string(), style: finished.style(init), points })
    });
    let chart = Chart {
        title: finished.titled(&format!("{name} by length of the pretraining"), dataset),
        x_label: "epochs of pretraining".into(),
        y_label: format!("{name}, %"),
        log_x: ends[0] < ends[1],
        marks: true,
        series: series.collect(),
        ..Chart::default()
    };
    let mut blocks = show(draw(finished, &format!("lengths-{dataset}.svg"), &chart)?.into_iter().collect());
    let header = ["init", "epochs", "images seen", "seeds", name];
    let mut table = Table::new(&header);
    for row in &rows {
        let numbers = [row.epochs, row.images, row.over_seeds.count as u64].map(|number| number.to_string());
        let figure = figure(row.over_seeds, true);
        table.row([row.init.clone()].into_iter().chain(numbers).chain([figure]));
    }
    blocks.push(Block::Paragraph(format!(
        "Every length has its own complete schedule; {} % of the labels. Inits without lengths are drawn as level lines.",
        percent(fraction)
    )));
    blocks.push(Block::Table(table));
    Ok(blocks)
}

/// Losses of the first seed.
///
/// # Errors
/// When a run's metrics cannot be read or a chart cannot be written.
pub fn training(finished: &Finished) -> Result<Vec<Block>> {
    let mut charts = Vec::new();
    let pretrained = runs(finished, |init| Some(finished.pretraining(init)?.0.id.clone()))?;
    let chart = curve_chart(finished, "Pretraining loss, first seed", "loss", &pretrained, "train", "loss");
    charts.extend(draw(finished, "pretrain-loss.svg", &chart)?);
    for dataset in finished.results.datasets() {
        let tuned = runs(finished, |init| Some(finished.fine_tuning(dataset, init)?.0.id.clone()))?;
        let title = finished.titled("Detector loss, most labels", dataset);
        let chart = curve_chart(finished, &title, "loss", &tuned, "train", "loss");
        charts.extend(draw(finished, &format!("transfer-loss-{dataset}.svg"), &chart)?);
        let title = finished.titled("AP while training", dataset);
        let mut chart = curve_chart(finished, &title, "AP", &tuned, "eval", "AP");
        if chart.series.iter().any(|series| series.points.len() > 1) {
            chart.marks = true;
            charts.extend(draw(finished, &format!("transfer-ap-{dataset}.svg"), &chart)?);
        }
    }
    let mut blocks = show(charts);
    if pretrained.len() > 1 {
        blocks.push(Block::Paragraph(
            "Losses of different methods measure different things: SCRL and BYOL lie between 0 (both views equal) and 8 \
             (opposite), with 4 for unrelated ones; classification starts near the logarithm of the number of classes. \
             Compare their course, not their height."
                .into(),
        ));
    }
    Ok(blocks)
}

/// The label-free signs of life, by epoch.
///
/// # Errors
/// When a run's metrics cannot be read or a chart cannot be written.
pub fn health(finished: &Finished) -> Result<Vec<Block>> {
    let pretrained = runs(finished, |init| Some(finished.pretraining(init)?.0.id.clone()))?;
    let looked_at =
        |(_, events): &&(String, Vec<Value>)| events.iter().any(|event| event["kind"] == "health");
    let pretrained: Vec<_> = pretrained.iter().filter(looked_at).cloned().collect();
    if pretrained.is_empty() {
        return Ok(Vec::new());
    }
    let mut charts = Vec::new();
    let fields =
        [("feature_rank", "Effective rank of the features"), ("feature_std", "Deviation of the features")];
    for (field, title) in fields {
        let mut chart = curve_chart(finished, title, "", &pretrained, "health", field);
        chart.marks = true;
        charts.extend(draw(finished, &format!("health-{field}.svg"), &chart)?);
    }
    let mut table = Table::new(&["init", "rank", "deviation", "same place", "other place", "other image"]);
    for (name, events) in &pretrained {
        let last = |field: &str, decimals: usize| {
            events::last(events, "health", field).map_or("–".into(), |v| format!("{v:.decimals$}"))
        };
        table.row([
            name.clone(),
            last("feature_rank", 1),
            last("feature_std", 4),
            last("backbone_centred_cosine_matched", 3),
            last("backbone_centred_cosine_other_place", 3),
            last("backbone_centred_cosine_other_image", 3),
        ]);
    }
    let mut blocks = vec![
        Block::Subheading("Health of the pretrainings".into()),
        Block::Paragraph(
            "Fixed images, no labels. Effective rank (RankMe) and deviation of the pooled features: near 1 and near 0 the \
             features have collapsed. Cosines of the backbone's features of boxes in two views, less their mean: the same \
             place should be closer than another place of its image, and that closer than another image."
                .into(),
        ),
        Block::Table(table),
    ];
    blocks.extend(show(charts));
    Ok(blocks)
}

fn show(charts: Vec<Picture>) -> Vec<Block> {
    if charts.is_empty() { Vec::new() } else { vec![Block::Charts(charts)] }
}

/// The events of each init's run, where it has one.
fn runs(finished: &Finished, id: impl Fn(&str) -> Option<String>) -> Result<Vec<(String, Vec<Value>)>> {
    let mut runs = Vec::new();
    for arm in finished.arms {
        if let Some(id) = id(&arm.name) {
            let run: PathBuf = finished.out.join(id);
            runs.push((arm.name.clone(), events::read(&run)?));
        }
    }
    Ok(runs)
}

fn curve_chart(
    finished: &Finished,
    title: &str,
    y_label: &str,
    runs: &[(String, Vec<Value>)],
    kind: &str,
    field: &str,
) -> Chart {
    let series = runs.iter().map(|(name, events)| Series {
        name: name.clone(),
        style: finished.style(name),
        points: events::curve(events, kind, field)
            .into_iter()
            .map(|(x, y)| Point { x, y, half_width: None })
            .collect(),
    });
    Chart {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        log_x: false,
        marks: false,
        series: series.collect(),
        ..Chart::default()
    }
}

fn draw(finished: &Finished, file: &str, chart: &Chart) -> Result<Option<Picture>> {
    let Some(svg) = chart.svg() else { return Ok(None) };
    let file = finished.write_figure(file, svg.as_bytes())?;
    Ok(Some(Picture { file, description: chart.title.clone(), note: None }))
}
