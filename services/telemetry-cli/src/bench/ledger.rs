//! What the store says it has settled. Nobody else may publish meanwhile: the ledger counts everyone's.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::bail;
use telemetry_proto::v1::{GetLedgerRequest, Ledger};
use tokio::time::{Instant, sleep};

use super::publish::Progress;
use crate::store::Store;

/// How often to ask.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long nothing may happen before we give up.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) async fn read(store: &Store) -> anyhow::Result<Ledger> {
    let answer = store.diagnostics().get_ledger(GetLedgerRequest {}).await;
    let ledger = answer.map_err(|status| store.explain(&status))?.into_inner();
    Ok(ledger.total.unwrap_or_default())
}

/// Messages that need no more work.
pub(super) fn settled(ledger: &Ledger) -> u64 {
    ledger.stored + ledger.duplicate + ledger.quarantined
}

/// Tells `progress` what has been settled since `before`, until it is dropped.
pub(super) async fn follow(
    store: &Store,
    before: &Ledger,
    progress: &Arc<Progress>,
) -> anyhow::Result<()> {
    loop {
        let settled = settled(&read(store).await?).saturating_sub(settled(before));
        progress.settled.store(settled, Ordering::Relaxed);
        sleep(INTERVAL).await;
    }
}

/// Waits until `count` says `all`. Gives up when it has said the same for a minute.
pub(super) async fn reaches(what: &str, all: u64, count: impl Fn() -> u64) -> anyhow::Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = count();
        if now >= all {
            return Ok(());
        }
        if now > last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            bail!("only {now} of {all} messages were {what}, and no more for a minute");
        }
        sleep(Duration::from_millis(5)).await;
    }
}
