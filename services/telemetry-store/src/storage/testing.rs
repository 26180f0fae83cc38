//! For tests: events in, without a sender, and what became of the readings of each.

use async_trait::async_trait;
use telemetry_model::{Event, Message, Submission, Tally};

use super::Storage;
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

/// Events as a client sends them that did not introduce itself.
pub(crate) fn of_nobody(events: Vec<Event>) -> Submission {
    Submission { messages: events.into_iter().map(message).collect(), ..Submission::default() }
}

/// The message that an event came from.
pub(crate) fn message(event: Event) -> Message {
    let topic = format!("devices/{}/telemetry", event.device).into();
    Message { topic, qos: 1, event: Some(event), refusal: None }
}
