//! Data life on TimescaleDB, by one replica at a time: the same on each edition, and not by jobs of
//! the database's own. Readings are rolled up before they are dropped.

use sqlx::PgPool;
use telemetry_model::Timestamp;

use super::{
    answered,
    community::{self, Edition},
    lease::Lease,
    ledger,
    micros::Micros,
    prune::prune,
    rollups,
};
use crate::{error::Result, storage::Policy};

/// Does what is due; nothing if another replica is at it. What fails does not keep back the rest,
/// but for what depends on it.
pub(super) async fn run(
    pool: &PgPool,
    instance: &str,
    now: Timestamp,
    policy: Policy,
) -> Result<()> {
    let Some(lease) = Lease::take(pool, "housekeeping", instance).await? else { return Ok(()) };
    let log = prune(pool, &lease, "device_log", now.minus(policy.log)).await;
    let readings = readings(pool, &lease, now, policy).await;
    let quarantine = answered(quarantine(pool, now.minus(policy.quarantine))).await;
    lease.give_back().await?;
    log.and(readings).and(quarantine)
}

async fn readings(pool: &PgPool, lease: &Lease<'_>, now: Timestamp, policy: Policy) -> Result<()> {
    let is_community = answered(community::edition(pool)).await? == Edition::Community;
    if is_community {
        rollups::refresh(pool, lease, now, now.minus(policy.readings)).await?;
        rollups::drop_before(pool, lease, now.minus(policy.rollups)).await?;
    }
    prune(pool, lease, "readings", now.minus(policy.readings)).await?;
    if is_community {
        community::compress(pool, lease, now.minus(policy.compress_after)).await?;
    }
    Ok(())
}

async fn quarantine(pool: &PgPool, before: Timestamp) -> Result<()> {
    let delete = sqlx::query("DELETE FROM quarantine WHERE received < $1");
    let messages = delete.bind(Micros(before.micros())).execute(pool).await?.rows_affected();
    if messages > 0 {
        tracing::info!(messages, "deleted from the quarantine what is past its retention");
    }
    ledger::fold(pool, before).await
}
