//! What is said of a message, or of a part of it, that is not stored.

use std::fmt;

/// Why a message, or a part of it, was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The kind of fault.
    pub reason: Reason,
    /// The part at fault: `topic`, `payload`, or a path into the payload, cut to
    /// [`Rejected::MAX_FIELD_BYTES`].
    pub field: String,
    /// What is wrong and what would be right, for people.
    pub detail: String,
}

impl Rejected {
    /// The longest path, in bytes. Its keys are the sender's, and may be as long as a payload.
    pub const MAX_FIELD_BYTES: usize = 256;

    /// Says that `field` is at fault.
    pub fn new(reason: Reason, field: &str, detail: impl Into<String>) -> Self {
        let end = field.floor_char_boundary(Self::MAX_FIELD_BYTES);
        let field = field.get(..end).unwrap_or(field).to_owned();
        Self { reason, field, detail: detail.into() }
    }

    /// The same, said of a part that stands at `path`.
    pub(crate) fn within(self, path: &str) -> Self {
        Self::new(self.reason, &format!("{path}.{}", self.field), self.detail)
    }
}

/// The kinds of fault. Their names, which are what is shown, are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No filter matches the topic.
    UnknownTopic,
    /// The topic names no device.
    InvalidDeviceId,
    /// There is no payload.
    EmptyPayload,
    /// The payload is not UTF-8.
    NotUtf8,
    /// The payload is not JSON.
    NotJson,
    /// What stands where an object must is something else.
    NotAnObject,
    /// Nothing is measured.
    NoMeasurements,
    /// A status is neither of the two.
    UnknownStatus,
    /// The time cannot be understood.
    InvalidTime,
    /// The name of a metric is not well formed.
    InvalidMetric,
    /// A value cannot be kept.
    InvalidValue,
    /// Objects or arrays are nested too deep.
    TooDeep,
    /// There are too many samples, or too many measurements in one.
    TooMany,
    /// What it says takes too much room.
    TooLarge,
    /// The decoder panicked.
    DecoderFailed,
    /// The store does not take it.
    RefusedByStore,
    /// Too many messages wait for the store.
    WindowFull,
    /// The device sends more than it may.
    RateLimited,
    /// The broker had retained it, and it does not say of when it is.
    Retained,
    /// The broker sent it again, and what it says was taken the first time.
    Redelivered,
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
            Self::UnknownStatus => "unknown_status",
            Self::InvalidTime => "invalid_time",
            Self::InvalidMetric => "invalid_metric",
            Self::InvalidValue => "invalid_value",
            Self::TooDeep => "too_deep",
            Self::TooMany => "too_many",
            Self::TooLarge => "too_large",
            Self::DecoderFailed => "decoder_failed",
            Self::RefusedByStore => "refused_by_store",
            Self::WindowFull => "window_full",
            Self::RateLimited => "rate_limited",
            Self::Retained => "retained",
            Self::Redelivered => "redelivered",
        })
    }
}
