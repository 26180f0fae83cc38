//! What a store does besides serving: health that follows the database, retention, coalesced
//! writes of per-device state.

use std::{sync::Arc, time::Duration};

use service_kit::health::Health;
use telemetry_model::Clock;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{error::Result, storage::Storage};

const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_EVERY: Duration = Duration::from_secs(5);
const PRUNE_EVERY: Duration = Duration::from_mins(10);

/// The periodic work of a store.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) health: Health,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) retention: Duration,
    pub(crate) watch_horizon: Duration,
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
            if answers != serving {
                serving = answers;
                self.health.set(serving).await;
                if serving {
                    tracing::info!("database answers, serving");
                } else {
                    tracing::warn!("database does not answer, not serving");
                }
            }
        }
    }

    async fn flush(&self) {
        let mut tick = interval(FLUSH_EVERY);
        loop {
            tick.tick().await;
            if let Err(error) = self.storage.flush_devices().await {
                tracing::warn!(%error, "could not write when devices were last seen; trying again");
            }
        }
    }

    async fn prune(&self) {
        let mut tick = interval(PRUNE_EVERY);
        loop {
            tick.tick().await;
            let now = self.clock.now();
            let (readings, log) = (now.minus(self.retention), now.minus(self.watch_horizon));
            if let Err(error) = self.storage.prune(readings, log).await {
                tracing::warn!(%error, "could not delete what is past its retention; trying again");
            }
        }
    }
}
