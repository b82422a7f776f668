//! A benchmark as a library, with a program for its cells that does nothing but fail.

use std::path::Path;

use burn::tensor::Device;
use scrl_benchmark::graph::Cell;
use scrl_benchmark::observer::CellObserver;
use scrl_benchmark::process::CellProcess;
use scrl_benchmark::record::CellState;
use scrl_benchmark::{Benchmark, BenchmarkEnd, BenchmarkError, Host, ResolvedPlan};
use scrl_core::engine::Interrupt;

const PLAN: &str = "inits = [\"random\", \"scrl\"]\nlabel_fractions = [1.0]\nseeds = [0]\ntransfer = \"transfer.toml\"\n\
    [pretrain]\nscrl = \"scrl.toml\"\n\
    [data.synth]\nwidth = 48\nheight = 48\ntrain = 4\nval = 2\nunlabelled = 8\nclass_images = 1\nmin_scale = 0.2\n";
const SCRL: &str = "method = \"scrl\"\nmodel = { arch = \"resnet18\", width = 0.125 }\n\
    schedule = { epochs = 1, batch_size = 4, base_lr = 0.1 }\n";
const TRANSFER: &str = "iterations = 2\nbatch_size = 2\n[model]\narch = \"resnet18\"\nwidth = 0.125\n";

/// Keeps the titles of cells that end.
#[derive(Default)]
struct Ends(Vec<String>);

impl CellObserver for Ends {
    fn begin(&mut self, cells: &[Cell], states: &[CellState], slots: usize, work: &dyn Fn(&Cell) -> f64) {
        assert_eq!((cells.len(), slots), (states.len(), 1));
        assert!(cells.iter().any(|cell| work(cell) > 0.0));
    }
    fn ended(&mut self, cell: &Cell, _: &CellState) {
        self.0.push(cell.key.title());
    }
    fn tick(&mut self, _: &[(&Cell, &CellProcess)]) {}
    fn end(&mut self) {}
}

fn host(program: &str) -> Host {
    Host {
        program: program.into(),
        launcher: Vec::new(),
        device: |name| match name {
            "cpu" => Ok(Device::flex()),
            _ => Err(format!("`{name}` is not a device")),
        },
        open_log: |_| Ok(()),
        peak_gib: || None,
    }
}

fn run(folder: &Path, host: &Host, device: &str, ends: &mut Ends) -> Result<BenchmarkEnd, BenchmarkError> {
    for (name, text) in [("plan.toml", PLAN), ("scrl.toml", SCRL), ("transfer.toml", TRANSFER)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let plan = ResolvedPlan::load(&folder.join("plan.toml"), &[])?;
    let out = folder.join("out");
    let devices = [device.to_string()];
    let interrupt = Interrupt::new();
    Benchmark { plan: &plan, out: &out, devices: &devices, jobs: None, only_report: false, interrupt, host }
        .run(ends)
}

#[cfg(unix)]
#[test]
fn cells_whose_program_fails_are_named_and_those_that_need_them_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut ends = Ends::default();
    let BenchmarkEnd::Reported(results) = run(folder.path(), &host("false"), "cpu", &mut ends).unwrap()
    else {
        panic!("nobody interrupted it");
    };
    assert!(results.transfer.is_empty() && results.pretrain.is_empty());
    assert_eq!(ends.0.len(), results.unfinished.len());
    let reasons: Vec<&str> = results.unfinished.iter().map(|cell| cell.reason.as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("exit status: 1")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("needs")), "{reasons:?}");
    assert!(folder.path().join("out/report.html").is_file());
}

#[test]
fn what_cannot_be_used_is_an_error_with_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let mut ends = Ends::default();
    let error = run(folder.path(), &host("false"), "tpu", &mut ends).err().unwrap();
    assert!(matches!(&error, BenchmarkError::Refused(text) if text.contains("`tpu`")), "{error:?}");
    std::fs::write(folder.path().join("broken.toml"), "inits = [\"random\"]\nseedz = [0]\n").unwrap();
    let error = ResolvedPlan::load(&folder.path().join("broken.toml"), &[]).err().unwrap();
    assert!(matches!(&error, BenchmarkError::Config(_)), "{error:?}");
    assert!(ends.0.is_empty());
}

#[cfg(unix)]
#[test]
fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), &host("no/such/program"), "cpu", &mut Ends::default()).err().unwrap();
    assert!(matches!(error, BenchmarkError::Failed { .. }), "{error:?}");
}
