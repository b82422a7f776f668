//! What was found, in sentences, and how far it holds.

use super::{Finished, points};
use crate::graph::percent;
use crate::plan::DataPlan;
use crate::record::CellState;
use crate::results::{Difference, LEVEL, shown};
use scrl_figures::document::Block;

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
