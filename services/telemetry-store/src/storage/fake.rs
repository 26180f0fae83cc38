//! A storage in memory for tests of what stands in front of it: it can be held up and made to fail.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use telemetry_model::{
    Account, Bucket, Cursor, Device, DeviceId, DeviceQuery, Message, MetricName, Presence, Reading,
    ReadingQuery, Sender, StoredEvent, Submission, SummaryQuery, Tally, TimeSource, Timestamp,
};
use tokio::sync::{Semaphore, broadcast};

use super::{Commit, LogRange, QuarantineQuery, Quarantined, Storage, Tail, events};
use crate::error::{Error, Result};

/// A device whose events are refused for what they are.
pub(crate) const POISON: &str = "poison";

/// Keeps a log of events; knows no readings.
#[derive(Debug)]
pub(crate) struct FakeStorage {
    log: Mutex<Vec<StoredEvent>>,
    failures: Mutex<VecDeque<Error>>,
    appends: Mutex<Vec<usize>>,
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

    fn cursor(&self, device: &DeviceId, position: usize) -> Cursor {
        let position = self.horizon + i64::try_from(position).unwrap_or(i64::MAX);
        Cursor { partition: device.partition(), position }
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
            let cursor = self.cursor(&event.device, log.len() + 1);
            log.push(StoredEvent {
                cursor,
                device: event.device.clone(),
                kind: event.kind,
                time: event.received,
                time_source: TimeSource::Received,
                received: event.received,
                readings: vec![],
                presence: None,
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

    async fn log_range(&self, device: &DeviceId) -> Result<LogRange> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(LogRange { oldest: self.cursor(device, 0), newest: self.cursor(device, log.len()) })
    }

    async fn tail(&self, device: &DeviceId, after: Cursor, limit: usize) -> Result<Tail> {
        self.failure()?;
        let LogRange { oldest, newest } = self.log_range(device).await?;
        if !(oldest.position..=newest.position).contains(&after.position) {
            return Err(Error::CursorExpired { cursor: after, oldest, newest });
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = log.iter().filter(|e| e.cursor.position > after.position && e.device == *device);
        let events: Vec<_> = rest.take(limit).cloned().collect();
        let at_head = events.len() < limit;
        let last = events.last().map_or(after, |last| last.cursor);
        Ok(Tail { events, cursor: if at_head { newest } else { last }, at_head })
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

    async fn summarize(&self, _: &SummaryQuery) -> Result<Vec<Bucket>> {
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
