//! Rows of `readings` turned on their side: PostgreSQL takes a batch as one array per column.

use sqlx::PgConnection;
use telemetry_model::Value;

use super::micros::Micros;
use crate::storage::{append::Row, rows::time_source_number};

/// A batch of readings, column by column.
#[derive(Debug, Default)]
pub(super) struct ReadingColumns<'a> {
    times: Vec<Micros>,
    devices: Vec<i32>,
    metrics: Vec<i32>,
    time_sources: Vec<i16>,
    numbers: Vec<Option<f64>>,
    integers: Vec<Option<i64>>,
    flags: Vec<Option<bool>>,
    texts: Vec<Option<&'a str>>,
}

const INSERT: &str = "
    INSERT INTO readings
        (time, device_id, metric_id, time_source, number, integer, flag, text)
    SELECT * FROM unnest($1::timestamptz[], $2::integer[], $3::integer[], $4::smallint[],
                         $5::double precision[], $6::bigint[], $7::boolean[], $8::text[])";

impl<'a> ReadingColumns<'a> {
    pub(super) fn of(rows: &[Row<'a>]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.times.push(Micros(row.identity.time.micros()));
            columns.devices.push(row.identity.device);
            columns.metrics.push(row.identity.metric);
            columns.time_sources.push(time_source_number(row.time_source));
            let (mut number, mut integer, mut flag, mut text) = (None, None, None, None);
            match &row.measurement.value {
                Value::Number(value) => number = Some(*value),
                Value::Integer(value) => integer = Some(*value),
                Value::Flag(value) => flag = Some(*value),
                Value::Text(value) => text = Some(value.as_ref()),
            }
            columns.numbers.push(number);
            columns.integers.push(integer);
            columns.flags.push(flag);
            columns.texts.push(text);
        }
        columns
    }

    /// Inserts all of them, or fails.
    pub(super) async fn insert(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query(INSERT)
            .bind(self.times)
            .bind(self.devices)
            .bind(self.metrics)
            .bind(self.time_sources)
            .bind(self.numbers)
            .bind(self.integers)
            .bind(self.flags)
            .bind(self.texts)
            .execute(connection)
            .await?;
        Ok(())
    }
}
