//! How long to wait before trying again: 1 s, doubling to a minute, never in step with others.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait.
pub(crate) const CEILING: Duration = Duration::from_mins(1);
/// A connection that stayed up so long has proved itself.
pub(crate) const STABLE: Duration = Duration::from_secs(10);

/// The waits between attempts.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    up_since: Option<Instant>,
}

impl Backoff {
    /// Notes that an attempt succeeded. The waits begin anew only if it lasts.
    pub(crate) fn is_up(&mut self) {
        self.up_since.get_or_insert_with(Instant::now);
    }

    /// The wait after a failure that may pass.
    pub(crate) fn next(&mut self) -> Duration {
        if self.up_since.take().is_some_and(|since| since.elapsed() >= STABLE) {
            self.failures = 0;
        }
        // 1, 2, 4, … 40 s, and up to half as much again.
        let base = Duration::from_secs(1 << self.failures.min(6)).min(CEILING * 2 / 3);
        self.failures += 1;
        base + base.mul_f64(fastrand::f64() / 2.0)
    }

    /// The wait after a failure that somebody has to mend.
    pub(crate) fn ceiling(&mut self) -> Duration {
        self.up_since = None;
        CEILING
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn grows_to_a_minute_and_begins_anew_only_after_a_lasting_success() {
        let mut backoff = Backoff::default();
        let mut floor = 1;
        for _ in 0..9 {
            let wait = backoff.next();
            assert!(wait >= Duration::from_secs(floor.min(40)) && wait <= CEILING, "{wait:?}");
            floor *= 2;
        }
        backoff.is_up();
        advance(STABLE / 2).await;
        assert!(backoff.next() >= Duration::from_secs(40), "connected, then kicked");
        backoff.is_up();
        advance(STABLE).await;
        backoff.is_up();
        assert!(backoff.next() < Duration::from_secs(2));
    }
}
