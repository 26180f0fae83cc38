//! From the command line to a store that serves, or a schema that is up to date: a server that still
//! starts is waited for, so that nobody has to be started in order.

use std::time::Duration;

use service_kit::lifecycle::Lifecycle;
use tokio::time::sleep;

use crate::{Command, Error, Server, Settings, storage};

/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Does what the command says until the lifecycle stops.
pub async fn run(command: Command, settings: Settings, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let stopping = lifecycle.token();
    let begin = async {
        match command {
            Command::Serve => {
                patiently(async || Server::bind(settings.clone()).await).await.map(Some)
            }
            Command::Migrate => {
                let url = settings.database.url()?;
                patiently(async || Ok(storage::migrate(&url).await?)).await.map(|()| None)
            }
        }
    };
    match stopping.run_until_cancelled(begin).await.transpose()?.flatten() {
        Some(server) => Box::pin(server.run(lifecycle)).await,
        None => Ok(()),
    }
}

/// Tries until the database can be reached. What else it lacks, somebody has to mend.
async fn patiently<T>(attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut wait = FIRST_WAIT;
    loop {
        match attempt().await {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Unavailable(_))) => {
                let retry_in_ms = wait.as_millis();
                tracing::warn!(%error, retry_in_ms, "waiting for the database");
            }
            result => return result,
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
