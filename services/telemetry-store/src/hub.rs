//! Wakes watchers when storage says that their device may have news.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use telemetry_model::DeviceId;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};
use tokio_util::sync::CancellationToken;

use crate::{error::Result, storage::Commit};

/// The switchboard of a replica: which devices are watched, and how to wake who watches them.
///
/// Waking is only ever a hint: a watcher that is woken reads the log, and finds what there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hub {
    watched: Arc<Mutex<HashMap<DeviceId, watch::Sender<()>>>>,
}

impl Hub {
    /// Registers interest in a device, from now on.
    pub(crate) fn subscribe(&self, device: &DeviceId) -> Subscription {
        let mut watched = self.watched();
        let sender = watched.entry(device.clone()).or_insert_with(|| watch::Sender::new(()));
        Subscription { hub: self.clone(), device: device.clone(), news: sender.subscribe() }
    }

    /// Passes on what storage commits, until told to stop.
    pub(crate) async fn run(
        self,
        mut commits: broadcast::Receiver<Commit>,
        stopping: CancellationToken,
    ) -> Result<()> {
        while let Some(commit) = stopping.run_until_cancelled(commits.recv()).await {
            match commit {
                Ok(commit) => self.wake(&commit),
                Err(RecvError::Lagged(_)) => self.wake(&Commit::Anything),
                Err(RecvError::Closed) => break,
            }
        }
        Ok(())
    }

    fn wake(&self, commit: &Commit) {
        let watched = self.watched();
        match commit {
            Commit::Devices(devices) => {
                for news in devices.iter().filter_map(|device| watched.get(device)) {
                    news.send_replace(());
                }
            }
            Commit::Partitions(partitions) => {
                for (device, news) in watched.iter() {
                    if partitions.contains(&device.partition()) {
                        news.send_replace(());
                    }
                }
            }
            Commit::Anything => {
                for news in watched.values() {
                    news.send_replace(());
                }
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<DeviceId, watch::Sender<()>>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watcher's interest in a device, withdrawn when it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Hub,
    device: DeviceId,
    news: watch::Receiver<()>,
}

impl Subscription {
    /// Waits until the device may have news that came after the previous call.
    pub(crate) async fn news(&mut self) {
        if self.news.changed().await.is_err() {
            // The sender lives in the hub as long as this subscription does.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watched = self.hub.watched();
        if watched.get(&self.device).is_some_and(|news| news.receiver_count() <= 1) {
            watched.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn device(id: &str) -> DeviceId {
        DeviceId::parse(id).unwrap()
    }

    #[tokio::test]
    async fn wakes_those_concerned_and_forgets_those_gone() {
        let hub = Hub::default();
        let (fern, moss) = (device("fern-1"), device("moss-1"));
        let mut at_fern = hub.subscribe(&fern);
        let mut at_moss = hub.subscribe(&moss);
        hub.wake(&Commit::Devices([fern.clone()].into()));
        assert!(at_fern.news().now_or_never().is_some());
        assert!(at_moss.news().now_or_never().is_none());
        hub.wake(&Commit::Partitions([moss.partition()].into()));
        assert!(at_moss.news().now_or_never().is_some());
        hub.wake(&Commit::Anything);
        assert!(at_fern.news().now_or_never().is_some());
        let second = hub.subscribe(&fern);
        drop(at_fern);
        assert_eq!(hub.watched().len(), 2);
        drop((second, at_moss));
        assert!(hub.watched().is_empty());
    }
}
