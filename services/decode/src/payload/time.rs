//! What the time in a payload says: ISO 8601, or a number told apart by its magnitude. Pure.
//!
//! Below 2^32 a whole number may be seconds since 1970 or milliseconds of uptime; only the store,
//! which knows the device's history, can tell. Above, it is s, ms, us or ns since 1970: each unit's
//! range covers the years 2106 (for s) or 1973 (for ms, us, ns) to 5138.

use jiff::{SignedDuration, Timestamp as Instant, Unit, civil};
use serde_json::Value as Json;
use telemetry_model::{DeviceClock, Timestamp};

const MAX_SECONDS: u64 = 100_000_000_000;
const MAX_MILLIS: u64 = MAX_SECONDS * 1000;
const MAX_MICROS: u64 = MAX_MILLIS * 1000;
/// Beyond, no unit makes a time of it.
const MAX_FRACTIONAL: f64 = 1e19;
/// A fractional number from here on is seconds since 1970 (2001 and later), then milliseconds, then
/// something so fine that the fraction does not count.
const MIN_FRACTIONAL_SECONDS: f64 = 1e9;
const MAX_FRACTIONAL_SECONDS: f64 = 1e11;
const MAX_FRACTIONAL_MILLIS: f64 = 1e14;

/// What `value` says, or nothing if it cannot be understood.
pub(super) fn clock(value: &Json) -> Option<DeviceClock> {
    match value {
        Json::Number(number) => match number.as_u64() {
            Some(count) => whole(count),
            None => fractional(number.as_f64()?),
        },
        Json::String(text) => {
            let text = text.trim();
            if let Ok(count) = text.parse() {
                return whole(count);
            }
            iso8601(&cut_fraction(text)).or_else(|| fractional(text.parse().ok()?))
        }
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

fn whole(count: u64) -> Option<DeviceClock> {
    if let Ok(count) = u32::try_from(count) {
        return Some(DeviceClock::Counter(count));
    }
    let micros = match count {
        ..MAX_SECONDS => count.checked_mul(1_000_000)?,
        MAX_SECONDS..MAX_MILLIS => count.checked_mul(1000)?,
        MAX_MILLIS..MAX_MICROS => count,
        _ => count / 1000,
    };
    Timestamp::from_micros(i64::try_from(micros).ok()?).map(DeviceClock::Wall)
}

fn fractional(number: f64) -> Option<DeviceClock> {
    if !(0.0..MAX_FRACTIONAL).contains(&number) {
        return None;
    }
    let seconds = match number {
        MIN_FRACTIONAL_SECONDS..MAX_FRACTIONAL_SECONDS => Some(number),
        MAX_FRACTIONAL_SECONDS..MAX_FRACTIONAL_MILLIS => Some(number / 1000.0),
        _ => None,
    };
    if let Some(seconds) = seconds {
        let since_1970 = SignedDuration::try_from_secs_f64(seconds).ok()?;
        let time = Instant::from_duration(since_1970.round(Unit::Microsecond).ok()?).ok()?;
        return Some(DeviceClock::Wall(time.into()));
    }
    #[expect(clippy::cast_possible_truncation, reason = "what is left is below 2^64")]
    #[expect(clippy::cast_sign_loss, reason = "it is not negative")]
    whole(number as u64)
}

/// The text without the digits of a fraction beyond the ninth, which the parser does not take.
fn cut_fraction(text: &str) -> String {
    let mut digits = None;
    let mut kept = text.to_owned();
    kept.retain(|c| {
        digits = match (c, digits) {
            ('.' | ',', _) => Some(0),
            ('0'..='9', Some(n)) => Some(n + 1),
            _ => None,
        };
        digits.is_none_or(|n| n <= 9)
    });
    kept
}

fn iso8601(text: &str) -> Option<DeviceClock> {
    let time = text.parse::<Instant>().ok().or_else(|| {
        // Without an offset it is UTC; without a time it is midnight.
        let naive = text.parse::<civil::DateTime>().ok()?;
        jiff::tz::Offset::UTC.to_timestamp(naive).ok()
    });
    time.map(|time| DeviceClock::Wall(time.into()))
}
