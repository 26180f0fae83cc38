//! A storage in memory for tests of what stands in front of it: it can be held up and made to fail.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use telemetry_model::{
    Account, Cursor, Device, DeviceId, DeviceQuery, Grid, Message, MetricName, Partition, Point,
    Positions, Presence, Reading, ReadingQuery, Selection, Sender, Series, StoredEvent, Submission,
    Tally, TimeRange, TimeSource, Timestamp,
};
use tokio::sync::{Semaphore, broadcast};

use super::{
    Commit, Deleted, LogPage, LogQuery, LogRange, QuarantineQuery, Quarantined, Scan, Storage,
    Summaries, events,
};
use crate::error::{Error, Result};

/// A device whose events are refused for what they are.
pub(crate) const POISON: &str = "poison";

/// Keeps a log of events; knows no readings.
#[derive(Debug)]
pub(crate) struct FakeStorage {
    log: Mutex<Vec<StoredEvent>>,
    failures: Mutex<VecDeque<Error>>,
    appends: Mutex<Vec<usize>>,
    reads: AtomicUsize,
    gate: Semaphore,
    horizon: i64,
    commits: broadcast::Sender<Commit>,
}

impl FakeStorage {
    /// Empty; its log reaches back to `horizon`.
    pub(crate) fn new(horizon: i64) -> Self {
        Self {
            log: Mutex::default(),
            failures: Mutex::default(),
            appends: Mutex::default(),
            reads: AtomicUsize::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            horizon,
            commits: broadcast::Sender::new(4),
        }
    }

    /// Lets appends wait until [`FakeStorage::release`].
    pub(crate) fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets so many appends pass.
    pub(crate) fn release(&self, appends: usize) {
        self.gate.add_permits(appends);
    }

    /// Makes the next call fail.
    pub(crate) fn fail_next(&self, error: Error) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push_back(error);
    }

    /// The sizes of the batches appended so far.
    pub(crate) fn batches(&self) -> Vec<usize> {
        self.appends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failure(&self) -> Result<()> {
        let failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        failure.map_or(Ok(()), Err)
    }

    /// How often the log was read.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// The position of its so many-th event, in whichever partition.
    fn position(&self, events: usize) -> i64 {
        self.horizon + i64::try_from(events).unwrap_or(i64::MAX)
    }

    fn everywhere(&self, events: usize) -> Positions {
        Partition::all().map(|partition| (partition, self.position(events))).collect()
    }
}

#[async_trait]
impl Storage for FakeStorage {
    async fn append(&self, batch: &[Submission]) -> Result<Vec<Option<Tally>>> {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        let events = events(batch);
        if events.iter().any(|event| event.device.as_str() == POISON) {
            return Err(Error::Unstorable("on purpose".into()));
        }
        self.failure()?;
        let messages = batch.iter().map(|submission| submission.messages.len());
        self.appends.lock().unwrap_or_else(PoisonError::into_inner).push(messages.clone().sum());
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let position = self.position(log.len() + 1);
            let cursor = Cursor { partition: event.device.partition(), position };
            log.push(StoredEvent {
                cursor,
                device: event.device.clone(),
                kind: event.kind,
                time: event.received,
                time_source: TimeSource::Received,
                received: event.received,
                readings: vec![],
                presence: None,
                trace: event.trace.clone(),
            });
        }
        drop(self.commits.send(Commit::of(batch)));
        let tally = |submission: &Submission| {
            let is_stored = |message: &&Message| message.event.is_some();
            let stored = submission.messages.iter().filter(is_stored).count() as u64;
            let quarantined = submission.messages.len() as u64 - stored;
            Tally { stored, readings_stored: stored, quarantined, ..Tally::default() }
        };
        Ok(batch.iter().map(tally).map(Some).collect())
    }

    fn commits(&self) -> broadcast::Receiver<Commit> {
        self.commits.subscribe()
    }

    async fn log_range(&self) -> Result<LogRange> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(LogRange { oldest: self.everywhere(0), newest: self.everywhere(log.len()) })
    }

    async fn log_after(&self, query: &LogQuery<'_>) -> Result<Option<LogPage>> {
        self.failure()?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        let LogQuery { partitions, devices, after, limit } = *query;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.position(log.len());
        let mut page = LogPage { events: vec![], upto: after.clone(), at_head: true };
        for partition in partitions {
            if !(self.horizon..=head).contains(&after.get(*partition)) {
                return Ok(None);
            }
            let rest = log.iter().filter(|event| {
                event.cursor.partition == *partition
                    && event.cursor.position > after.get(*partition)
                    && devices.is_none_or(|devices| devices.contains(&event.device))
            });
            let events: Vec<_> = rest.take(limit).cloned().collect();
            let last = events.last().filter(|_| events.len() >= limit);
            page.at_head &= last.is_none();
            page.upto.advance(*partition, last.map_or(head, |last| last.cursor.position));
            page.events.extend(events);
        }
        Ok(Some(page))
    }

    async fn log_since(&self, _: &[Partition], time: Timestamp) -> Result<Positions> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let before = log.iter().take_while(|event| event.received < time);
        Ok(self.everywhere(before.count()))
    }

    async fn device(&self, _: &DeviceId) -> Result<Option<Device>> {
        unreachable!("not part of these tests")
    }

    async fn devices(&self, _: &DeviceQuery) -> Result<Vec<Device>> {
        unreachable!("not part of these tests")
    }

    async fn presence(&self) -> Result<Vec<(Presence, u64)>> {
        Ok(vec![(Presence::Online, 7)])
    }

    async fn metrics(&self, _: Option<&DeviceId>) -> Result<Vec<MetricName>> {
        unreachable!("not part of these tests")
    }

    async fn latest(&self, _: &DeviceId, _: &[MetricName]) -> Result<Vec<Reading>> {
        unreachable!("not part of these tests")
    }

    async fn readings(&self, _: &ReadingQuery) -> Result<Vec<Reading>> {
        unreachable!("not part of these tests")
    }

    async fn summarize(&self, _: &Series, _: &Grid) -> Result<Summaries> {
        unreachable!("not part of these tests")
    }

    async fn points(&self, _: &Series, _: TimeRange, _: usize) -> Result<Vec<Point>> {
        unreachable!("not part of these tests")
    }

    async fn point_before(&self, _: &Series, _: Timestamp) -> Result<Option<Point>> {
        unreachable!("not part of these tests")
    }

    async fn series(&self, _: &Selection, _: Option<&Series>, _: usize) -> Result<Vec<Series>> {
        unreachable!("not part of these tests")
    }

    async fn scan(&self, _: Scan<'_>) -> Result<Vec<(usize, Reading)>> {
        unreachable!("not part of these tests")
    }

    async fn introduce(&self, _: &Sender, _: u64) -> Result<u64> {
        unreachable!("not part of these tests")
    }

    async fn accounts(&self) -> Result<Vec<Account>> {
        self.failure().map(|()| vec![])
    }

    async fn quarantine(&self, _: &QuarantineQuery) -> Result<Vec<Quarantined>> {
        unreachable!("not part of these tests")
    }

    async fn release(&self, _: &[i64]) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn measure_quarantine(&self) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn delete_device(&self, _: &DeviceId, _: &str, _: Timestamp) -> Result<Deleted> {
        unreachable!("not part of these tests")
    }

    async fn prune(&self, _: Timestamp) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn flush_devices(&self, _: Timestamp) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn judge(&self, _: Timestamp) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn ping(&self) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn close(&self) {}
}
