//! How long things took: every one is kept, so that percentiles are exact.

use std::time::Duration;

use serde_json::{Value as Json, json};

/// Some latencies.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one between two instants in microseconds; none if the clock went back meanwhile.
    pub(super) fn add_between(&mut self, from_us: i64, to_us: i64) {
        self.0.push(u32::try_from((to_us - from_us).max(0)).unwrap_or(u32::MAX));
    }

    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Percentiles in milliseconds; null if there is nothing to say.
    pub(super) fn summary(mut self) -> Json {
        self.0.sort_unstable();
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| self.percentile_ms(percent));
        if max.is_none() {
            Json::Null
        } else {
            json!({"p50": p50, "p90": p90, "p99": p99, "max": max})
        }
    }

    /// The smallest that so many percent do not exceed (nearest rank), of sorted ones.
    fn percentile_ms(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.checked_sub(1)?).map(|us| f64::from(*us) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut latencies = Latencies::default();
        for us in (1..=1000).rev() {
            latencies.add(Duration::from_micros(us));
        }
        let expected = json!({"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0});
        assert_eq!(latencies.summary(), expected);
        let mut one = Latencies::default();
        one.add_between(5000, 7000);
        assert_eq!(one.summary(), json!({"p50": 2.0, "p90": 2.0, "p99": 2.0, "max": 2.0}));
    }

    #[test]
    fn nothing_has_no_percentiles_and_a_clock_that_goes_back_no_latency() {
        assert_eq!(Latencies::default().summary(), Json::Null);
        let mut latencies = Latencies::default();
        latencies.add_between(7000, 5000);
        assert_eq!(latencies.summary()["max"], 0.0);
    }
}
