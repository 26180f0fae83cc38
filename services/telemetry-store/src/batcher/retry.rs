//! How a batch gets into a database that is away, or that refuses something in it.

use std::time::Duration;

use telemetry_model::{Message, Refusal, Submission, Tally};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    error::{Error, Result},
    metrics::Appends,
    storage::{Storage, refuse},
};

/// How long a database that is away is waited for, before the streams are told.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Appends a batch, and notes how that goes.
pub(super) async fn append(
    storage: &dyn Storage,
    batch: &[Submission],
    failing: &watch::Sender<Option<Instant>>,
    appends: &Appends,
) -> Result<Vec<Option<Tally>>> {
    let (began, mut wait) = (Instant::now(), FIRST_WAIT);
    loop {
        let error = match append_apart(storage, batch, appends).await {
            Ok(tallies) => {
                failing.send_if_modified(|failed_at| failed_at.take().is_some());
                return Ok(tallies);
            }
            Err(error) => error,
        };
        failing.send_replace(Some(Instant::now()));
        if !matches!(error, Error::Unavailable(_)) || began.elapsed() + wait > PATIENCE {
            return Err(error);
        }
        tracing::debug!(%error, wait_ms = wait.as_millis(), "storing again");
        sleep(wait).await;
        wait *= 2;
    }
}

/// Appends a batch; if something in it is refused, each half of it by itself. What a first half has
/// settled is recognised, should the second one fail and all of it come again.
async fn append_apart(
    storage: &dyn Storage,
    batch: &[Submission],
    appends: &Appends,
) -> Result<Vec<Option<Tally>>> {
    let messages: usize = batch.iter().map(|submission| submission.messages.len()).sum();
    let began = Instant::now();
    let cause = match storage.append(batch).await {
        Err(Error::Unstorable(cause)) => cause,
        Ok(tallies) => {
            if messages > 0 {
                appends.committed(began.elapsed());
            }
            return Ok(tallies);
        }
        Err(error) => return Err(error),
    };
    if messages < 2 {
        tracing::warn!(error = %cause, "the database refuses a message; it goes to the quarantine");
        return storage.append(&refused(batch, &cause.to_string())).await;
    }
    let (first, second) = halves(batch, messages / 2);
    let mut tallies = Box::pin(append_apart(storage, &first, appends)).await?;
    let more = Box::pin(append_apart(storage, &second, appends)).await?;
    for (tally, more) in tallies.iter_mut().zip(more) {
        *tally = tally.zip(more).map(|(tally, more)| [tally, more].into_iter().sum());
    }
    Ok(tallies)
}

/// The first `count` messages, and the others. Both halves have every submission.
fn halves(batch: &[Submission], count: usize) -> (Vec<Submission>, Vec<Submission>) {
    let mut left = count;
    let halve = |submission: &Submission| {
        let (mut first, mut second) = (submission.clone(), submission.clone());
        let here = left.min(submission.messages.len());
        left -= here;
        first.messages.truncate(here);
        second.messages.drain(..here);
        second.first_sequence += here as u64;
        (first, second)
    };
    batch.iter().map(halve).unzip()
}

/// The batch with its only event refused.
fn refused(batch: &[Submission], why: &str) -> Vec<Submission> {
    let refuse = |message: &Message| {
        let refusal = match (&message.refusal, &message.event) {
            // It is kept as it came, which is more than what was understood of it.
            (Some(refusal), _) => {
                let detail = format!("{}; the database refuses the rest: {why}", refusal.detail);
                Some(Refusal { detail, ..refusal.clone() })
            }
            (None, Some(event)) => Some(refuse(event, "refused_by_database", "", why.to_owned())),
            (None, None) => None,
        };
        Message { event: None, refusal, ..message.clone() }
    };
    let mut batch = batch.to_vec();
    for submission in &mut batch {
        submission.messages = submission.messages.iter().map(refuse).collect();
    }
    batch
}
