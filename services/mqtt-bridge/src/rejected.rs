//! Messages that cannot be understood: counted by reason, logged once per device and reason a minute.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use telemetry_model::DeviceId;
use tokio::time::Instant;

/// Why a message was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) reason: Reason,
    /// The part at fault: `topic`, `payload`, or a path into the payload.
    pub(crate) field: String,
    /// What is wrong and what would be right, for people.
    pub(crate) detail: String,
}

impl Rejected {
    pub(crate) fn new(reason: Reason, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason, field: field.into(), detail: detail.into() }
    }
}

/// The kinds of fault. Their names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    UnknownTopic,
    InvalidDeviceId,
    EmptyPayload,
    NotUtf8,
    NotJson,
    NotAnObject,
    NoMeasurements,
    InvalidTime,
    InvalidMetric,
    InvalidValue,
    TooDeep,
    TooMany,
    TooLarge,
    DecoderFailed,
    RefusedByStore,
    WindowFull,
    Retained,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownTopic => "unknown_topic",
            Self::InvalidDeviceId => "invalid_device_id",
            Self::EmptyPayload => "empty_payload",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::NoMeasurements => "no_measurements",
            Self::InvalidTime => "invalid_time",
            Self::InvalidMetric => "invalid_metric",
            Self::InvalidValue => "invalid_value",
            Self::TooDeep => "too_deep",
            Self::TooMany => "too_many",
            Self::TooLarge => "too_large",
            Self::DecoderFailed => "decoder_failed",
            Self::RefusedByStore => "refused_by_store",
            Self::WindowFull => "window_full",
            Self::Retained => "retained",
        })
    }
}

const LOG_EVERY: Duration = Duration::from_mins(1);
/// Senders remembered for the sake of the log. While so many had a line within the minute, no other
/// gets one: whoever invents device ids can neither fill our memory nor the log.
const MAX_REMEMBERED: usize = 10_000;
/// When the memory is full, it is looked through for what has expired no more often than this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// What a sender may write into one field of a log line.
const MAX_LOGGED_BYTES: usize = 256;

/// Counts and logs rejections.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    totals: HashMap<Reason, u64>,
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
    pub(crate) fn record(&self, device: Option<&DeviceId>, topic: &str, rejected: &Rejected) {
        let Rejected { reason, field, detail } = rejected;
        // As text fields these are escaped by the log, so that no sender can forge a line.
        let (topic, field) = (shortened(topic), shortened(field));
        let device = device.map(DeviceId::as_str);
        let Some((suppressed, total)) = self.count(device.unwrap_or(topic), *reason) else {
            return;
        };
        tracing::warn!(device, topic, %reason, field, detail, suppressed, total, "message rejected");
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
