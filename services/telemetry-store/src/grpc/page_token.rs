//! Where the next page begins, as opaque text bound to its request.

use std::hash::{DefaultHasher, Hash, Hasher};

use prost::Message;
use telemetry_model::{
    DeviceId, Invalid, MetricName, ReadingPosition, ReadingQuery, Series, Timestamp,
};

use crate::history::export::Position;

/// The token of the page after the reading at `position`.
pub(super) fn encode(query: &ReadingQuery, position: &ReadingPosition) -> String {
    format!("{:016x}.{}.{}", fingerprint(query), position.time.micros(), position.metric)
}

/// The position in a token, which must have been given for the same query.
pub(super) fn decode(token: &str, query: &ReadingQuery) -> Result<ReadingPosition, Invalid> {
    let invalid = |reason| Invalid::new("page_token", reason);
    let malformed = || invalid("is not a page token: pass next_page_token of the previous page");
    let mut parts = token.splitn(3, '.');
    let (Some(print), Some(micros), Some(metric)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    if u64::from_str_radix(print, 16).map_err(|_| malformed())? != fingerprint(query) {
        return Err(invalid("belongs to another request: only page_size may change between pages"));
    }
    let time = micros.parse().ok().and_then(Timestamp::from_micros).ok_or_else(malformed)?;
    let metric = MetricName::parse(metric).map_err(|_| malformed())?;
    Ok(ReadingPosition { time, metric })
}

/// The token of what follows a position in the answer to a request, whose own token is taken out.
pub(super) fn encode_position(request: &impl Message, position: &Position) -> String {
    let Position { series: Series { device, metric }, time } = position;
    format!("{:016x}.{}.{device}/{metric}", fingerprint_of(request), time.micros())
}

/// The position in a token, which must have been given for the same request.
pub(super) fn decode_position(token: &str, request: &impl Message) -> Result<Position, Invalid> {
    let invalid = |reason| Invalid::new("page_token", reason);
    let malformed = || invalid("is not a page token: pass next_page_token of the answer before");
    let mut parts = token.splitn(3, '.');
    let (Some(print), Some(micros), Some(series)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    if u64::from_str_radix(print, 16).map_err(|_| malformed())? != fingerprint_of(request) {
        return Err(invalid("belongs to another request: no other field may change"));
    }
    let time = micros.parse().ok().and_then(Timestamp::from_micros).ok_or_else(malformed)?;
    // No device has a slash in its id.
    let (device, metric) = series.split_once('/').ok_or_else(malformed)?;
    let device = DeviceId::parse(device).map_err(|_| malformed())?;
    let metric = MetricName::parse(metric).map_err(|_| malformed())?;
    Ok(Position { series: Series { device, metric }, time })
}

fn fingerprint_of(request: &impl Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

/// Tells queries apart, whatever their page and its size. It need not resist forgery: a forged
/// token reads nothing that its sender could not ask for.
fn fingerprint(query: &ReadingQuery) -> u64 {
    let mut hasher = DefaultHasher::new();
    let range = (query.range.start, query.range.end);
    (&query.device, &query.metrics, range, query.order).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use telemetry_model::{Order, TimeRange};

    use super::*;

    #[test]
    fn a_token_serves_its_own_query_only() {
        let query = ReadingQuery {
            device: DeviceId::parse("fern-1").unwrap(),
            metrics: vec![],
            range: TimeRange { start: Timestamp::MIN, end: Timestamp::MAX },
            order: Order::OldestFirst,
            after: None,
            limit: 10,
        };
        let metric = MetricName::parse("env.air.temp").unwrap();
        let position = ReadingPosition { time: Timestamp::EPOCH, metric };
        let token = encode(&query, &position);
        assert_eq!(decode(&token, &query).unwrap(), position);
        let other = ReadingQuery { order: Order::NewestFirst, ..query.clone() };
        assert!(decode(&token, &other).unwrap_err().reason.contains("another request"));
        for token in ["", "x", "0.0", "zz.0.a", &format!("{token}\n")] {
            assert_eq!(decode(token, &query).unwrap_err().field, "page_token", "{token:?}");
        }
    }
}
