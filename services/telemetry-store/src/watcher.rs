//! One watch of one device: catch up from the log, then live, never a gap.
//!
//! The log is the truth and the hub only says when to look at it. The subscription is made before
//! the first read, so that nothing committed in between is missed; a slow reader simply reads a
//! longer piece of the log next time, and holds up nobody.

use std::{sync::Arc, time::Duration};

use telemetry_model::{Cursor, DeviceId, StoredEvent};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::{Error, Result},
    hub::{Hub, Subscription},
    storage::{LogRange, Storage},
};

/// The most events in one update.
const MAX_EVENTS: usize = 1000;
/// How long a watch may be silent before it says that it is still there.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How long to wait before asking a database again that did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what is committed from now on.
    Now,
    /// With the oldest event still in the log.
    Oldest,
    /// After this cursor.
    After(Cursor),
}

/// What a watcher has to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    /// Where the watch stands after the events.
    pub(crate) cursor: Cursor,
    /// The events, oldest first; none in a progress update.
    pub(crate) events: Vec<StoredEvent>,
    /// True if there was nothing more in the log.
    pub(crate) caught_up: bool,
}

/// A watch of one device.
#[derive(Debug)]
pub(crate) struct Watcher {
    storage: Arc<dyn Storage>,
    device: DeviceId,
    subscription: Subscription,
    cursor: Cursor,
    next_progress: Instant,
    at_head: bool,
}

impl Watcher {
    /// Begins a watch. Fails if its cursor lies outside the log.
    pub(crate) async fn open(
        storage: Arc<dyn Storage>,
        hub: &Hub,
        device: DeviceId,
        start: Start,
    ) -> Result<Self> {
        let subscription = hub.subscribe(&device);
        let LogRange { oldest, newest } = storage.log_range(&device).await?;
        let cursor = match start {
            Start::Now => newest,
            Start::Oldest => oldest,
            Start::After(cursor) => {
                if !(oldest.position..=newest.position).contains(&cursor.position) {
                    return Err(Error::CursorExpired { cursor, oldest, newest });
                }
                cursor
            }
        };
        let (next_progress, at_head) = (Instant::now(), false);
        Ok(Self { storage, device, subscription, cursor, next_progress, at_head })
    }

    /// The next update: at once if the log holds more, else when there is news, at the latest when
    /// progress is due. The first one comes at once. Fails only if the log has been cut behind the
    /// cursor or cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Update> {
        loop {
            if self.at_head {
                // Whether woken or due for progress, look at the log.
                drop(timeout_at(self.next_progress, self.subscription.news()).await);
            }
            let tail = match self.storage.tail(&self.device, self.cursor, MAX_EVENTS).await {
                Ok(tail) => tail,
                Err(Error::Unavailable(error)) => {
                    tracing::debug!(device = %self.device, %error, "watch waits for the database");
                    sleep(RETRY_AFTER).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            (self.cursor, self.at_head) = (tail.cursor, tail.at_head);
            let now = Instant::now();
            if tail.events.is_empty() && now < self.next_progress {
                continue;
            }
            self.next_progress = now + PROGRESS_EVERY;
            return Ok(Update {
                cursor: tail.cursor,
                events: tail.events,
                caught_up: tail.at_head,
            });
        }
    }
}

#[cfg(test)]
mod tests;
