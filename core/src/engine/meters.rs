//! Rates and remaining times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Images per second over the most recent steps.
#[derive(Clone, Debug)]
pub struct Throughput {
    window: usize,
    /// When, and how many images had been seen by then; the oldest entry is the window's start.
    marks: VecDeque<(Instant, u64)>,
}

impl Throughput {
    /// Averages over the last `window` records (at least one); the clock starts now.
    pub fn new(window: usize) -> Self {
        Self::starting_at(window, Instant::now())
    }

    /// As [`new`](Self::new) with a clock that started at `start`.
    pub fn starting_at(window: usize, start: Instant) -> Self {
        Self { window: window.max(1), marks: VecDeque::from([(start, 0)]) }
    }

    /// `images` more images are done.
    pub fn record(&mut self, images: usize) {
        self.record_at(images, Instant::now());
    }

    /// As [`record`](Self::record) at a given time.
    pub fn record_at(&mut self, images: usize, now: Instant) {
        let seen = self.marks.back().map_or(0, |&(_, seen)| seen);
        self.marks.push_back((now, seen + images as u64));
        while self.marks.len() > self.window + 1 {
            self.marks.pop_front();
        }
    }

    /// Images per second; `None` before the first record and where no time has passed.
    pub fn images_per_second(&self) -> Option<f64> {
        let (&(start, before), &(end, after)) = (self.marks.front()?, self.marks.back()?);
        let seconds = end.duration_since(start).as_secs_f64();
        (seconds > 0.0 && after > before).then(|| (after - before) as f64 / seconds)
    }

    /// Time for `images` more images at the present rate.
    pub fn remaining(&self, images: u64) -> Option<Duration> {
        Duration::try_from_secs_f64(images as f64 / self.images_per_second()?).ok()
    }
}

/// Splits a loop's time into waiting for its input and everything else.
#[derive(Clone, Debug)]
pub struct Pace {
    start: Instant,
    waited: Duration,
    lap_start: Instant,
    lap_waited: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// The clock starts now.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { start: now, waited: Duration::ZERO, lap_start: now, lap_waited: Duration::ZERO }
    }

    /// Calls `input` and counts its time as waiting.
    pub fn wait<T>(&mut self, input: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = input();
        self.waited += start.elapsed();
        value
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Time spent waiting since the start.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Share of the time since the start that was waiting, in `0..=1`.
    pub fn waiting_share(&self) -> f64 {
        share(self.waited, self.elapsed())
    }

    /// As [`waiting_share`](Self::waiting_share) since the last lap, and starts a new lap.
    pub fn lap(&mut self) -> f64 {
        let lap = share(self.waited - self.lap_waited, self.lap_start.elapsed());
        (self.lap_start, self.lap_waited) = (Instant::now(), self.waited);
        lap
    }
}

fn share(part: Duration, whole: Duration) -> f64 {
    match whole.is_zero() {
        true => 0.0,
        false => (part.as_secs_f64() / whole.as_secs_f64()).min(1.0),
    }
}

/// A duration for people: `41 s`, `12 min 05 s`, `3 h 07 min`, `2 d 04 h`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {:02} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {:02} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {:02} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_counts_the_recent_window_alone() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Throughput::starting_at(2, start);
        assert_eq!(meter.images_per_second(), None);
        meter.record_at(10, at(10));
        assert_eq!(meter.images_per_second(), Some(1.0));
        meter.record_at(40, at(20));
        assert_eq!(meter.images_per_second(), Some(2.5));
        meter.record_at(40, at(30));
        assert_eq!(meter.images_per_second(), Some(4.0));
        assert_eq!(meter.remaining(400), Some(Duration::from_secs(100)));
    }

    #[test]
    fn no_rate_is_given_where_no_time_has_passed() {
        let start = Instant::now();
        let mut meter = Throughput::starting_at(5, start);
        meter.record_at(8, start);
        assert_eq!(meter.images_per_second(), None);
        assert_eq!(meter.remaining(10), None);
    }

    #[test]
    fn a_loop_waits_less_than_its_loading_takes_because_both_overlap() {
        use crate::data::{LoaderOptions, load_batches, sampler};
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};

        // A slow disk and a slow step; neither needs a processor, so a busy machine delays both alike.
        let loading = Arc::new(AtomicU64::new(0));
        let total = Arc::clone(&loading);
        let load = move |index: usize, _: &mut crate::random::Rng| {
            let start = Instant::now();
            std::thread::sleep(Duration::from_millis(4));
            total.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
            Ok(index)
        };
        let options = LoaderOptions { seed: 0, epoch: 0, threads: 1, prefetch: 2 };
        let mut batches = load_batches(sampler::batches(32, 2, false, None), options, Arc::new(load));
        let mut pace = Pace::new();
        let mut steps = 0;
        while pace.wait(|| batches.next()).is_some() {
            std::thread::sleep(Duration::from_millis(16));
            steps += 1;
        }
        let loading = Duration::from_micros(loading.load(Ordering::Relaxed));
        assert_eq!(steps, 16);
        assert!(pace.waited() < loading / 2, "waited {:?} for {loading:?} of loading", pace.waited());
        assert!(pace.waiting_share() < 0.5 && pace.lap() > 0.0);
    }

    #[test]
    fn durations_read_well_at_every_size() {
        let shown = [41, 725, 11_220, 187_200].map(|seconds| format_duration(Duration::from_secs(seconds)));
        assert_eq!(shown, ["41 s", "12 min 05 s", "3 h 07 min", "2 d 04 h"]);
    }
}
