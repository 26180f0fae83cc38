//! Messages that cannot be understood: counted by reason, logged once per device and reason a minute.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

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
    DecoderFailed,
    RefusedByStore,
    WindowFull,
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
            Self::DecoderFailed => "decoder_failed",
            Self::RefusedByStore => "refused_by_store",
            Self::WindowFull => "window_full",
        })
    }
}

const LOG_EVERY: Duration = Duration::from_mins(1);
/// Senders remembered for the sake of the log; beyond, the oldest minute is forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// Counts and logs rejections.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    totals: HashMap<Reason, u64>,
    logged: HashMap<(String, Reason), Logged>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    suppressed: u64,
}

impl Rejections {
    /// Counts a rejection, and logs it unless the same was logged within the minute. `sender` is
    /// the device, or the topic if that names none.
    pub(crate) fn record(&self, sender: &str, rejected: &Rejected) {
        let Rejected { reason, field, detail } = rejected;
        let Some((suppressed, total)) = self.count(sender, *reason) else { return };
        // Debug escapes what a sender may have put in to forge log lines.
        let sender = format!("{:?}", sender.chars().take(128).collect::<String>());
        tracing::warn!(sender, %reason, field, detail, suppressed, total, "message rejected");
    }

    /// What to say in the log now: how many went unsaid, and how many there were for this reason.
    fn count(&self, sender: &str, reason: Reason) -> Option<(u64, u64)> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let total = seen.totals.entry(reason).or_default();
        *total += 1;
        let total = *total;
        let now = Instant::now();
        if seen.logged.len() >= MAX_REMEMBERED {
            seen.logged.retain(|_, logged| now - logged.at < LOG_EVERY);
        }
        if seen.logged.len() >= MAX_REMEMBERED {
            seen.logged.clear();
        }
        let key = (sender.to_owned(), reason);
        let logged = seen.logged.get_mut(&key);
        let suppressed = match logged {
            Some(logged) if now - logged.at < LOG_EVERY => {
                logged.suppressed += 1;
                return None;
            }
            Some(logged) => logged.suppressed,
            None => 0,
        };
        seen.logged.insert(key, Logged { at: now, suppressed: 0 });
        Some((suppressed, total))
    }
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
    async fn forgets_rather_than_grows() {
        let rejections = Rejections::default();
        for n in 0..=2 * MAX_REMEMBERED {
            rejections.count(&n.to_string(), Reason::UnknownTopic);
        }
        assert!(rejections.seen.lock().unwrap().logged.len() <= MAX_REMEMBERED);
    }
}
