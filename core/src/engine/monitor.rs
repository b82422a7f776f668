//! What a training loop tells and hears: progress out, interrupts in. Nothing here prints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop at the next safe point; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// No request yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the loop to write a checkpoint and return; safe to call from a signal handler's thread.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Shows how far a phase is; units (steps, images) are the caller's.
pub trait Progress {
    /// A phase of `total` units starts, `done` of them done already.
    fn start(&mut self, total: u64, done: u64, title: &str);
    /// `done` units are done; `message` holds the latest figures.
    fn update(&mut self, done: u64, message: &str);
    /// The phase is over.
    fn finish(&mut self, message: &str);
}

/// A progress display that shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _total: u64, _done: u64, _title: &str) {}
    fn update(&mut self, _done: u64, _message: &str) {}
    fn finish(&mut self, _message: &str) {}
}

/// What a training loop is given to talk to its caller.
pub struct Monitor {
    /// Set by the caller, read by the loop.
    pub interrupt: Interrupt,
    /// Called by the loop.
    pub progress: Box<dyn Progress>,
}

impl Monitor {
    /// Shows nothing and is never interrupted unless somebody uses a clone of its `interrupt`.
    pub fn silent() -> Self {
        Self { interrupt: Interrupt::new(), progress: Box::new(Silent) }
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("interrupt", &self.interrupt).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_every_clone_of_an_interrupt() {
        let monitor = Monitor::silent();
        let elsewhere = monitor.interrupt.clone();
        assert!(!monitor.interrupt.is_requested());
        std::thread::spawn(move || elsewhere.request()).join().unwrap();
        assert!(monitor.interrupt.is_requested());
    }
}
