//! Seconds of the caller's clock as the `Instant`s that quinn-proto wants: they count from one of
//! the start. Deadlines are rounded up, so that a timer fires no microsecond early.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub fn instant(seconds: f64) -> Instant {
    *START + Duration::from_micros((seconds * 1e6).round() as u64)
}

pub fn seconds(at: Instant) -> f64 {
    let nanos = at.saturating_duration_since(*START).as_nanos();
    nanos.div_ceil(1000) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_way_there_and_back_and_no_deadline_is_early() {
        for moment in [0.0, 1000.0, 1000.5, 12345678.25, 12345678.125] {
            assert_eq!(seconds(instant(moment)), moment);
            let deadline = instant(moment) + Duration::from_nanos(1);
            assert!(instant(seconds(deadline)) >= deadline);
        }
    }
}
