use std::path::Path;
use scrl_core::engine::{Monitor, OpenMode, RunDir, Progress};
use scrl_transfer::*;
struct P(std::time::Instant);
impl Progress for P {
    fn start(&mut self, t: u64, d: u64, title: &str) { println!("{title} {d}/{t}") }
    fn update(&mut self, d: u64, m: &str) { if d % 20 == 0 { println!("{:.0}s {d} {m}", self.0.elapsed().as_secs_f64()) } }
    fn finish(&mut self, m: &str) { println!("done {m}") }
}
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let sets: Vec<String> = a[4..].to_vec();
    let config: TransferConfig = scrl_core::config::load(Path::new(&a[0]), &sets).unwrap();
    let config = config.with_data_dir(Path::new(&a[1])).unwrap();
    let init = InitWeights::parse(&a[2]).unwrap();
    let run = RunDir::open(Path::new(&a[3]), OpenMode::New).unwrap();
    let mut m = Monitor::silent();
    m.progress = Box::new(P(std::time::Instant::now()));
    match train(&config, &init, &run, false, &burn::tensor::Device::flex(), &mut m) {
        Ok(TransferOutcome::Finished(r)) => println!("{:.0}s {:?}", r.seconds, r.metrics.summary()),
        other => println!("{other:?}"),
    }
}
