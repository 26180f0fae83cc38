//! For tests: events in, without a sender, and what became of the readings of each.

use async_trait::async_trait;
use telemetry_model::{
    Cursor, DeviceId, Event, Message, Positions, StoredEvent, Submission, Tally,
};

use super::{LogPage, LogQuery, LogRange, Storage};
use crate::error::Result;

/// What became of the readings of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
}

/// Appends events as nobody's messages.
#[async_trait]
pub(crate) trait AppendEvents {
    /// Appends events in one transaction, and answers for each.
    async fn append_events(&self, events: &[Event]) -> Result<Vec<Appended>>;
}

#[async_trait]
impl<S: Storage + ?Sized> AppendEvents for S {
    async fn append_events(&self, events: &[Event]) -> Result<Vec<Appended>> {
        let batch: Vec<_> = events.iter().cloned().map(|event| of_nobody(vec![event])).collect();
        let appended = |tally: Tally| Appended {
            stored: tally.readings_stored,
            duplicates: tally.readings_duplicate,
            conflicts: tally.readings_conflicting,
        };
        Ok(self.append(&batch).await?.into_iter().flatten().map(appended).collect())
    }
}

/// From where to where the log of one device reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRange {
    pub(crate) oldest: Cursor,
    pub(crate) newest: Cursor,
}

/// Some events of a device and where they end.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) cursor: Cursor,
    pub(crate) at_head: bool,
}

/// A cursor lies outside the log.
#[derive(Debug)]
pub(crate) struct Outside;

/// The log of one device.
#[async_trait]
pub(crate) trait DeviceLog {
    async fn range_of(&self, device: &DeviceId) -> Result<DeviceRange>;

    /// Its events after a cursor, at most `limit`.
    async fn tail_of(
        &self,
        device: &DeviceId,
        after: Cursor,
        limit: usize,
    ) -> Result<Tail, Outside>;
}

#[async_trait]
impl<S: Storage + ?Sized> DeviceLog for S {
    async fn range_of(&self, device: &DeviceId) -> Result<DeviceRange> {
        let LogRange { oldest, newest } = self.log_range().await?;
        let partition = device.partition();
        let cursor =
            |positions: Positions| Cursor { partition, position: positions.get(partition) };
        Ok(DeviceRange { oldest: cursor(oldest), newest: cursor(newest) })
    }

    async fn tail_of(
        &self,
        device: &DeviceId,
        after: Cursor,
        limit: usize,
    ) -> Result<Tail, Outside> {
        let Cursor { partition, position } = after;
        let query = LogQuery {
            partitions: &[partition],
            devices: Some(&[device.clone()].into()),
            after: &[(partition, position)].into_iter().collect(),
            limit,
        };
        let LogPage { events, upto, at_head } =
            self.log_after(&query).await.unwrap().ok_or(Outside)?;
        Ok(Tail { events, cursor: Cursor { partition, position: upto.get(partition) }, at_head })
    }
}

/// Events as a client sends them that did not introduce itself.
pub(crate) fn of_nobody(events: Vec<Event>) -> Submission {
    Submission { messages: events.into_iter().map(message).collect(), ..Submission::default() }
}

/// The message that an event came from.
pub(crate) fn message(event: Event) -> Message {
    let topic = format!("devices/{}/telemetry", event.device).into();
    Message { topic, qos: 1, event: Some(event), refusal: None }
}
