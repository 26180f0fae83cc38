//! Hears of other processes' commits by LISTEN, and passes them on as hints.

use std::time::Duration;

use sqlx::{
    Executor, PgPool,
    postgres::{PgListener, PgPoolOptions},
};
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
/// A connection on which nothing was heard for so long is asked whether it is still there: if the
/// other end is gone without a word, no notification will say so.
const PING_AFTER: Duration = Duration::from_secs(5);
/// How long it may take to answer, or to listen anew.
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
            match listen(&pool, &instance, &commits).await {
                Ok(()) => tracing::warn!("the connection for other replicas' commits is lost"),
                Err(error) => {
                    tracing::warn!(%error, "not listening for other replicas' commits; trying again");
                }
            }
            sleep(RETRY_AFTER).await;
        }
    };
    stopping.run_until_cancelled(Box::pin(listen_for_ever)).await;
    Ok(())
}

/// Listens on one connection until it breaks.
async fn listen(
    pool: &PgPool,
    instance: &str,
    commits: &broadcast::Sender<Commit>,
) -> sqlx::Result<()> {
    let mut listener = in_time(listener(pool)).await?;
    // Whatever was committed while nobody listened was not heard of. Nobody may be interested.
    commits.send(Commit::Anything).ok();
    loop {
        // A notification that has come in part is not lost: reading it goes on where it was.
        let heard = match timeout(PING_AFTER, listener.try_recv()).await {
            Ok(heard) => heard?,
            Err(_) => {
                in_time(async { listener.execute("SELECT 1 -- listening").await }).await?;
                continue;
            }
        };
        let Some(notification) = heard else { return Ok(()) };
        let Some((sender, partitions)) = notification.payload().split_once(' ') else { continue };
        if sender != instance {
            let partitions = partitions.split(',').filter_map(|number| number.parse().ok());
            let partitions = partitions.filter_map(Partition::new).collect();
            commits.send(Commit::Partitions(partitions)).ok();
        }
    }
}

/// On a connection of its own: one that is given up waits for a goodbye that may never come, and
/// would meanwhile take a place among those of others.
async fn listener(pool: &PgPool) -> sqlx::Result<PgListener> {
    let options = pool.connect_options().as_ref().clone();
    let own = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&own).await?;
    // A broken connection is ours to replace, for what is not heard meanwhile has to be looked for.
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

async fn in_time<T>(call: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(PATIENCE, call).await.map_err(|_| sqlx::Error::PoolTimedOut)?
}
