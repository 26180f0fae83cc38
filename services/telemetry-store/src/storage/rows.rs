//! Between database columns and model types, as both schemas have them.

use telemetry_model::{
    Cursor, DeviceId, MetricName, ProcessId, Reading, Series, StoredEvent, Summary, TimeSource,
    Timestamp, Value,
};
use telemetry_proto::decode_log_record;

use crate::error::{Error, Result};

/// The columns that hold a value; exactly one is set.
#[derive(Debug, Default)]
pub(super) struct ValueColumns {
    pub(super) number: Option<f64>,
    pub(super) integer: Option<i64>,
    pub(super) flag: Option<bool>,
    pub(super) text: Option<String>,
}

impl ValueColumns {
    pub(super) fn value(self) -> Result<Value> {
        match self {
            Self { number: Some(number), .. } => Ok(Value::Number(number)),
            Self { integer: Some(integer), .. } => Ok(Value::Integer(integer)),
            Self { flag: Some(flag), .. } => Ok(Value::Flag(flag)),
            Self { text: Some(text), .. } => Ok(Value::Text(text.into())),
            Self { .. } => Err(corrupt("a reading has no value")),
        }
    }
}

pub(super) fn reading(
    metric: &str,
    time: i64,
    time_source: i16,
    value: ValueColumns,
) -> Result<Reading> {
    reading_of(metric_name(metric)?, time, time_source, value)
}

pub(super) fn reading_of(
    metric: MetricName,
    time: i64,
    time_source: i16,
    value: ValueColumns,
) -> Result<Reading> {
    Ok(Reading {
        metric,
        value: value.value()?,
        time: timestamp(time)?,
        time_source: self::time_source(time_source)?,
    })
}

/// The time source that a number stands for.
pub(super) fn time_source(number: i16) -> Result<TimeSource> {
    match number {
        1 => Ok(TimeSource::Device),
        2 => Ok(TimeSource::Uptime),
        3 => Ok(TimeSource::Received),
        other => Err(corrupt(&format!("time_source is {other}"))),
    }
}

/// By what both databases divide values before they add them up, so that no sum of finite numbers
/// overflows: 2^40, a power of two, so that it costs no digit. Their statements have it as a literal.
const SCALE: f64 = 1_099_511_627_776.0;

/// Bucket, count, min, max, sum divided by [`SCALE`], first, last.
pub(super) type SummaryRow = (i64, i64, f64, f64, f64, f64, f64);

/// Buckets as a database sums them up.
pub(super) fn summaries(rows: Vec<SummaryRow>) -> Result<Vec<Summary>> {
    let summary = |(bucket, count, min, max, scaled_sum, first, last): SummaryRow| {
        let bucket = usize::try_from(bucket).map_err(|_| corrupt("a bucket is negative"))?;
        let count = count.unsigned_abs();
        let avg = mean(scaled_sum, count, min, max);
        Ok(Summary { bucket, count, min, max, avg, first, last })
    };
    rows.into_iter().map(summary).collect()
}

/// The mean of values, from the sum of them divided by [`SCALE`].
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 readings")]
fn mean(scaled_sum: f64, count: u64, min: f64, max: f64) -> f64 {
    // Rounding must not carry it beyond what it is the mean of.
    (scaled_sum / count as f64 * SCALE).max(min).min(max)
}

/// The number that stands for a time source.
pub(super) fn time_source_number(source: TimeSource) -> i16 {
    match source {
        TimeSource::Device => 1,
        TimeSource::Uptime => 2,
        TimeSource::Received => 3,
    }
}

/// A count as a column has it. No count comes near the end of the range.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Through which number a process is settled.
pub(super) fn settled((process, through): (String, i64)) -> Result<(ProcessId, u64)> {
    let process = ProcessId::parse(&process).map_err(|error| corrupt(&error.to_string()))?;
    Ok((process, through.unsigned_abs()))
}

pub(super) fn timestamp(micros: i64) -> Result<Timestamp> {
    Timestamp::from_micros(micros).ok_or_else(|| corrupt(&format!("time is {micros}")))
}

pub(super) fn device_id(text: &str) -> Result<DeviceId> {
    DeviceId::parse(text).map_err(|error| corrupt(&error.to_string()))
}

pub(super) fn metric_name(text: &str) -> Result<MetricName> {
    MetricName::parse(text).map_err(|error| corrupt(&error.to_string()))
}

pub(super) fn series(device: &str, metric: &str) -> Result<Series> {
    Ok(Series { device: device_id(device)?, metric: metric_name(metric)? })
}

pub(super) fn stored_event(record: &[u8], cursor: Cursor) -> Result<StoredEvent> {
    decode_log_record(record, cursor).map_err(|error| corrupt(&error.to_string()))
}

/// The database holds what no version writes.
pub(super) fn corrupt(what: &str) -> Error {
    Error::Internal(format!("unexpected data in the database: {what}").into())
}
