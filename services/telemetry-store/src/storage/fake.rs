//! A storage in memory for tests of what stands in front of it: it can be held up and made to fail.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use telemetry_model::{
    Bucket, Cursor, Device, DeviceId, Event, MetricName, Reading, ReadingQuery, StoredEvent,
    SummaryQuery, TimeSource, Timestamp,
};
use tokio::sync::{Semaphore, broadcast};

use super::{Appended, Commit, LogRange, Storage, Tail};
use crate::error::{Error, Result};

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
    async fn append(&self, events: &[Event]) -> Result<Vec<Appended>> {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.failure()?;
        self.appends.lock().unwrap_or_else(PoisonError::into_inner).push(events.len());
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
            });
        }
        let devices = events.iter().map(|event| event.device.clone()).collect();
        drop(self.commits.send(Commit::Devices(devices)));
        Ok(vec![Appended { stored: 1, ..Appended::default() }; events.len()])
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

    async fn devices(&self, _: Option<&DeviceId>, _: usize) -> Result<Vec<Device>> {
        unreachable!("not part of these tests")
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

    async fn prune(&self, _: Timestamp, _: Timestamp) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn flush_devices(&self) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn ping(&self) -> Result<()> {
        unreachable!("not part of these tests")
    }

    async fn close(&self) {}
}
