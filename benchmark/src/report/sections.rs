//! The report's tables and sentences.

use scrl_transfer::Protocol;

use super::{Finished, points};
use crate::budget::{self, Length};
use crate::graph::percent;
use crate::plan::{DataPlan, Source};
use crate::record::CellState;
use crate::results::{Difference, LEVEL, shown, signed_points};
use crate::statistics::Summary;
use scrl_figures::document::{Block, Table};

/// Classes of the table of classes, at most.
const MOST_CLASSES: usize = 80;

/// The differences of the headline metric in plain words.
pub fn verdict(finished: &Finished) -> Vec<Block> {
    let metric = &finished.plan.plan.report.metric;
    let several = finished.results.datasets().len() > 1;
    let sentence = |d: &Difference| {
        if several { format!("{}: {}", d.dataset, d.sentence()) } else { d.sentence() }
    };
    let results = finished.results;
    let of_metric: Vec<_> = results.differences.iter().filter(|d| d.metric == *metric).collect();
    if of_metric.is_empty() {
        return vec![Block::Paragraph("There are no two inits with results to compare.".into())];
    }
    let learnt = |d: &&&Difference| results.has_learnt(&d.dataset, d.label_fraction, metric);
    let mut sentences: Vec<String> = of_metric.iter().filter(learnt).map(|d| sentence(d)).collect();
    sentences.extend(nothing_learnt(finished, metric));
    let mut blocks =
        vec![Block::List(sentences), Block::Paragraph(seeds_sentence(finished, of_metric.len()))];
    blocks.extend(interim(finished).map(Block::Paragraph));
    blocks.extend(finished.added_seeds().map(Block::Paragraph));
    blocks.extend(material(finished).map(Block::Paragraph));
    blocks
}

/// A warning where cells are still to be run.
fn interim(finished: &Finished) -> Option<String> {
    let waiting = finished.states.iter().filter(|state| matches!(state, CellState::Waiting)).count();
    let all = finished.states.len();
    (waiting > 0).then(|| {
        format!(
            "This is an interim report: {} of {all} cells have ended. Verdicts may change, and corrections are for the comparisons that \
             there are so far. A plan that is changed in sight of it is changed by results.",
            all - waiting
        )
    })
}

/// A sentence for each place in the table where ranking would rank chance.
fn nothing_learnt(finished: &Finished, metric: &str) -> Vec<String> {
    let results = finished.results;
    let mut sentences = Vec::new();
    for dataset in results.datasets() {
        for fraction in
            results.fractions(dataset).into_iter().filter(|f| !results.has_learnt(dataset, *f, metric))
        {
            let mean = |init: &&str| results.over_seeds(dataset, init, fraction, metric).map(|s| s.mean);
            let best = results.inits().iter().filter_map(mean).fold(f64::NEG_INFINITY, f64::max);
            let chance = results.chance.get(dataset).and_then(|figures| figures.get(metric));
            sentences.push(format!(
                "At {} % labels of {dataset} no detector has learnt anything, and none is ranked: the best init has {} \
                 {}, boxes that ignore the image get {}.",
                percent(fraction),
                points(best),
                shown(metric),
                chance.map_or("–".into(), |value| points(*value))
            ));
        }
    }
    sentences
}

/// What makes generated scenes easy, where it is used.
fn material(finished: &Finished) -> Option<String> {
    let DataPlan::Synth(scenes) = &finished.plan.plan.data else { return None };
    (scenes.material > 0.0).then(|| {
        format!(
            "The images are generated. With material = {} a share of {} % of the objects has a texture that belongs to its \
             class, so that texture tells classes apart; with 0 only the outline does. Figures on such scenes say nothing about \
             photographs.",
            scenes.material,
            percent(scenes.material)
        )
    })
}

fn seeds_sentence(finished: &Finished, comparisons: usize) -> String {
    let (seeds, pretrainings) = (finished.plan.plan.seeds.len(), finished.plan.pretrain_seeds().len());
    let varies = match (seeds, pretrainings) {
        (1, _) => return "There is one seed: nothing here tells a difference from chance.".into(),
        (_, 1) => {
            "Seeds vary only the fine-tuning (initial heads, labelled images, their order): each init was \
                   pretrained once, so what another pretraining would give is not part of the intervals."
                .to_string()
        }
        (s, p) if p < s => format!(
            "{s} seeds of the fine-tuning share {p} pretrainings of each init: intervals take them as independent and are \
             too narrow as far as pretrainings differ."
        ),
        (s, _) => {
            format!("{s} seeds, each with its own pretraining, choice of labelled images and fine-tuning.")
        }
    };
    format!(
        "{varies} ± is half of a 95 % interval of the mean paired difference (Student's t; same seed, same labelled \
         images), not corrected; the Bonferroni interval has level {LEVEL} / {comparisons}, so that all of the list hold together. Two inits are called separable if the p-value of the paired t-test, corrected for the {comparisons} \
         comparisons of this list by Holm's method, is below {LEVEL}; Holm's method is the less strict one, so the Bonferroni interval of a \
         separable difference may include zero. The seeds are those of the plan. AP figures \
         are in percent."
    )
}

/// Cells without a result.
pub fn unfinished(finished: &Finished) -> Vec<Block> {
    let list = &finished.results.unfinished;
    if list.is_empty() {
        return Vec::new();
    }
    let items =
        list.iter().map(|cell| format!("{}: {}", cell.title, cell.reason.replace('`', "'"))).collect();
    vec![
        Block::Heading("Without a result".into()),
        Block::Paragraph(format!(
            "{} cells have none. The same command tries them again; their logs are `cells/NAME.log`.",
            list.len()
        )),
        Block::List(items),
    ]
}

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

/// Each init with what its pretraining was, and where that is not the same for all.
pub fn arms(finished: &Finished) -> Vec<Block> {
    let plan = &finished.plan.plan;
    let mut table = Table::new(&[
        "init",
        "starts from",
        "images",
        "epochs",
        "updates",
        "batch",
        "learning rate",
        "views seen",
        "passes at 224 px",
        "settings",
    ]);
    for arm in finished.arms {
        let none = || "–".to_string();
        let Some(settings) = arm.recipe() else {
            let start = match &arm.source {
                Source::Weights(path) => format!("`{}`", path.display()),
                _ => "nothing".into(),
            };
            table.row([arm.name.clone(), start].into_iter().chain((0..8).map(|_| none())));
            continue;
        };
        let images = finished.counts.of(settings.method, plan.pretrain_images);
        let length = Length::of(settings, images);
        let record = finished.results.pretrain.iter().find(|r| r.init == arm.name);
        let views = settings.method.facts().views as u64;
        table.row([
            arm.name.clone(),
            format!("{} of {}", settings.method.name(), settings.model.arch),
            images.to_string(),
            length.epochs.to_string(),
            length.steps.to_string(),
            settings.schedule.batch_size.to_string(),
            record.map_or(none(), |r| format!("{:.4}", r.record.learning_rate)),
            (views * length.images).to_string(),
            format!("{:.0}", length.passes),
            record.map_or(none(), |r| format!("`{}`", &r.settings[..10])),
        ]);
    }
    let mut blocks = vec![
        Block::Paragraph(format!(
            "Length: {}. Warm-up, then a cosine to zero, for all. Passes are forward passes of one image of 224 pixels that \
             cost as much as the pretraining's backbones (a backward pass counts as two; heads are left out). Settings are \
             the start of the hash of everything that a result depends on.",
            budget::describe(plan.budget)
        )),
        Block::Table(table),
    ];
    let unequal =
        budget::unfairness(finished.arms, finished.plan.subject(), finished.counts, plan.pretrain_images);
    if !unequal.is_empty() {
        blocks.push(Block::Paragraph("The pretrainings are not alike in everything:".into()));
        blocks.push(Block::List(unequal));
    } else if finished.arms.iter().filter(|arm| arm.recipe().is_some()).count() > 1 {
        blocks.push(Block::Paragraph(
            "The pretrainings saw the same images, in equal batches, for equally many updates and as much computation."
                .into(),
        ));
    }
    blocks
}

/// Learning rates that were tried.
pub fn sweep(finished: &Finished) -> Vec<Block> {
    let trials = &finished.results.sweep;
    let Some(plan) = finished.plan.plan.sweep.as_ref().filter(|_| !trials.is_empty()) else {
        return Vec::new();
    };
    let mut table = Table::new(&["init", "data", "rate of", "value", "AP on held-out images", "chosen"]);
    for trial in trials {
        table.row([
            trial.init.clone(),
            trial.dataset.clone(),
            if trial.key == "base_lr" { "pretraining" } else { "fine-tuning" }.into(),
            trial.value.to_string(),
            trial.holdout_ap.map_or("failed".into(), points),
            if trial.chosen { "yes" } else { "" }.into(),
        ]);
    }
    vec![
        Block::Subheading("Learning rates".into()),
        Block::Paragraph(format!(
            "Tried on {} % of the training images, which were not trained on meanwhile, with one seed; the test images \
             took no part.",
            percent(plan.holdout)
        )),
        Block::Table(table),
    ]
}

/// Where each fine-tuning departs from its published protocol.
pub fn protocols(finished: &Finished) -> Vec<Block> {
    let mut blocks = vec![Block::Subheading("Fine-tuning".into())];
    for transfer in &finished.plan.transfers {
        let settings = &transfer.settings;
        blocks.push(Block::Paragraph(format!(
            "{}: {} iterations of {} images for every init and share of the labels, {} of width {}. It differs from \
             the protocol `{}` in:",
            transfer.name,
            settings.iterations,
            settings.batch_size,
            settings.model.backbone.arch,
            settings.model.backbone.width,
            name_of(settings.protocol)
        )));
        let differences: Vec<String> =
            settings.differences().into_iter().map(|line| line.replace('`', "'")).collect();
        blocks.push(match differences.is_empty() {
            true => Block::Paragraph("nothing.".into()),
            false => Block::List(differences),
        });
    }
    blocks
}

/// As it is written in a recipe.
fn name_of(protocol: Protocol) -> String {
    let value = serde_json::to_value(protocol).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_string()
}
