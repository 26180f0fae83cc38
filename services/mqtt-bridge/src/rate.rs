//! How much each device may send: so many messages at once, and so many a second in the long run.

use std::{collections::HashMap, time::Duration};

use telemetry_model::DeviceId;
use tokio::time::Instant;

/// Devices remembered at the same time. Whoever invents more of them than this within a burst's time
/// gets each of them begun anew.
const MAX_REMEMBERED: usize = 100_000;

/// What every device has left.
#[derive(Debug)]
pub(crate) struct Rates {
    /// How long a message counts.
    each: Duration,
    /// How long a whole burst counts.
    burst: Duration,
    /// When a device that sent something will have all of its burst again.
    whole: HashMap<DeviceId, Instant>,
}

impl Rates {
    /// So many messages a second, and so many at once.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / rate;
        Self { each, burst: each * burst, whole: HashMap::new() }
    }

    /// Takes one message from what a device may send; false if nothing is left.
    pub(crate) fn take(&mut self, device: &DeviceId) -> bool {
        let now = Instant::now();
        if self.whole.len() >= MAX_REMEMBERED && !self.whole.contains_key(device) {
            self.whole.retain(|_, whole| *whole > now);
            if self.whole.len() >= MAX_REMEMBERED {
                self.whole.clear();
            }
        }
        let whole = self.whole.entry(device.clone()).or_insert(now);
        let after = (*whole).max(now) + self.each;
        let has_left = after <= now + self.burst;
        if has_left {
            *whole = after;
        }
        has_left
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_the_rate_each_device_by_itself() {
        let mut rates = Rates::new(2, 5);
        let [fern, moss] = ["fern-1", "moss-1"].map(|id| DeviceId::parse(id).unwrap());
        let sent = |rates: &mut Rates, device| (0..20).filter(|_| rates.take(device)).count();
        assert_eq!(sent(&mut rates, &fern), 5);
        assert_eq!(sent(&mut rates, &moss), 5);
        advance(Duration::from_secs(1)).await;
        assert_eq!(sent(&mut rates, &fern), 2);
        advance(Duration::from_mins(1)).await;
        assert_eq!(sent(&mut rates, &fern), 5);
    }
}
