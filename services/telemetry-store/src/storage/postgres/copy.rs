//! PostgreSQL's binary COPY format, as far as our tables need it.
//!
//! A header, then per row the number of columns and per column its length and bytes, then a
//! trailer; all integers big-endian.

use telemetry_model::{TimeSource, Value};

use super::micros::EPOCH_OFFSET;
use crate::storage::{
    append::{LogRow, Row},
    rows::time_source_number,
};

/// `COPY` statement for [`readings`].
pub(super) const COPY_READINGS: &str = "COPY readings (time, device_id, metric_id, number, integer, \
                                        time_source, flag, text) FROM STDIN (FORMAT BINARY)";
/// `COPY` statement for [`log`].
pub(super) const COPY_LOG: &str = "COPY device_log (received, position, device_id, log_partition, \
                                   event) FROM STDIN (FORMAT BINARY)";

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// Rows of `readings`.
pub(super) fn readings(rows: &[Row<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER.len() + rows.len() * 80 + TRAILER.len());
    out.extend_from_slice(HEADER);
    for row in rows {
        out.extend_from_slice(&8_i16.to_be_bytes());
        field(&mut out, (row.identity.time.micros() - EPOCH_OFFSET).to_be_bytes());
        field(&mut out, row.identity.device.to_be_bytes());
        field(&mut out, row.identity.metric.to_be_bytes());
        value(&mut out, &row.measurement.value, row.time_source);
    }
    out.extend_from_slice(TRAILER);
    out
}

/// The columns from `number` on.
fn value(out: &mut Vec<u8>, value: &Value, time_source: TimeSource) {
    match value {
        Value::Number(number) => field(out, number.to_be_bytes()),
        _ => out.extend_from_slice(&NULL),
    }
    match value {
        Value::Integer(integer) => field(out, integer.to_be_bytes()),
        _ => out.extend_from_slice(&NULL),
    }
    field(out, time_source_number(time_source).to_be_bytes());
    match value {
        Value::Flag(flag) => field(out, [u8::from(*flag)]),
        _ => out.extend_from_slice(&NULL),
    }
    match value {
        Value::Text(text) => bytes(out, text.as_bytes()),
        _ => out.extend_from_slice(&NULL),
    }
}

/// Rows of `device_log`.
pub(super) fn log(rows: &[LogRow]) -> Vec<u8> {
    let records: usize = rows.iter().map(|row| row.record.len() + 48).sum();
    let mut out = Vec::with_capacity(HEADER.len() + records + TRAILER.len());
    out.extend_from_slice(HEADER);
    for row in rows {
        out.extend_from_slice(&5_i16.to_be_bytes());
        field(&mut out, (row.received.micros() - EPOCH_OFFSET).to_be_bytes());
        field(&mut out, row.cursor.position.to_be_bytes());
        field(&mut out, row.device.to_be_bytes());
        field(&mut out, row.cursor.partition.number().to_be_bytes());
        bytes(&mut out, &row.record);
    }
    out.extend_from_slice(TRAILER);
    out
}

fn field<const N: usize>(out: &mut Vec<u8>, value: [u8; N]) {
    bytes(out, &value);
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = i32::try_from(bytes.len()).expect("texts and records are limited to megabytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use telemetry_model::{Measurement, MetricName, Timestamp};

    use super::*;
    use crate::storage::append::Identity;

    #[test]
    fn a_row_is_laid_out_as_postgresql_reads_it() {
        let metric = MetricName::parse("t").unwrap();
        let measurement = Measurement { metric, value: Value::Integer(-2) };
        let time = Timestamp::from_micros(EPOCH_OFFSET + 1).unwrap();
        let identity = Identity { device: 3, metric: 4, time };
        let time_source = TimeSource::Uptime;
        let row = Row { identity, time_source, measurement: &measurement, event: 0 };
        let out = readings(&[row]);
        let (header, rest) = out.split_at(19);
        assert_eq!(header, HEADER);
        let expected: &[&[u8]] = &[
            &[0, 8],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 4, 0, 0, 0, 3],
            &[0, 0, 0, 4, 0, 0, 0, 4],
            &[255; 4],
            &[0, 0, 0, 8, 255, 255, 255, 255, 255, 255, 255, 254],
            &[0, 0, 0, 2, 0, 2],
            &[255; 4],
            &[255; 4],
            &[255, 255],
        ];
        assert_eq!(rest, expected.concat());
    }
}
