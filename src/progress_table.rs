//! The table of finished cells while a benchmark runs, with the time that is left.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use scrl_benchmark::graph::Cell;
use scrl_benchmark::observer::CellObserver;
use scrl_benchmark::process::CellProcess;
use scrl_benchmark::record::{CellState, Done, Record};
use scrl_benchmark::words::duration;

/// Between two lines about running cells where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Between two updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(250);

/// Where finished cells are told.
enum Output {
    Nothing,
    Lines,
    Bar(ProgressBar),
}

/// Tells of cells as they end, on standard error.
pub struct ProgressTable {
    output: Output,
    /// Work of each cell by its id, comparable within its kind.
    work: BTreeMap<String, f64>,
    metric: String,
    total: usize,
    ended: usize,
    slots: usize,
    /// Cells that wait or run.
    open: Vec<Cell>,
    /// Work and seconds of finished cells by kind.
    rates: BTreeMap<String, (f64, f64)>,
    last: Instant,
}

impl ProgressTable {
    /// `metric` is the figure of finished fine-tunings.
    pub fn new(quiet: bool, metric: &str) -> Self {
        let output = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Output::Nothing,
            (false, false) => Output::Lines,
            (false, true) => Output::Bar(ProgressBar::hidden()),
        };
        Self {
            output,
            work: BTreeMap::new(),
            metric: metric.to_string(),
            total: 0,
            ended: 0,
            slots: 1,
            open: Vec::new(),
            rates: BTreeMap::new(),
            last: Instant::now(),
        }
    }

    fn learn(&mut self, cell: &Cell, done: &Done) {
        let work = self.work_of(cell);
        let rate = self.rates.entry(cell.key.kind()).or_default();
        *rate = (rate.0 + work, rate.1 + done.cost.total_seconds());
    }

    fn result(&self, done: &Done) -> String {
        match &done.record {
            Record::Pretrain(record) => format!("{} steps", record.steps),
            Record::Transfer(record) => match record.metrics.get(&self.metric) {
                Some(Some(value)) => format!("{} {:.1}", self.metric, 100.0 * value),
                _ => "done".into(),
            },
            Record::Export(record) => format!("ONNX agrees in {} outputs", record.cases),
            Record::Detector(record) => format!("ONNX agrees in {} detections", record.matched),
        }
    }

    /// Seconds of a unit of work, from finished cells of some kinds.
    fn rate(&self, of: impl Fn(&str) -> bool) -> Option<f64> {
        let rates = self.rates.iter().filter(|(kind, _)| of(kind));
        let (work, spent) = rates.fold((0.0, 0.0), |sum, (_, rate)| (sum.0 + rate.0, sum.1 + rate.1));
        (work > 0.0).then(|| spent / work)
    }

    /// Seconds left, as far as finished cells of the kind tell, or the running cell itself, or else finished cells of similar
    /// kinds, such as pretrainings of another length: id, share and seconds of each running cell.
    fn eta(&self, running: &[(String, f64, f64)]) -> Option<f64> {
        let mut seconds = 0.0;
        for cell in &self.open {
            let run = running.iter().find(|(id, ..)| *id == cell.id);
            let kind = cell.key.kind();
            let family = kind.split(' ').next();
            let whole = match (self.rate(|known| known == kind), run) {
                (Some(rate), _) => self.work_of(cell) * rate,
                (None, Some((_, share, spent))) if *share > 0.02 => spent / share,
                (None, _) if kind == "export" => 0.0,
                (None, _) => self.work_of(cell) * self.rate(|known| known.split(' ').next() == family)?,
            };
            seconds += whole * (1.0 - run.map_or(0.0, |(_, share, _)| *share));
        }
        Some(seconds / self.slots.min(self.open.len()).max(1) as f64)
    }

    fn say(&self, line: &str) {
        match &self.output {
            Output::Nothing => {}
            Output::Lines => eprintln!("{line}"),
            Output::Bar(bar) => bar.println(line),
        }
    }

    fn work_of(&self, cell: &Cell) -> f64 {
        self.work.get(&cell.id).copied().unwrap_or(0.0)
    }
}

impl CellObserver for ProgressTable {
    fn begin(&mut self, cells: &[Cell], states: &[CellState], slots: usize, work: &dyn Fn(&Cell) -> f64) {
        self.work = cells.iter().map(|cell| (cell.id.clone(), work(cell))).collect();
        (self.total, self.ended, self.slots) = (cells.len(), 0, slots);
        self.open.clear();
        for (cell, state) in cells.iter().zip(states) {
            match state {
                CellState::Done(done) => {
                    self.ended += 1;
                    self.learn(cell, done);
                }
                _ => self.open.push(cell.clone()),
            }
        }
        if let Output::Bar(bar) = &mut self.output {
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} cells {msg}");
            *bar = ProgressBar::new(self.total as u64).with_style(style.expect("the template is valid"));
            bar.set_position(self.ended as u64);
        }
        if self.ended > 0 {
            let done = self.ended;
            self.say(&format!("{done} of {} cells are done already", self.total));
        }
    }

    fn ended(&mut self, cell: &Cell, state: &CellState) {
        self.ended += 1;
        self.open.retain(|open| open.id != cell.id);
        let text = match state {
            CellState::Done(done) => {
                self.learn(cell, done);
                format!("{} ({})", self.result(done), duration(done.cost.seconds))
            }
            CellState::Failed(reason) => format!("FAILED: {reason}"),
            CellState::Skipped { needs } => format!("skipped: it needs {needs}"),
            CellState::Waiting => return,
        };
        let width = self.total.to_string().len();
        let eta = self.eta(&[]).filter(|_| !self.open.is_empty());
        let eta = eta.map(|seconds| format!("  {} left", duration(seconds))).unwrap_or_default();
        let line = format!("[{:>width$}/{}] {:<48} {text}{eta}", self.ended, self.total, cell.key.title());
        self.say(&line);
        if let Output::Bar(bar) = &self.output {
            bar.set_position(self.ended as u64);
        }
    }

    fn tick(&mut self, running: &[(&Cell, &CellProcess)]) {
        let interval = match self.output {
            Output::Nothing => return,
            Output::Lines => LINE_INTERVAL,
            Output::Bar(_) => BAR_INTERVAL,
        };
        if self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        let (mut shares, mut texts) = (Vec::new(), Vec::new());
        for (cell, process) in running {
            let phase = process.phase();
            let share = if phase.total > 0 { phase.done as f64 / phase.total as f64 } else { 0.0 };
            texts.push(format!("{} {:.0} % {}", cell.key.title(), 100.0 * share, phase.message));
            shares.push((cell.id.clone(), share, process.elapsed().as_secs_f64()));
        }
        let eta = self.eta(&shares).map_or("eta unknown".into(), |s| format!("{} left", duration(s)));
        match &self.output {
            Output::Bar(bar) => bar.set_message(format!("{eta}; {}", texts.join("; "))),
            _ => eprintln!("{}/{} cells, {eta}; {}", self.ended, self.total, texts.join("; ")),
        }
    }

    fn end(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use scrl_benchmark::graph::CellKey;
    use scrl_benchmark::job::{ExportJob, Job};

    use super::*;

    fn table(kind: &str, work: f64, seconds: f64) -> ProgressTable {
        let key = CellKey::Pretrain { init: "byol-4ep".into(), seed: 0 };
        let job = ExportJob { weights: "".into(), onnx: "".into(), images: Vec::new(), count: 0 };
        let id = String::from("pretrain/byol-4ep-seed0");
        let open = Cell { id: id.clone(), key, settings: String::new(), job: Job::Export(job), after: None };
        ProgressTable {
            work: BTreeMap::from([(id, 4.0)]),
            open: vec![open],
            rates: BTreeMap::from([(kind.into(), (work, seconds))]),
            ..ProgressTable::new(true, "AP")
        }
    }

    #[test]
    fn the_time_left_comes_from_the_nearest_known_cells() {
        assert_eq!(table("pretrain byol-4ep", 2.0, 6.0).eta(&[]), Some(12.0), "cells of the same kind");
        let similar = table("pretrain byol", 60.0, 600.0);
        assert_eq!(similar.eta(&[]), Some(40.0), "a pretraining of another length");
        let running = |share, seconds| [("pretrain/byol-4ep-seed0".to_string(), share, seconds)];
        assert_eq!(similar.eta(&running(0.5, 30.0)), Some(30.0), "the running cell itself");
        assert_eq!(similar.eta(&running(0.01, 30.0)), Some(39.6), "too early to tell");
        assert_eq!(table("fine-tune voc07", 60.0, 600.0).eta(&[]), None, "another kind of work");
    }
}
