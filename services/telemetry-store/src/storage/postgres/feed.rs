//! Hears of other processes' commits by LISTEN, and passes them on as hints.

use std::time::Duration;

use sqlx::{Executor, PgPool, postgres::PgListener};
use telemetry_model::Partition;
use tokio::{
    sync::broadcast,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::tx::CHANNEL;
use crate::{error::Result, storage::Commit};

/// How long to wait before listening again after the connection broke.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long it may be silent before it is asked whether it is still there, and how long that may take.
const SILENT: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens until told to stop, whatever happens to the connection.
pub(super) async fn run(
    pool: PgPool,
    instance: String,
    commits: broadcast::Sender<Commit>,
    stopping: CancellationToken,
) -> Result<()> {
    let listen_for_ever = async {
        loop {
            if let Err(error) = listen(&pool, &instance, &commits).await {
                tracing::warn!(%error, "not listening for other replicas' commits; trying again");
            }
            sleep(RETRY_AFTER).await;
        }
    };
    stopping.run_until_cancelled(listen_for_ever).await;
    Ok(())
}

/// Listens on one connection until it breaks.
async fn listen(
    pool: &PgPool,
    instance: &str,
    commits: &broadcast::Sender<Commit>,
) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    // Whatever was committed while nobody listened was not heard of. Nobody may be interested.
    commits.send(Commit::Anything).ok();
    loop {
        let Ok(notification) = timeout(SILENT, listener.try_recv()).await else {
            let answers = timeout(PATIENCE, listener.execute("SELECT 1")).await;
            answers.map_err(|_| sqlx::Error::PoolTimedOut)??;
            continue;
        };
        let Some(notification) = notification? else { return Ok(()) };
        let Some((sender, partitions)) = notification.payload().split_once(' ') else { continue };
        if sender != instance {
            let partitions = partitions.split(',').filter_map(|number| number.parse().ok());
            let partitions = partitions.filter_map(Partition::new).collect();
            commits.send(Commit::Partitions(partitions)).ok();
        }
    }
}
