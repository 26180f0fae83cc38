//! Messages that cannot be understood: counted by reason, logged once per device and reason a minute.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use telemetry_decode::{Reason, Rejected};
use telemetry_model::DeviceId;
use tokio::time::Instant;

const LOG_EVERY: Duration = Duration::from_mins(1);
/// Senders remembered for the sake of the log. While so many had a line within the minute, no other
/// gets one: whoever invents device ids can neither fill our memory nor the log.
const MAX_REMEMBERED: usize = 10_000;
/// When the memory is full, it is looked through for what has expired no more often than this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// What a sender may write of a topic into a log line.
const MAX_LOGGED_BYTES: usize = 256;

/// How much of a message was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Message,
    /// A part. The rest is stored.
    Part,
}

/// Counts and logs rejections.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    totals: BTreeMap<Reason, u64>,
    logged: HashMap<(String, Reason), Logged>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    suppressed: u64,
}

impl Rejections {
    /// Counts the rejection of a message on `topic`, and logs it unless the same was logged of this
    /// device within the minute. Without a device, the topic stands for it.
    pub(crate) fn record(
        &self,
        device: Option<&DeviceId>,
        topic: &str,
        rejected: &Rejected,
        extent: Extent,
    ) {
        let Rejected { reason, field, detail } = rejected;
        // As text fields these are escaped by the log, so that no sender can forge a line.
        let (topic, field) = (shortened(topic), field.as_str());
        let device = device.map(DeviceId::as_str);
        let Some((suppressed, total)) = self.count(device.unwrap_or(topic), *reason) else {
            return;
        };
        let what = match extent {
            Extent::Message => "message rejected",
            Extent::Part => "message partly rejected",
        };
        tracing::warn!(device, topic, %reason, field, detail, suppressed, total, "{what}");
    }

    /// How many were rejected for which reason.
    pub(crate) fn totals(&self) -> BTreeMap<Reason, u64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).totals.clone()
    }

    /// What to say in the log now: how many went unsaid, and how many there were for this reason.
    fn count(&self, sender: &str, reason: Reason) -> Option<(u64, u64)> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let total = seen.totals.entry(reason).or_default();
        *total += 1;
        let total = *total;
        let now = Instant::now();
        let has_room = seen.has_room(now);
        let key = (sender.to_owned(), reason);
        let suppressed = match seen.logged.get_mut(&key) {
            Some(logged) if now - logged.at < LOG_EVERY => {
                logged.suppressed += 1;
                return None;
            }
            Some(logged) => logged.suppressed,
            None if has_room => 0,
            None => return None,
        };
        seen.logged.insert(key, Logged { at: now, suppressed: 0 });
        Some((suppressed, total))
    }
}

impl Seen {
    /// True if one more sender can be remembered.
    fn has_room(&mut self, now: Instant) -> bool {
        let is_full = self.logged.len() >= MAX_REMEMBERED;
        if is_full && self.swept.is_none_or(|swept| now - swept >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.logged.retain(|_, logged| now - logged.at < LOG_EVERY);
        }
        self.logged.len() < MAX_REMEMBERED
    }
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_LOGGED_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_said_once_a_minute_per_device_and_reason() {
        let rejections = Rejections::default();
        assert_eq!(rejections.count("a", Reason::NotJson), Some((0, 1)));
        assert_eq!(rejections.count("a", Reason::NotJson), None);
        assert_eq!(rejections.count("b", Reason::NotJson), Some((0, 3)));
        assert_eq!(rejections.count("a", Reason::NotUtf8), Some((0, 1)));
        advance(LOG_EVERY).await;
        assert_eq!(rejections.count("a", Reason::NotJson), Some((1, 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn invented_senders_fill_neither_memory_nor_log() {
        let rejections = Rejections::default();
        let flood = |n: usize| rejections.count(&n.to_string(), Reason::UnknownTopic).is_some();
        assert_eq!((0..2 * MAX_REMEMBERED).filter(|n| flood(*n)).count(), MAX_REMEMBERED);
        advance(LOG_EVERY).await;
        assert!(flood(2 * MAX_REMEMBERED));
        assert_eq!(rejections.seen.lock().unwrap().logged.len(), 1);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("grün"), "grün");
        let cut = shortened(&"ü".repeat(1000)).len();
        assert!((MAX_LOGGED_BYTES - 1..=MAX_LOGGED_BYTES).contains(&cut));
    }
}
