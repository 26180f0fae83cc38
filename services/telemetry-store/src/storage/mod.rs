//! The seam to the database: what the store needs of it, whichever database it is.

mod append;
#[cfg(test)]
mod conformance;
mod errors;
#[cfg(test)]
pub(crate) mod fake;
mod last_seen;
mod ledger;
mod names;
mod placing;
mod postgres;
mod quarantine;
mod rows;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;

use std::{collections::HashSet, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use service_kit::lifecycle::Lifecycle;
use telemetry_model::{
    Account, Bucket, Cursor, Device, DeviceId, Event, Invalid, MetricName, Partition, Reading,
    ReadingQuery, Sender, StoredEvent, Submission, SummaryQuery, Tally, Timestamp,
};
use tokio::sync::broadcast;

pub use self::quarantine::{QuarantineQuery, Quarantined, refuse};
use self::{
    append::Shared, last_seen::LastSeen, names::Names, postgres::Postgres, quarantine::Room,
    sqlite::Sqlite,
};
use crate::error::{Error, Result};

/// Which database a URL names.
enum Backend<'a> {
    Postgres(&'a str),
    Sqlite(&'a str),
}

impl<'a> Backend<'a> {
    fn of(url: &'a SecretString) -> Result<Self> {
        let url = url.expose_secret();
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Self::Postgres(url)),
            Some("sqlite") => Ok(Self::Sqlite(url)),
            _ => {
                Err(Invalid::new("DATABASE_URL", "must begin with postgres:// or sqlite://").into())
            }
        }
    }

    /// What a failure to open it means.
    fn at_start(&self) -> fn(Error) -> Error {
        match self {
            Self::Postgres(_) => errors::server_at_start,
            Self::Sqlite(_) => errors::file_at_start,
        }
    }
}

/// What is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long readings are kept, by their time.
    pub readings: Duration,
    /// How long the log is kept for watches, by the time of receipt.
    pub log: Duration,
    /// How long messages stay in the quarantine, by the time of receipt, and the accounts of senders
    /// that have ended stand by themselves.
    pub quarantine: Duration,
    /// How much the quarantine may hold, in bytes.
    pub quarantine_bytes: u64,
}

impl Shared {
    fn new(policy: Policy) -> Self {
        Self {
            names: Names::default(),
            last_seen: LastSeen::default(),
            room: Room::new(policy.quarantine_bytes),
            retention: policy.readings,
        }
    }
}

/// Opens the database at `url`. On TimescaleDB the schema must be up to date (see [`migrate`]);
/// a SQLite database is made and brought up to date. Tasks it needs are spawned on `background`.
pub async fn open(
    url: &SecretString,
    policy: Policy,
    background: &Lifecycle,
) -> Result<Arc<dyn Storage>> {
    let backend = Backend::of(url)?;
    let at_start = backend.at_start();
    let opening = async {
        let storage: Arc<dyn Storage> = match backend {
            Backend::Postgres(url) => Arc::new(Postgres::open(url, policy, background).await?),
            Backend::Sqlite(url) => Arc::new(Sqlite::open(url, policy).await?),
        };
        storage.measure_quarantine().await?;
        Ok(storage)
    };
    opening.await.map_err(at_start)
}

/// Brings the database at `url` to this version's schema. Several at once wait for each other.
pub async fn migrate(url: &SecretString) -> Result<()> {
    let backend = Backend::of(url)?;
    let at_start = backend.at_start();
    let migrated = match backend {
        Backend::Postgres(url) => Postgres::migrate(url).await,
        Backend::Sqlite(url) => Sqlite::migrate(url).await,
    };
    migrated.map_err(at_start)
}

/// A place that keeps devices, readings and the log of events.
///
/// Calls may be cut off at any await; what they had not committed is then not there.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    /// Settles messages in one transaction and answers for each submission, in their order, once it
    /// is committed and synced. What a sender had settled before is left out. A submission that does not
    /// follow on it is not done, and gets no answer: its sender must go back. What is stored already
    /// is counted, not stored again; an event of which nothing is new leaves no trace in the log.
    async fn append(&self, batch: &[Submission]) -> Result<Vec<Option<Tally>>>;

    /// Opens a sender's account if it has none, and closes those of others with its client id.
    /// Answers through which number it is settled; at least through all before `first_held`.
    async fn introduce(&self, sender: &Sender, first_held: u64) -> Result<u64>;

    /// All accounts, the one heard of last first.
    async fn accounts(&self) -> Result<Vec<Account>>;

    /// Messages in the quarantine, the newest first.
    async fn quarantine(&self, query: &QuarantineQuery) -> Result<Vec<Quarantined>>;

    /// Takes messages out of the quarantine.
    async fn release(&self, ids: &[i64]) -> Result<()>;

    /// Finds out how much room the quarantine has left.
    async fn measure_quarantine(&self) -> Result<()>;

    /// Hints that the log of some devices has grown. One may be lost (the receiver lagged, a
    /// connection broke), and one may be wrong; the log is the truth.
    fn commits(&self) -> broadcast::Receiver<Commit>;

    /// From where to where the log that holds this device reaches.
    async fn log_range(&self, device: &DeviceId) -> Result<LogRange>;

    /// The events of a device after a cursor, oldest first, at most `limit`.
    /// [`Error::CursorExpired`] if it lies outside the log.
    async fn tail(&self, device: &DeviceId, after: Cursor, limit: usize) -> Result<Tail>;

    /// One device, if it has been heard of.
    async fn device(&self, device: &DeviceId) -> Result<Option<Device>>;

    /// Devices ordered by id, after the given one, at most `limit`.
    async fn devices(&self, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>>;

    /// The metrics of a device, or of all, ordered by name.
    async fn metrics(&self, device: Option<&DeviceId>) -> Result<Vec<MetricName>>;

    /// The newest reading of each of these metrics (all if empty) of a device, ordered by metric.
    async fn latest(&self, device: &DeviceId, metrics: &[MetricName]) -> Result<Vec<Reading>>;

    /// Readings of a device in the order of the query.
    async fn readings(&self, query: &ReadingQuery) -> Result<Vec<Reading>>;

    /// The numeric readings of a device in buckets, oldest first, empty ones left out.
    async fn summarize(&self, query: &SummaryQuery) -> Result<Vec<Bucket>>;

    /// Deletes what is older than the policy has it, and does nothing if another replica is at it.
    async fn prune(&self, now: Timestamp) -> Result<()>;

    /// Writes per-device state that appends only noted (when it was last seen).
    async fn flush_devices(&self) -> Result<()>;

    /// Succeeds if the database answers.
    async fn ping(&self) -> Result<()>;

    /// Closes every connection, after the work under way.
    async fn close(&self);
}

/// The events in a batch.
fn events(batch: &[Submission]) -> Vec<&Event> {
    let messages = batch.iter().flat_map(|submission| &submission.messages);
    messages.filter_map(|message| message.event.as_ref()).collect()
}

/// A hint that logs have grown.
#[derive(Clone, Debug)]
pub enum Commit {
    /// These devices have news; sent by the process that committed them.
    Devices(Arc<[DeviceId]>),
    /// Some devices in these partitions have news; sent by another process.
    Partitions(Arc<[Partition]>),
    /// Anything may have news: hints may have been lost.
    Anything,
}

impl Commit {
    fn of(batch: &[Submission]) -> Self {
        let devices: HashSet<_> = events(batch).into_iter().map(|event| &event.device).collect();
        Self::Devices(devices.into_iter().cloned().collect())
    }
}

/// The cursors between which a log can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Before the oldest event still there.
    pub oldest: Cursor,
    /// After the newest event.
    pub newest: Cursor,
}

impl LogRange {
    fn new(partition: Partition, horizon: i64, head: i64) -> Self {
        let cursor = |position| Cursor { partition, position };
        Self { oldest: cursor(horizon), newest: cursor(head) }
    }
}

/// Some events of a device and where they end.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// The events, oldest first.
    pub events: Vec<StoredEvent>,
    /// The cursor after them. At the end of the log it is the log's head, which may lie beyond
    /// the last event of this device.
    pub cursor: Cursor,
    /// True if there was nothing more at the time of reading.
    pub at_head: bool,
}

impl Tail {
    /// From the records found after a cursor in a log of this range.
    fn new(
        after: Cursor,
        range: LogRange,
        records: impl Iterator<Item = (i64, Vec<u8>)>,
        limit: usize,
    ) -> Result<Self> {
        let LogRange { oldest, newest } = range;
        if !(oldest.position..=newest.position).contains(&after.position) {
            return Err(Error::CursorExpired { cursor: after, oldest, newest });
        }
        let event = |(position, record): (i64, Vec<u8>)| {
            rows::stored_event(&record, Cursor { position, ..after })
        };
        let events = records.map(event).collect::<Result<Vec<_>>>()?;
        let at_head = events.len() < limit;
        let last = events.last().map_or(after, |event| event.cursor);
        Ok(Self { events, cursor: if at_head { newest } else { last }, at_head })
    }
}
