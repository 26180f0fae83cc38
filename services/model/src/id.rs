//! The names of devices and metrics: bounded, and safe to log, to use as keys and to show.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::{Invalid, Partition};

/// Who reports. 1 to [`DeviceId::MAX_BYTES`] bytes of UTF-8 without control or invisible
/// characters, white space, `/`, `+` or `#`, so that it is one level of an MQTT topic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Checks and keeps an id.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = |reason: String| Err(Invalid::new("device_id", reason));
        if let Err(reason) = check(text, Self::MAX_BYTES) {
            return invalid(reason);
        }
        if let Some(c) = text.chars().find(|c| c.is_whitespace() || matches!(c, '/' | '+' | '#')) {
            return invalid(format!("must not contain {c:?}"));
        }
        if matches!(text, "." | "..") {
            return invalid("must not be a relative path".into());
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The log partition that holds this device's events: the same in every process, for ever.
    pub fn partition(&self) -> Partition {
        Partition::of(self.0.as_bytes())
    }
}

/// What is measured. 1 to [`MetricName::MAX_BYTES`] bytes of UTF-8 without control or invisible
/// characters, not beginning or ending with white space.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricName(Arc<str>);

impl MetricName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Checks and keeps a name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = |reason: String| Err(Invalid::new("metric", reason));
        if let Err(reason) = check(text, Self::MAX_BYTES) {
            return invalid(reason);
        }
        if text.trim() != text {
            return invalid("must not begin or end with white space".into());
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What all kinds of name have in common.
pub(crate) fn check(text: &str, max_bytes: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if text.len() > max_bytes {
        return Err(format!("must be at most {max_bytes} bytes, is {}", text.len()));
    }
    match text.chars().find(|&c| c.is_control() || is_invisible(c)) {
        Some(c) => Err(format!("must not contain the character U+{:04X}", u32::from(c))),
        None => Ok(()),
    }
}

/// Characters that change how the text around them is shown (zero-width, direction marks): two
/// names that look alike would not be equal, and a log line could be made to lie.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Lets maps keyed by it be looked up by `&str`.
impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Lets maps keyed by it be looked up by `&str`.
impl Borrow<str> for MetricName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_ids_real_devices_have() {
        for id in ["fern-1", "abc123", "AA:BB:CC:DD:EE:FF", "plant_07.v2", "grün", "$x", "a@b"] {
            assert_eq!(DeviceId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn refuses_ids_that_are_not_one_clean_topic_level() {
        for id in
            ["", "a/b", "a+", "#", "a b", "a\n", "a\u{0}", ".", "..", "a\u{202E}b", "\u{200B}"]
        {
            assert_eq!(DeviceId::parse(id).unwrap_err().field, "device_id", "{id:?}");
        }
        assert!(DeviceId::parse(&"x".repeat(128)).is_ok());
        assert!(DeviceId::parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn metric_names_may_hold_inner_spaces_and_dots() {
        for name in ["soil_moisture", "CO2 (ppm)", "env.air.temp", "température", "a/b"] {
            assert!(MetricName::parse(name).is_ok(), "{name}");
        }
        for name in ["", " a", "a\t", "a\u{7}b"] {
            assert_eq!(MetricName::parse(name).unwrap_err().field, "metric", "{name:?}");
        }
    }
}
