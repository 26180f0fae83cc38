//! The seam to the database: what the store needs of it, whichever database it is.

mod append;
#[cfg(test)]
mod conformance;
mod devices;
mod errors;
#[cfg(test)]
pub(crate) mod fake;
mod fleet;
mod last_seen;
mod ledger;
mod log;
mod names;
mod placing;
mod postgres;
mod presence;
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
    Account, Device, DeviceId, DeviceQuery, Event, Grid, Invalid, MetricName, Partition, Point,
    Positions, Presence, Reading, ReadingQuery, Selection, Sender, Series, Submission, Summary,
    Tally, TimeRange, Timestamp,
};
use tokio::sync::broadcast;

use self::{
    append::Shared, last_seen::LastSeen, names::Names, postgres::Postgres, presence::Known,
    quarantine::Room, sqlite::Sqlite,
};
pub use self::{
    fleet::Fleet,
    log::{LogPage, LogQuery, LogRange},
    quarantine::{QuarantineQuery, Quarantined, refuse},
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
    /// After how long they are compressed, where that can be.
    pub compress_after: Duration,
    /// How long rollups of them are kept, where there are any: not shorter.
    pub rollups: Duration,
    /// How long the log is kept for watches, by the time of receipt.
    pub log: Duration,
    /// How long messages stay in the quarantine, by the time of receipt, and the accounts of senders
    /// that have ended stand by themselves.
    pub quarantine: Duration,
    /// How much the quarantine may hold, in bytes.
    pub quarantine_bytes: u64,
    /// After how much silence a device is offline.
    pub offline_after: Duration,
    /// How many devices and metrics there may be.
    pub fleet: Fleet,
}

impl Shared {
    fn new(policy: Policy) -> Self {
        Self {
            names: Names::default(),
            last_seen: LastSeen::default(),
            presence: Known::new(policy.offline_after),
            room: Room::new(policy.quarantine_bytes),
            retention: policy.readings,
            fleet: policy.fleet,
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

    /// From where to where the log reaches.
    async fn log_range(&self) -> Result<LogRange>;

    /// A part of the log; nothing if a position that was asked for lies outside it.
    async fn log_after(&self, query: &LogQuery<'_>) -> Result<Option<LogPage>>;

    /// Before the first event, in each of these partitions, that was received at or after a time;
    /// the head if there is none.
    async fn log_since(&self, partitions: &[Partition], time: Timestamp) -> Result<Positions>;

    /// One device, if it has been heard of.
    async fn device(&self, device: &DeviceId) -> Result<Option<Device>>;

    /// Devices ordered by id.
    async fn devices(&self, query: &DeviceQuery) -> Result<Vec<Device>>;

    /// How many devices there are of each presence.
    async fn presence(&self) -> Result<Vec<(Presence, u64)>>;

    /// The metrics of a device, or of all, ordered by name.
    async fn metrics(&self, device: Option<&DeviceId>) -> Result<Vec<MetricName>>;

    /// The newest reading of each of these metrics (all if empty) of a device, ordered by metric.
    async fn latest(&self, device: &DeviceId, metrics: &[MetricName]) -> Result<Vec<Reading>>;

    /// Readings of a device in the order of the query.
    async fn readings(&self, query: &ReadingQuery) -> Result<Vec<Reading>>;

    /// The numeric readings of a series in buckets.
    async fn summarize(&self, series: &Series, grid: &Grid) -> Result<Summaries>;

    /// The numeric readings of a series, oldest first, at most `limit`.
    async fn points(&self, series: &Series, range: TimeRange, limit: usize) -> Result<Vec<Point>>;

    /// The newest numeric reading of a series before a time.
    async fn point_before(&self, series: &Series, time: Timestamp) -> Result<Option<Point>>;

    /// The series of a selection that have readings, or had, ordered by device and metric, after the
    /// given one, at most `limit`. A selection without devices means all.
    async fn series(
        &self,
        selection: &Selection,
        after: Option<&Series>,
        limit: usize,
    ) -> Result<Vec<Series>>;

    /// The readings of series, one series after the other, those of each oldest first, each with the
    /// place of its series.
    async fn scan(&self, scan: Scan<'_>) -> Result<Vec<(usize, Reading)>>;

    /// Deletes a device and all that is stored of it, in one transaction that also writes down who did.
    /// What is appended of it afterwards is of a new device.
    async fn delete_device(&self, device: &DeviceId, who: &str, now: Timestamp) -> Result<Deleted>;

    /// Deletes what is older than the policy has it, and does nothing if another replica is at it.
    async fn prune(&self, now: Timestamp) -> Result<()>;

    /// Writes what appends only noted: of devices (when they were last seen), and how long bridges
    /// listened.
    async fn flush_devices(&self, now: Timestamp) -> Result<()>;

    /// Judges the presence of devices by what was heard of them, and for how long somebody listened.
    async fn judge(&self, now: Timestamp) -> Result<()>;

    /// Succeeds if the database answers.
    async fn ping(&self) -> Result<()>;

    /// Closes every connection, after the work under way.
    async fn close(&self);
}

/// How much was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Readings.
    pub readings: u64,
    /// Events in the log.
    pub events: u64,
    /// Messages in the quarantine.
    pub quarantined: u64,
}

/// A series in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summaries {
    /// Those that hold readings, oldest first.
    pub buckets: Vec<Summary>,
    /// Whether rollups helped, which may know of readings that are no longer there.
    pub rolled_up: bool,
}

/// Which readings to read one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Of which series, in this order.
    pub series: &'a [Series],
    /// From when on those of the first one.
    pub from: Timestamp,
    /// From when on those of the others.
    pub start: Timestamp,
    /// Before when.
    pub end: Timestamp,
    /// How many at most.
    pub limit: usize,
}

/// What to say when a question takes too long.
pub(crate) const TOO_LONG: Error = Error::TooCostly(
    "it takes longer than 30 s: ask for a shorter range, fewer series or other aggregates",
);
/// How long a question about the history may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

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
