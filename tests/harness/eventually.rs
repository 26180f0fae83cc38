//! Waiting for a condition, with a deadline instead of a sleep.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// How long a condition may take to come true on a slow machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Tries until `attempt` succeeds, and answers what it answered; its last error at the deadline.
pub async fn eventually<T, F>(what: &str, attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    eventually_within(DEADLINE, what, attempt).await
}

/// The same for what takes its time.
pub async fn eventually_within<T, F>(
    within: Duration,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("not so after {within:?}: {what}")));
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
