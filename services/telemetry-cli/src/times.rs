//! Times as people give them: an instant, or how long ago.

use std::str::FromStr;

use service_kit::duration;
use telemetry_model::{Clock, SystemClock, Timestamp};

/// An instant, given as RFC 3339, as `now`, or as how long ago (`24h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When(Timestamp);

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let now = SystemClock.now();
        if text == "now" {
            return Ok(Self(now));
        }
        if let Ok(ago) = duration::parse(text) {
            return Ok(Self(now.minus(ago)));
        }
        Timestamp::parse(text).map(Self).map_err(|_| {
            "must be a time like 2026-01-07T12:00:00Z, how long ago like 24h, or now".into()
        })
    }
}

impl From<When> for Timestamp {
    fn from(when: When) -> Self {
        when.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_instants_and_ages() {
        let noon = "2026-01-07T12:00:00Z";
        assert_eq!(When::from_str(noon), Ok(When(Timestamp::parse(noon).unwrap())));
        let (day, now) = (When::from_str("24h").unwrap(), When::from_str("now").unwrap());
        assert!(day.0 < now.0);
        assert!(When::from_str("yesterday").is_err());
    }
}
