//! Reads what the log grows by, once for all watchers of this replica, and hands it to those whom
//! it concerns.
//!
//! Storage hints at commits; the hub reads the log on from where it stands, in the partitions that
//! are watched, and puts each event into the mailboxes of its watchers. A hint may be lost: so it
//! looks by itself now and then. Whoever comes reads the log up to where the hub stood then. A
//! mailbox that is full is emptied, and its watcher reads the log until it has caught up again:
//! nothing waits for a slow one.

mod mailbox;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use service_kit::metrics::Histogram;
use telemetry_model::{DeviceId, Partition, Positions, StoredEvent};
use tokio::{
    sync::{
        Notify,
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
    },
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::mailbox::Mailbox;
use crate::{
    error::Result,
    storage::{Commit, LogQuery, Storage},
    watcher::Selection,
};

/// How often the log is looked at without a hint: longer than it takes to hear of a commit, and not
/// longer than anyone should wait for an event whose hint was lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long to wait before asking a database again that did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The most events that are read at a time: at least what one commit has.
const MAX_EVENTS: usize = 8000;

/// Bounds of the lag.
const LAG_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// The switchboard of a replica. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    watchers: Arc<Mutex<Watchers>>,
    lag: Arc<Histogram>,
    /// Somebody watches what nobody did before.
    has_come: Arc<Notify>,
}

impl Default for Hub {
    fn default() -> Self {
        let lag = Arc::new(Histogram::new(LAG_SECONDS));
        Self { watchers: Arc::default(), lag, has_come: Arc::default() }
    }
}

impl Hub {
    /// How many watch.
    pub(crate) fn watchers(&self) -> usize {
        self.lock().mailboxes.len()
    }

    /// How old events are when they are delivered.
    pub(crate) fn lag(&self) -> &Histogram {
        &self.lag
    }

    /// Registers interest in some devices, from now on.
    pub(crate) fn subscribe(&self, selection: &Arc<Selection>) -> Subscription {
        let wake = Arc::<Notify>::default();
        let number = self.lock().add(selection, Arc::clone(&wake));
        self.has_come.notify_one();
        Subscription { hub: self.clone(), number, wake }
    }

    /// Follows the log, until told to stop.
    pub(crate) async fn run(
        self,
        storage: Arc<dyn Storage>,
        commits: broadcast::Receiver<Commit>,
        stopping: CancellationToken,
    ) -> Result<()> {
        stopping.run_until_cancelled(self.follow(storage.as_ref(), commits)).await;
        Ok(())
    }

    async fn follow(&self, storage: &dyn Storage, mut commits: broadcast::Receiver<Commit>) {
        let mut look_at = Instant::now();
        loop {
            tokio::select! {
                commit = commits.recv() => match commit {
                    Ok(commit) if !self.lock().are_concerned(&commit) => continue,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                () = self.has_come.notified() => {}
                () = sleep_until(look_at) => {}
            }
            // What was hinted at until now is read now.
            while matches!(commits.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
            while let Err(error) = self.catch_up(storage).await {
                tracing::debug!(%error, "watches wait for the database");
                sleep(RETRY_AFTER).await;
            }
            look_at = Instant::now() + LOOK_EVERY;
        }
    }

    /// Reads all that is new in what is watched.
    async fn catch_up(&self, storage: &dyn Storage) -> Result<()> {
        loop {
            if self.lock().has_unread() {
                let newest = storage.log_range().await?.newest;
                self.lock().begin(&newest);
            }
            let (partitions, after) = self.lock().stands();
            if partitions.is_empty() {
                return Ok(());
            }
            let limit = MAX_EVENTS / partitions.len();
            let query = LogQuery { partitions: &partitions, devices: None, after: &after, limit };
            let Some(page) = storage.log_after(&query).await? else {
                // The log is not what it was: let the watchers find out.
                self.lock().forget();
                continue;
            };
            self.lock().hand_out(page.events, &partitions, &page.upto);
            if page.at_head {
                return Ok(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watchers> {
        // At worst a panic elsewhere has left a mailbox short, which the next look would not mend;
        // but nothing in here panics.
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who watches what.
#[derive(Debug, Default)]
struct Watchers {
    next_number: u64,
    mailboxes: HashMap<u64, Mailbox>,
    /// Those who watch a device by its name.
    by_device: HashMap<DeviceId, Vec<u64>>,
    /// Those who watch all with some beginning.
    by_prefix: Vec<u64>,
    /// How many watch in each partition, and how far it is read; not at all if that is not known.
    partitions: BTreeMap<Partition, (usize, Option<i64>)>,
}

impl Watchers {
    fn add(&mut self, selection: &Arc<Selection>, wake: Arc<Notify>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        match selection.devices() {
            Some(devices) => {
                for device in devices {
                    self.by_device.entry(device.clone()).or_default().push(number);
                }
            }
            None => self.by_prefix.push(number),
        }
        let mut since = BTreeMap::new();
        for partition in selection.partitions() {
            let (watchers, upto) = self.partitions.entry(*partition).or_default();
            *watchers += 1;
            since.extend(upto.map(|upto| (*partition, upto)));
        }
        self.mailboxes.insert(number, Mailbox::new(Arc::clone(selection), since, wake));
        number
    }

    fn remove(&mut self, number: u64) {
        let Some(mailbox) = self.mailboxes.remove(&number) else { return };
        let selection = mailbox.selection();
        match selection.devices() {
            Some(devices) => {
                for device in devices {
                    if let Some(numbers) = self.by_device.get_mut(device) {
                        numbers.retain(|other| *other != number);
                        if numbers.is_empty() {
                            self.by_device.remove(device);
                        }
                    }
                }
            }
            None => self.by_prefix.retain(|other| *other != number),
        }
        for partition in selection.partitions() {
            if let Some((watchers, _)) = self.partitions.get_mut(partition) {
                *watchers = watchers.saturating_sub(1);
                if *watchers == 0 {
                    self.partitions.remove(partition);
                }
            }
        }
    }

    fn are_concerned(&self, commit: &Commit) -> bool {
        match commit {
            _ if !self.by_prefix.is_empty() => true,
            Commit::Devices(devices) => devices.iter().any(|id| self.by_device.contains_key(id)),
            Commit::Partitions(some) => some.iter().any(|p| self.partitions.contains_key(p)),
            Commit::Anything => !self.partitions.is_empty(),
        }
    }

    /// Whether something is watched of which it is not known how far it is read.
    fn has_unread(&self) -> bool {
        self.partitions.values().any(|(_, upto)| upto.is_none())
    }

    /// What is not read yet is read from here on.
    fn begin(&mut self, newest: &Positions) {
        for (partition, (_, upto)) in &mut self.partitions {
            if upto.is_none() {
                *upto = Some(newest.get(*partition));
                for mailbox in self.mailboxes.values_mut() {
                    mailbox.begin(*partition, newest.get(*partition));
                }
            }
        }
    }

    /// How far the partitions are read, of which it is known.
    fn stands(&self) -> (Vec<Partition>, Positions) {
        let known = self
            .partitions
            .iter()
            .filter_map(|(partition, (_, upto))| Some((*partition, (*upto)?)));
        (known.clone().map(|(partition, _)| partition).collect(), known.collect())
    }

    fn forget(&mut self) {
        for (_, upto) in self.partitions.values_mut() {
            *upto = None;
        }
        self.mailboxes.values_mut().for_each(Mailbox::forget);
    }

    /// Puts what was read after [`Watchers::stands`] where it belongs.
    fn hand_out(&mut self, events: Vec<StoredEvent>, read: &[Partition], upto: &Positions) {
        for event in events.into_iter().map(Arc::new) {
            let named = self.by_device.get(&event.device).into_iter().flatten();
            for number in named.chain(&self.by_prefix) {
                if let Some(mailbox) = self.mailboxes.get_mut(number) {
                    mailbox.put(&event);
                }
            }
        }
        for partition in read {
            // Unless nobody has watched it meanwhile, and whoever does now begins anew.
            if let Some((_, Some(own))) = self.partitions.get_mut(partition) {
                *own = upto.get(*partition);
            }
        }
    }
}

/// One watcher's interest, withdrawn when it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Hub,
    number: u64,
    wake: Arc<Notify>,
}

impl Subscription {
    /// What came after these positions, which are moved to where that ends. Nothing if that is not
    /// known here: then the log must be read, and this be asked again.
    pub(crate) fn take(&self, after: &mut Positions) -> Option<Vec<Arc<StoredEvent>>> {
        let Watchers { mailboxes, partitions, .. } = &mut *self.hub.lock();
        let upto = |partition| partitions.get(&partition).and_then(|(_, upto)| *upto);
        mailboxes.get_mut(&self.number)?.take(after, upto)
    }

    /// Waits until there may be something new since the previous call.
    pub(crate) async fn news(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests;
