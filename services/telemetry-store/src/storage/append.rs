//! How events are stored: one algorithm for both backends, which differ only in their statements.
//!
//! All of it happens in one transaction that holds the heads of the log partitions it touches. A
//! device belongs to one partition, so nobody else stores anything of these devices meanwhile: what
//! is read is still so when it is written. That makes the optimistic way safe and simple: insert
//! all readings; if one is there already, undo that, find which, and insert the rest.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
};

use async_trait::async_trait;
use telemetry_model::{
    Cursor, Event, EventKind, Measurement, Partition, Reading, StoredEvent, TimeSource, Timestamp,
    Value,
};

use super::{
    Appended,
    names::{Ids, Names},
    placing::{self, Clocks},
};
use crate::{
    clock_repair::Boot,
    error::{Error, Result},
};

/// What identifies a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) device: i32,
    pub(super) metric: i32,
    pub(super) time: Timestamp,
}

/// A reading to be stored.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) identity: Identity,
    pub(super) time_source: TimeSource,
    pub(super) measurement: &'a Measurement,
    /// Which of the events it belongs to.
    pub(super) event: usize,
}

/// An event to be logged.
#[derive(Debug)]
pub(super) struct LogRow {
    pub(super) device: i32,
    pub(super) cursor: Cursor,
    pub(super) received: Timestamp,
    pub(super) record: Vec<u8>,
}

/// The statements of one transaction. Dropped without commit, it leaves nothing.
#[async_trait]
pub(super) trait AppendTx: Send {
    /// Locks the heads of partitions, which are in order, and answers them.
    async fn lock_heads(&mut self, partitions: &[Partition]) -> Result<Vec<i64>>;
    /// The newest boots of devices.
    async fn boots(&mut self, devices: &[i32]) -> Result<Vec<(i32, Boot)>>;
    /// Those of these readings that are stored, with their values.
    async fn stored(&mut self, identities: &[Identity]) -> Result<HashMap<Identity, Value>>;
    /// Stores all of the readings; or none, and answers false, if one of them is stored already.
    async fn insert_readings(&mut self, rows: &[Row<'_>]) -> Result<bool>;
    /// Adds to the log.
    async fn insert_log(&mut self, rows: &[LogRow]) -> Result<()>;
    /// Writes what else has changed.
    async fn save(
        &mut self,
        heads: &BTreeMap<Partition, i64>,
        boots: &[(i32, Boot)],
        device_metrics: &[(i32, i32)],
    ) -> Result<()>;
    /// Makes it so, and tells other processes that these partitions have grown.
    async fn commit(self, partitions: &[Partition]) -> Result<()>;
}

/// Stores events and answers for each, once they are committed.
pub(super) async fn append<T: AppendTx>(
    mut tx: T,
    names: &Names,
    ids: &Ids,
    events: &[Event],
) -> Result<Vec<Appended>> {
    let mut heads: BTreeMap<_, _> = events.iter().map(|e| (e.device.partition(), 0)).collect();
    let partitions: Vec<_> = heads.keys().copied().collect();
    for (head, locked) in heads.values_mut().zip(tx.lock_heads(&partitions).await?) {
        *head = locked;
    }
    let mut clocks = Clocks::load(&mut tx, ids, events).await?;
    let (placed, rows) = placing::place(&mut clocks, ids, events);
    let (rows, mut appended) = first_of_each(rows, events.len());
    let rows = insert(&mut tx, rows, &mut appended).await?;
    let log = log_rows(&mut heads, ids, events, &placed, &rows);
    tx.insert_log(&log).await?;
    let pairs = rows.iter().map(|row| (row.identity.device, row.identity.metric));
    let pairs: Vec<_> = names.unknown_pairs(pairs).into_iter().collect();
    tx.save(&heads, &clocks.changed(), &pairs).await?;
    tx.commit(&partitions).await?;
    names.learn_pairs(pairs);
    Ok(appended)
}

/// Leaves the first of several readings with one identity and counts the others.
fn first_of_each(rows: Vec<Row<'_>>, events: usize) -> (Vec<Row<'_>>, Vec<Appended>) {
    let mut appended = vec![Appended::default(); events];
    let mut values: HashMap<_, &Value> = HashMap::with_capacity(rows.len());
    let mut firsts = Vec::with_capacity(rows.len());
    for row in rows {
        match values.get(&row.identity) {
            Some(first) => count_repeated(&mut appended, &row, first),
            None => {
                values.insert(row.identity, &row.measurement.value);
                firsts.push(row);
            }
        }
    }
    (firsts, appended)
}

/// Inserts those that are not stored yet, counts all, and answers which were new.
async fn insert<'a, T: AppendTx>(
    tx: &mut T,
    mut rows: Vec<Row<'a>>,
    appended: &mut [Appended],
) -> Result<Vec<Row<'a>>> {
    if !rows.is_empty() && !tx.insert_readings(&rows).await? {
        let identities: Vec<_> = rows.iter().map(|row| row.identity).collect();
        let stored = tx.stored(&identities).await?;
        rows.retain(|row| match stored.get(&row.identity) {
            Some(value) => {
                count_repeated(appended, row, value);
                false
            }
            None => true,
        });
        if !rows.is_empty() && !tx.insert_readings(&rows).await? {
            return Err(Error::Internal("readings appeared under a lock".into()));
        }
    }
    for row in &rows {
        if let Some(counts) = appended.get_mut(row.event) {
            counts.stored += 1;
        }
    }
    Ok(rows)
}

fn count_repeated(appended: &mut [Appended], row: &Row<'_>, stored: &Value) {
    if let Some(counts) = appended.get_mut(row.event) {
        if same(&row.measurement.value, stored) {
            counts.duplicates += 1;
        } else {
            counts.conflicts += 1;
        }
    }
}

/// Whether two values say the same, though one device may write 45 and another 45.0.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        #[expect(clippy::cast_precision_loss, reason = "compares as the database's float8 would")]
        (Value::Integer(integer), Value::Number(number))
        | (Value::Number(number), Value::Integer(integer)) => {
            (*integer as f64).partial_cmp(number) == Some(Ordering::Equal)
        }
        _ => a == b,
    }
}

/// The log of the events that added something: heartbeats, and telemetry with new readings.
fn log_rows(
    heads: &mut BTreeMap<Partition, i64>,
    ids: &Ids,
    events: &[Event],
    placed: &[(Timestamp, TimeSource)],
    rows: &[Row<'_>],
) -> Vec<LogRow> {
    let mut log = Vec::with_capacity(events.len());
    let mut rows = rows.iter().peekable();
    let all = events.iter().zip(&ids.devices).zip(placed).enumerate();
    for (index, ((event, device), (time, time_source))) in all {
        let mut readings = Vec::new();
        while let Some(row) = rows.next_if(|row| row.event == index) {
            readings.push(reading(row.measurement, row.identity.time, row.time_source));
        }
        match event.kind {
            EventKind::Telemetry if readings.is_empty() => continue,
            EventKind::Telemetry => {}
            EventKind::Heartbeat => {
                let attributes = event.samples.iter().flat_map(|sample| &sample.measurements);
                readings.extend(attributes.map(|m| reading(m, *time, *time_source)));
            }
        }
        let partition = event.device.partition();
        let position = heads.entry(partition).or_insert(0);
        *position += 1;
        let cursor = Cursor { partition, position: *position };
        let record = telemetry_proto::encode_log_record(StoredEvent {
            device: event.device.clone(),
            cursor,
            kind: event.kind,
            time: *time,
            time_source: *time_source,
            received: event.received,
            readings,
        });
        log.push(LogRow { device: *device, cursor, received: event.received, record });
    }
    log
}

fn reading(measurement: &Measurement, time: Timestamp, time_source: TimeSource) -> Reading {
    let Measurement { metric, value } = measurement.clone();
    Reading { metric, value, time, time_source }
}
