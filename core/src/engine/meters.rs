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
    fn durations_read_well_at_every_size() {
        let shown = [41, 725, 11_220, 187_200].map(|seconds| format_duration(Duration::from_secs(seconds)));
        assert_eq!(shown, ["41 s", "12 min 05 s", "3 h 07 min", "2 d 04 h"]);
    }
}
