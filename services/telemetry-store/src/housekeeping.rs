//! What a store does besides serving: health that follows the database, retention, coalesced
//! writes of per-device state, and with them the devices' presence.

use std::{sync::Arc, time::Duration};

use service_kit::health::Health;
use telemetry_model::Clock;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{batcher::FailedAt, error::Result, storage::Storage};

const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a failure to store counts, unless storing succeeds before. After that a client is let
/// in to try, or nobody would find out.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// How often notes are written and presence is judged, at least and at most: in a quarter of
/// `OFFLINE_AFTER`.
const FLUSH_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const PRUNE_EVERY: Duration = Duration::from_mins(10);

/// The periodic work of a store.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) health: Health,
    pub(crate) clock: Arc<dyn Clock>,
    /// When storing last failed.
    pub(crate) failed_at: FailedAt,
    /// After how much silence a device is offline.
    pub(crate) offline_after: Duration,
}

impl Housekeeping {
    /// Works until told to stop.
    pub(crate) async fn run(self, stopping: CancellationToken) -> Result<()> {
        let work = async { tokio::join!(self.watch_health(), self.flush(), self.prune()) };
        stopping.run_until_cancelled(work).await;
        Ok(())
    }

    async fn watch_health(&self) {
        let mut serving = false;
        let mut tick = interval(PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let answers = matches!(timeout(PING_TIMEOUT, self.storage.ping()).await, Ok(Ok(())));
            let failed = self.failed_at.borrow().is_some_and(|at| at.elapsed() < FAILED_FOR);
            if (answers && !failed) != serving {
                serving = answers && !failed;
                self.health.set(serving).await;
                match (answers, failed) {
                    (true, false) => tracing::info!("database answers, serving"),
                    (true, true) => tracing::warn!("database does not store, not serving"),
                    (false, _) => tracing::warn!("database does not answer, not serving"),
                }
            }
        }
    }

    async fn flush(&self) {
        let every = (self.offline_after / 4).clamp(FLUSH_EVERY.0, FLUSH_EVERY.1);
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.storage.flush_devices(self.clock.now()).await {
                tracing::warn!(%error, "could not write when devices were last seen; trying again");
            }
            if let Err(error) = self.storage.judge(self.clock.now()).await {
                tracing::warn!(%error, "could not judge which devices are there; trying again");
            }
        }
    }

    async fn prune(&self) {
        let mut tick = interval(PRUNE_EVERY);
        loop {
            tick.tick().await;
            if let Err(error) = self.storage.prune(self.clock.now()).await {
                tracing::warn!(%error, "could not delete what is past its retention; trying again");
            }
        }
    }
}
