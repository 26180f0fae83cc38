//! How messages are settled: one algorithm for both backends, which differ only in their statements.
//!
//! All of it happens in one transaction. It holds the accounts of the senders, so that none of their
//! messages is settled twice, and the heads of the log partitions it touches. A
//! device belongs to one partition, so nobody else stores anything of these devices meanwhile: what
//! is read is still so when it is written. That makes the optimistic way safe and simple: insert
//! all readings; if one is there already, undo that, find which, and insert the rest.

use std::{
    borrow::Cow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use telemetry_model::{
    Cursor, Event, EventKind, Measurement, Partition, ProcessId, Reading, Standing, StoredEvent,
    Submission, Tally, TimeSource, Timestamp, Value,
};

use super::{
    fleet::Fleet,
    last_seen::{Heard, LastSeen},
    ledger::{self, Due, Entry},
    names::{Ids, Names},
    placing::{self, BootChanges, Clocks},
    presence::{self, Changes, Found, Known},
    quarantine::{self, Kept, Room},
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

/// The head of a partition of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// The newest position.
    pub(super) position: i64,
    /// How many of its devices were deleted so far.
    pub(super) deletions: i64,
}

/// How often an append is tried. A process that begins may find deletions in one partition after the
/// other.
pub(super) const ATTEMPTS: usize = 64;

/// What is said after that.
pub(super) fn restless() -> Error {
    Error::Unavailable("devices are deleted all the time".into())
}

/// The statements of one transaction. Dropped without commit, it leaves nothing.
#[async_trait]
pub(super) trait AppendTx: Send {
    /// Locks the accounts of these processes, which are in order, and answers through which numbers
    /// they are settled. One that does not exist is left out.
    async fn lock_accounts(&mut self, processes: &[ProcessId]) -> Result<Vec<(ProcessId, u64)>>;
    /// Locks the heads of partitions, which are in order, and answers them.
    async fn lock_heads(&mut self, partitions: &[Partition]) -> Result<Vec<Head>>;
    /// All known boots of devices.
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
        boots: &BootChanges,
        device_metrics: &[(i32, i32)],
    ) -> Result<()>;
    /// Adds to the quarantine.
    async fn insert_quarantine(&mut self, kept: &[Kept<'_>]) -> Result<()>;
    /// Adds to accounts, by process. One that does not exist is opened.
    async fn save_accounts(&mut self, entries: &BTreeMap<&str, Entry<'_>>) -> Result<()>;
    /// The presence of these devices, which are in partitions whose heads are held.
    async fn standings(&mut self, devices: &[i32]) -> Result<Vec<Found>>;
    /// Writes the presence of devices, which are in order.
    async fn save_standings(&mut self, standings: &[(i32, Standing)]) -> Result<()>;
    /// Makes it so, and tells other processes that these partitions have grown.
    async fn commit(self, partitions: &[Partition]) -> Result<()>;
}

/// What appends of one storage have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) names: Names,
    pub(super) last_seen: LastSeen,
    pub(super) presence: Known,
    pub(super) room: Room,
    /// How long readings are kept.
    pub(super) retention: Duration,
    /// How many devices and metrics there may be.
    pub(super) fleet: Fleet,
}

/// What became of the readings of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    stored: u64,
    duplicates: u64,
    conflicts: u64,
}

/// Settles messages and answers for each submission, once all is committed; nothing for one that does
/// not follow on what its sender has settled. Nothing is done, and nothing answered, if the names in
/// them are not known, or no longer: then they must be registered anew.
pub(super) async fn append<T: AppendTx>(
    mut tx: T,
    shared: &Shared,
    batch: &[Submission],
) -> Result<Option<Vec<Option<Tally>>>> {
    let work = ledger::work(&mut tx, batch).await?;
    let events: Vec<_> = work.due.iter().filter_map(|due| due.message.event.as_ref()).collect();
    let Some(stored) = store(&mut tx, shared, &events).await? else { return Ok(None) };
    let (kept, tallies) = settle(shared.room.left(), batch.len(), &work.due, &events, &stored);
    tx.insert_quarantine(&kept).await?;
    tx.save_accounts(&ledger::entries(batch, &work, &tallies)).await?;
    tx.commit(&stored.partitions).await?;
    shared.room.fill(kept.iter().map(Kept::bytes).sum());
    shared.presence.learn(&stored.ids, &events, &stored.changes);
    let heard = heard(&work.due, &stored);
    shared.last_seen.note(heard, &kept, ledger::listening(batch, &work));
    shared.names.learn_pairs(stored.pairs);
    let tallies = tallies.into_iter().zip(work.follows);
    Ok(Some(tallies.map(|(tally, follows)| follows.then_some(tally)).collect()))
}

/// What storing some events has done, if the transaction is committed.
#[derive(Debug, Default)]
struct Stored {
    counts: Vec<Counts>,
    /// The events of which something is too old to be kept, and the oldest time of each.
    too_old: BTreeMap<usize, Timestamp>,
    partitions: Vec<Partition>,
    pairs: Vec<(i32, i32)>,
    ids: Ids,
    placed: Vec<(Timestamp, TimeSource)>,
    changes: Changes,
}

/// What was stored of each event.
fn heard<'a>(due: &'a [Due<'a>], stored: &'a Stored) -> impl Iterator<Item = Heard<'a>> {
    let events = due.iter().filter_map(|due| {
        let event = due.message.event.as_ref()?;
        Some((event, due.message.topic.as_ref()))
    });
    let outcomes = stored.counts.iter().zip(&stored.placed);
    events.zip(outcomes).map(|((event, topic), (counts, (_, time_source)))| Heard {
        event,
        topic,
        time_source: *time_source,
        readings: counts.stored,
        duplicates: counts.duplicates + counts.conflicts,
    })
}

/// Nothing if the names are not known, or no longer.
async fn store<T: AppendTx>(
    tx: &mut T,
    shared: &Shared,
    events: &[&Event],
) -> Result<Option<Stored>> {
    if events.is_empty() {
        return Ok(Some(Stored::default()));
    }
    let Ok(ids) = shared.names.resolve(events) else { return Ok(None) };
    let partitions: BTreeSet<_> = events.iter().map(|event| event.device.partition()).collect();
    let partitions: Vec<_> = partitions.into_iter().collect();
    let locked = tx.lock_heads(&partitions).await?;
    let locked: Vec<_> = partitions.iter().copied().zip(locked).collect();
    if !shared.names.are_alive(&ids, &locked) {
        return Ok(None);
    }
    let mut heads: BTreeMap<_, _> =
        locked.iter().map(|(partition, head)| (*partition, head.position)).collect();
    let mut clocks = Clocks::load(tx, &ids, events).await?;
    let (placed, mut rows) = placing::place(&mut clocks, &ids, events);
    let too_old = quarantine::too_old(&mut rows, events, shared.retention);
    let (rows, mut counts) = first_of_each(rows, events.len());
    let rows = insert(tx, rows, &mut counts).await?;
    let changes = shared.presence.changes(tx, &ids, events).await?;
    let log = log_rows(&mut heads, &ids, events, &placed, &rows, &changes);
    tx.insert_log(&log).await?;
    let pairs = rows.iter().map(|row| (row.identity.device, row.identity.metric));
    let pairs: Vec<_> = shared.names.unknown_pairs(pairs).into_iter().collect();
    tx.save(&heads, &clocks.changes(events), &pairs).await?;
    // Nobody need hear of what left the log as it was.
    let partitions = if log.is_empty() { Vec::new() } else { partitions };
    Ok(Some(Stored { counts, too_old, partitions, pairs, ids, placed, changes }))
}

/// What goes into the quarantine, which has so much room, and what is counted for each submission.
fn settle<'a>(
    mut room: u64,
    submissions: usize,
    due: &[Due<'a>],
    events: &[&'a Event],
    stored: &Stored,
) -> (Vec<Kept<'a>>, Vec<Tally>) {
    let mut kept = Vec::new();
    let mut tallies = vec![Tally::default(); submissions];
    let mut all = events.iter().zip(&stored.counts).enumerate();
    for Due { message, submission } in due {
        let (mut counts, mut added) = (Counts::default(), false);
        let mut refused: Vec<_> = quarantine::refused(message).into_iter().collect();
        if message.event.is_some()
            && let Some((index, (event, own))) = all.next()
        {
            counts = *own;
            added = event.kind != EventKind::Telemetry || counts.stored > 0;
            if let Some(oldest) = stored.too_old.get(&index) {
                let refusal = Cow::Owned(quarantine::refuse_old(event, *oldest));
                let (topic, qos) = (message.topic.as_ref(), message.qos);
                refused.push(Kept { topic, qos, refusal, partial: counts != Counts::default() });
            }
        }
        let known = counts.duplicates + counts.conflicts > 0;
        let is_refused = !refused.is_empty();
        refused.retain(|kept| {
            let left = room.checked_sub(kept.bytes());
            room = left.unwrap_or(room);
            left.is_some()
        });
        let is_kept = !refused.is_empty();
        kept.append(&mut refused);
        if let Some(tally) = tallies.get_mut(*submission) {
            *tally += Tally {
                stored: added.into(),
                duplicate: (known && !added).into(),
                quarantined: (is_kept && !added && !known).into(),
                quarantine_full: (!is_kept && !added && !known).into(),
                partial: (is_kept && (added || known)).into(),
                partial_lost: (is_refused && !is_kept && (added || known)).into(),
                readings_stored: counts.stored,
                readings_duplicate: counts.duplicates,
                readings_conflicting: counts.conflicts,
            };
        }
    }
    (kept, tallies)
}

/// Leaves the first of several readings with one identity and counts the others.
fn first_of_each(rows: Vec<Row<'_>>, events: usize) -> (Vec<Row<'_>>, Vec<Counts>) {
    let mut appended = vec![Counts::default(); events];
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
    appended: &mut [Counts],
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

fn count_repeated(appended: &mut [Counts], row: &Row<'_>, stored: &Value) {
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

/// The log of the events that added something: heartbeats, and telemetry with new readings; before
/// them, how they changed their devices' presence.
fn log_rows(
    heads: &mut BTreeMap<Partition, i64>,
    ids: &Ids,
    events: &[&Event],
    placed: &[(Timestamp, TimeSource)],
    rows: &[Row<'_>],
    changes: &Changes,
) -> Vec<LogRow> {
    let mut log = Vec::with_capacity(events.len() + changes.changes.len());
    let mut changes = changes.changes.iter().peekable();
    let mut rows = rows.iter().peekable();
    let all = events.iter().zip(&ids.devices).zip(placed).enumerate();
    for (index, ((event, device), (time, time_source))) in all {
        let partition = event.device.partition();
        let position = heads.entry(partition).or_insert(0);
        while let Some((_, change)) = changes.next_if(|(of, _)| *of == index) {
            *position += 1;
            log.push(presence::log_row(*device, &event.device, *position, *change));
        }
        let mut readings = Vec::new();
        while let Some(row) = rows.next_if(|row| row.event == index) {
            readings.push(reading(row.measurement, row.identity.time, row.time_source));
        }
        match event.kind {
            EventKind::Telemetry if readings.is_empty() => continue,
            EventKind::Presence => continue,
            EventKind::Telemetry => {}
            EventKind::Heartbeat => {
                let attributes = event.samples.iter().flat_map(|sample| &sample.measurements);
                readings.extend(attributes.map(|m| reading(m, *time, *time_source)));
            }
        }
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
            presence: None,
            trace: event.trace.clone(),
        });
        log.push(LogRow { device: *device, cursor, received: event.received, record });
    }
    log
}

fn reading(measurement: &Measurement, time: Timestamp, time_source: TimeSource) -> Reading {
    let Measurement { metric, value } = measurement.clone();
    Reading { metric, value, time, time_source }
}
