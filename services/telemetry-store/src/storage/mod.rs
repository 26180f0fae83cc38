//! The seam to the database: what the store needs of it, whichever database it is.

mod append;
#[cfg(test)]
mod conformance;
mod errors;
#[cfg(test)]
pub(crate) mod fake;
mod last_seen;
mod names;
mod placing;
mod postgres;
mod rows;
mod sqlite;

use std::{collections::HashSet, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use service_kit::lifecycle::Lifecycle;
use telemetry_model::{
    Bucket, Cursor, Device, DeviceId, Event, Invalid, MetricName, Partition, Reading, ReadingQuery,
    StoredEvent, SummaryQuery, Timestamp,
};
use tokio::sync::broadcast;

use self::{postgres::Postgres, sqlite::Sqlite};
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
}

/// Opens the database at `url`. On TimescaleDB the schema must be up to date (see [`migrate`]);
/// a SQLite database is made and brought up to date. Tasks it needs are spawned on `background`.
pub async fn open(url: &SecretString, background: &Lifecycle) -> Result<Arc<dyn Storage>> {
    Ok(match Backend::of(url)? {
        Backend::Postgres(url) => Arc::new(Postgres::open(url, background).await?),
        Backend::Sqlite(url) => Arc::new(Sqlite::open(url).await?),
    })
}

/// Brings the database at `url` to this version's schema. Several at once wait for each other.
pub async fn migrate(url: &SecretString) -> Result<()> {
    match Backend::of(url)? {
        Backend::Postgres(url) => Postgres::migrate(url).await,
        Backend::Sqlite(url) => {
            Sqlite::open(url).await?.close().await;
            Ok(())
        }
    }
}

/// A place that keeps devices, readings and the log of events.
///
/// Calls may be cut off at any await; what they had not committed is then not there.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    /// Stores events in one transaction and answers for each, in their order, once it is
    /// committed and synced. What is stored already is counted, not stored again; an event of
    /// which nothing is new leaves no trace in the log.
    async fn append(&self, events: &[Event]) -> Result<Vec<Appended>>;

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

    /// Deletes readings before one time and log records received before another, and does nothing
    /// if another replica is at it.
    async fn prune(&self, readings_before: Timestamp, log_before: Timestamp) -> Result<()>;

    /// Writes per-device state that appends only noted (when it was last seen).
    async fn flush_devices(&self) -> Result<()>;

    /// Succeeds if the database answers.
    async fn ping(&self) -> Result<()>;

    /// Closes every connection, after the work under way.
    async fn close(&self);
}

/// What became of the readings of one appended event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// How many are new.
    pub stored: u32,
    /// How many were there already, with the same value.
    pub duplicates: u32,
    /// How many were there already, with another value, which stays.
    pub conflicts: u32,
}

impl std::iter::Sum for Appended {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            stored: sum.stored + count.stored,
            duplicates: sum.duplicates + count.duplicates,
            conflicts: sum.conflicts + count.conflicts,
        })
    }
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
    fn of(events: &[Event]) -> Self {
        let devices: HashSet<_> = events.iter().map(|event| &event.device).collect();
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
