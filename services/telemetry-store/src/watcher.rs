//! One watch: catch up from the log, then live, never a gap.
//!
//! The log is the truth. A watcher subscribes with the hub, which collects for it from then on, and
//! reads the log by itself up to where that begins. If it is too slow for what is collected, it
//! reads the log again, a longer piece of it: it holds up nobody, and nobody waits for it.

mod selection;
mod state;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use telemetry_model::{Clock, Positions, StoredEvent, Timestamp};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};

use self::state::States;
pub(crate) use self::{
    selection::{Filter, Selection, weight},
    state::DeviceState,
};
use crate::{
    error::{Error, Result},
    hub::{Hub, Subscription},
    storage::{LogQuery, LogRange, Storage},
};

/// The most events in one update.
const MAX_EVENTS: usize = 1000;
/// The most bytes in one update, about, unless one event alone has more.
const MAX_BYTES: usize = 512 << 10;
/// How long a watch may be silent before it says that it is still there.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How long to wait before asking a database again that did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How many watches read the database at once. When thousands come back after a restart, the rest of
/// its connections must be left to those who store.
const MAX_READERS: usize = 4;

/// Where a watch begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what is committed from now on.
    Now,
    /// With the oldest event still in the log.
    Oldest,
    /// After these positions.
    After(Positions),
    /// With the first event that was received at or after this time.
    At(Timestamp),
}

/// What to watch.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) selection: Selection,
    pub(crate) start: Start,
    pub(crate) filter: Filter,
    /// Whether it begins with the present state of the devices.
    pub(crate) with_state: bool,
}

/// What a watcher has to tell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    /// Where the watch stands after the events.
    pub(crate) cursor: String,
    /// The events, those of a device oldest first; none in a progress update.
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// What is known of devices, if that was asked for: before the first event.
    pub(crate) states: Vec<DeviceState>,
    /// True if there was nothing more in the log.
    pub(crate) caught_up: bool,
}

/// What all watches of a replica work with.
#[derive(Debug)]
pub(crate) struct Sources {
    storage: Arc<dyn Storage>,
    hub: Hub,
    clock: Arc<dyn Clock>,
    /// How long the log is kept.
    horizon: Duration,
    turns: Semaphore,
}

impl Sources {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        hub: Hub,
        clock: Arc<dyn Clock>,
        horizon: Duration,
    ) -> Self {
        Self { storage, hub, clock, horizon, turns: Semaphore::new(MAX_READERS) }
    }

    /// The storage, when it is this watch's turn to read; held until it has.
    async fn turn(&self) -> (&dyn Storage, Option<SemaphorePermit<'_>>) {
        // It is never closed.
        (self.storage.as_ref(), self.turns.acquire().await.ok())
    }

    fn outside(&self, selection: &Selection, range: &LogRange) -> Error {
        Error::OutsideLog {
            oldest: selection.cursor(&range.oldest),
            newest: selection.cursor(&range.newest),
            horizon: self.horizon(),
        }
    }

    /// What was received before may be gone.
    fn horizon(&self) -> Timestamp {
        self.clock.now().minus(self.horizon)
    }
}

/// A watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    sources: Arc<Sources>,
    selection: Arc<Selection>,
    filter: Filter,
    subscription: Subscription,
    states: Option<States>,
    /// Where it stands, after what was told.
    told: Positions,
    /// What is to be told next.
    pending: VecDeque<Arc<StoredEvent>>,
    /// Where it stands once that is told.
    read: Positions,
    at_head: bool,
    /// Whether that was told.
    told_caught_up: bool,
    next_progress: Instant,
}

impl Watcher {
    /// Begins a watch. Fails if it would begin outside the log.
    pub(crate) async fn open(sources: Arc<Sources>, request: Request) -> Result<Self> {
        let Request { selection, start, filter, with_state } = request;
        let selection = Arc::new(selection);
        let subscription = sources.hub.subscribe(&selection);
        let (storage, turn) = sources.turn().await;
        let range = storage.log_range().await?;
        let is_inside = |position: &Positions| {
            let is_inside = |partition| {
                let LogRange { oldest, newest } = &range;
                (oldest.get(partition)..=newest.get(partition)).contains(&position.get(partition))
            };
            selection.partitions().iter().copied().all(is_inside)
        };
        let start = match start {
            Start::After(positions) if is_inside(&positions) => positions,
            Start::At(time) if time >= sources.horizon() => {
                storage.log_since(selection.partitions(), time).await?
            }
            Start::After(_) | Start::At(_) => return Err(sources.outside(&selection, &range)),
            Start::Now => range.newest,
            Start::Oldest => range.oldest,
        };
        drop(turn);
        Ok(Self {
            states: with_state.then(|| States::new(Arc::clone(&selection), filter.clone())),
            sources,
            selection,
            filter,
            subscription,
            told: start.clone(),
            pending: VecDeque::new(),
            read: start,
            at_head: false,
            told_caught_up: false,
            next_progress: Instant::now(),
        })
    }

    /// The next update: at once if there is more to tell, else when there is news, at the latest when
    /// progress is due. The first one comes at once. Fails only if the log has been cut behind the
    /// watch or cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Update> {
        loop {
            match self.step().await {
                Ok(Some(update)) => {
                    self.next_progress = Instant::now() + PROGRESS_EVERY;
                    return Ok(update);
                }
                Ok(None) => {}
                Err(Error::Unavailable(error)) => {
                    tracing::debug!(%error, "watch waits for the database");
                    sleep(RETRY_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks once; waits if there is nothing.
    async fn step(&mut self) -> Result<Option<Update>> {
        if let Some(states) = &mut self.states {
            let (storage, turn) = self.sources.turn().await;
            let next = states.next(storage).await?;
            drop(turn);
            if let Some(states) = next {
                return Ok(Some(self.update(vec![], states)));
            }
            self.states = None;
        }
        let mut is_new = false;
        if self.pending.is_empty() {
            is_new = self.read().await?;
        }
        if !self.pending.is_empty() {
            let events = self.take_pending();
            return Ok(Some(self.update(events, vec![])));
        }
        self.told = self.read.clone();
        if Instant::now() >= self.next_progress || (self.at_head && !self.told_caught_up) {
            return Ok(Some(self.update(vec![], vec![])));
        }
        if self.at_head && !is_new {
            // Whether it is woken or due for progress, it looks again.
            drop(timeout_at(self.next_progress, self.subscription.news()).await);
        }
        Ok(None)
    }

    /// Takes what came, or else a piece of the log. Answers whether it has moved.
    async fn read(&mut self) -> Result<bool> {
        let before = self.read.clone();
        if let Some(events) = self.subscription.take(&mut self.read) {
            self.at_head = true;
            self.show(events);
            return Ok(self.read != before);
        }
        let partitions = self.selection.partitions();
        let query = LogQuery {
            partitions,
            devices: self.selection.devices(),
            after: &self.read,
            limit: (MAX_EVENTS / partitions.len().max(1)).max(1),
        };
        let (storage, turn) = self.sources.turn().await;
        let Some(page) = storage.log_after(&query).await? else {
            let range = storage.log_range().await?;
            return Err(self.sources.outside(&self.selection, &range));
        };
        drop(turn);
        (self.read, self.at_head) = (page.upto, page.at_head);
        self.show(page.events.into_iter().map(Arc::new));
        Ok(self.read != before)
    }

    fn show(&mut self, events: impl IntoIterator<Item = Arc<StoredEvent>>) {
        let own = events.into_iter().filter(|event| self.selection.contains(&event.device));
        self.pending.extend(own.filter_map(|event| self.filter.apply(event)));
    }

    /// The next events that fit into an update.
    fn take_pending(&mut self) -> Vec<Arc<StoredEvent>> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        while let Some(event) = self.pending.pop_front_if(|event| {
            bytes += weight(event);
            events.is_empty() || (events.len() < MAX_EVENTS && bytes <= MAX_BYTES)
        }) {
            self.told.advance(event.cursor.partition, event.cursor.position);
            events.push(event);
        }
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
            self.told = self.read.clone();
        }
        events
    }

    fn update(&mut self, events: Vec<Arc<StoredEvent>>, states: Vec<DeviceState>) -> Update {
        let caught_up = self.at_head && self.pending.is_empty() && self.states.is_none();
        self.told_caught_up = caught_up;
        if let Some(newest) = events.last().filter(|_| caught_up) {
            let lag_us = self.sources.clock.now().micros().saturating_sub(newest.received.micros());
            let lag = Duration::from_micros(u64::try_from(lag_us).unwrap_or(0));
            self.sources.hub.lag().observe(lag.as_secs_f64());
        }
        Update { cursor: self.selection.cursor(&self.told), events, states, caught_up }
    }
}

#[cfg(test)]
mod tests;
