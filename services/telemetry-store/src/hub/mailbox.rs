//! What came for one watcher since it last looked, as far as it fits.

use std::{collections::BTreeMap, mem, sync::Arc};

use telemetry_model::{Partition, Positions, StoredEvent};
use tokio::sync::Notify;

use crate::watcher::{Selection, weight};

/// What fits, in events and, about, in bytes.
const MAX_EVENTS: usize = 1000;
const MAX_BYTES: usize = 256 << 10;

/// Holds all that came after `since`, unless it is full.
#[derive(Debug)]
pub(super) struct Mailbox {
    selection: Arc<Selection>,
    /// From where on it collects, in each partition of the selection of which that is known.
    since: BTreeMap<Partition, i64>,
    events: Vec<Arc<StoredEvent>>,
    bytes: usize,
    is_full: bool,
    wake: Arc<Notify>,
}

impl Mailbox {
    pub(super) fn new(
        selection: Arc<Selection>,
        since: BTreeMap<Partition, i64>,
        wake: Arc<Notify>,
    ) -> Self {
        Self { selection, since, events: Vec::new(), bytes: 0, is_full: false, wake }
    }

    pub(super) fn selection(&self) -> Arc<Selection> {
        Arc::clone(&self.selection)
    }

    /// A partition is read from here on.
    pub(super) fn begin(&mut self, partition: Partition, position: i64) {
        if self.selection.partitions().contains(&partition) {
            self.since.insert(partition, position);
            self.wake.notify_one();
        }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.since.clear();
        self.empty();
        self.wake.notify_one();
    }

    /// Adds an event, if it is selected. One that does not fit empties it.
    pub(super) fn put(&mut self, event: &Arc<StoredEvent>) {
        if self.is_full || !self.selection.contains(&event.device) {
            return;
        }
        self.events.push(Arc::clone(event));
        self.bytes += weight(event);
        if self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            self.empty();
            self.is_full = true;
        }
        self.wake.notify_one();
    }

    /// What came after these positions; nothing if it may not be all. Then it begins anew where the
    /// partitions are read `upto`.
    pub(super) fn take(
        &mut self,
        after: &mut Positions,
        upto: impl Fn(Partition) -> Option<i64>,
    ) -> Option<Vec<Arc<StoredEvent>>> {
        let selection = Arc::clone(&self.selection);
        if mem::take(&mut self.is_full) {
            let known = selection.partitions().iter().filter_map(|p| Some((*p, upto(*p)?)));
            self.since = known.collect();
        }
        let is_behind = |partition| {
            self.since.get(partition).is_none_or(|since| after.get(*partition) < *since)
        };
        if selection.partitions().iter().any(is_behind) {
            return None;
        }
        let mut events = mem::take(&mut self.events);
        self.bytes = 0;
        events.retain(|event| event.cursor.position > after.get(event.cursor.partition));
        for partition in selection.partitions() {
            after.advance(*partition, upto(*partition).unwrap_or(0));
        }
        Some(events)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn empty(&mut self) {
        self.events = Vec::new();
        self.bytes = 0;
    }
}
