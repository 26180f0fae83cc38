//! Between the Ingest streams and storage: many submissions in, one transaction, an answer to each.
//!
//! A batch is written when it is large enough, when its first submission has waited long enough,
//! when a submission asks for it, or when the batcher is closed. While one batch is being written
//! the next one gathers, so that under load batches grow by themselves.
//!
//! A database that is away for a moment is waited for; the streams only notice if it stays away.
//! If it refuses a batch for what is in it, the batch is halved until the message at fault stands
//! alone, and that one goes to the quarantine: it costs nobody else's data.

mod retry;
mod spans;

use std::{sync::Arc, time::Duration};

use telemetry_model::{Submission, Tally};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use self::spans::Spans;
use crate::{
    error::{Error, Result},
    metrics::Appends,
    storage::Storage,
};

/// A batch of this many messages is written at once.
const MAX_MESSAGES: usize = 4000;
/// How long the first submission of a batch waits for others.
const MAX_DELAY: Duration = Duration::from_millis(5);
/// Submissions waiting while a batch is written; when they are as many, submitters wait.
const QUEUE: usize = 64;

/// The way into the batcher. When all clones are dropped it writes what it has and ends.
#[derive(Clone, Debug)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    appends: Arc<Appends>,
}

/// What became of a submission; the error is shared by all that were in the batch.
pub(crate) type Outcome = Result<Tally, Arc<Error>>;

/// When storing last failed, unless it has succeeded since.
pub(crate) type FailedAt = watch::Receiver<Option<Instant>>;

#[derive(Debug)]
struct Waiting {
    submission: Submission,
    flush: bool,
    answer: oneshot::Sender<Outcome>,
}

impl Batcher {
    /// A batcher, the work it does, to be run as a task, and how that goes.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
    ) -> (Self, impl Future<Output = Result<()>> + Send, FailedAt) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let failing = watch::Sender::default();
        let failed_at = failing.subscribe();
        let appends = Arc::<Appends>::default();
        let work = run(receiver, storage, failing, Arc::clone(&appends));
        (Self { queue: sender, appends }, work, failed_at)
    }

    /// How large batches are, and how long they take.
    pub(crate) fn appends(&self) -> &Arc<Appends> {
        &self.appends
    }

    /// Submits messages, waiting while the queue is full. The receiver gets the outcome once they
    /// are committed, or an error if they will not be.
    pub(crate) async fn submit(
        &self,
        submission: Submission,
        flush: bool,
    ) -> Result<oneshot::Receiver<Outcome>> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting { submission, flush, answer };
        self.queue.send(waiting).await.map_err(|_| Error::Stopping)?;
        Ok(outcome)
    }
}

async fn run(
    mut queue: mpsc::Receiver<Waiting>,
    storage: Arc<dyn Storage>,
    failing: watch::Sender<Option<Instant>>,
    appends: Arc<Appends>,
) -> Result<()> {
    while let Some(first) = queue.recv().await {
        let mut batch = Batch::gather(first, &mut queue).await;
        if batch.submissions.is_empty() {
            continue;
        }
        let began = Instant::now();
        let spans = Spans::begin(&mut batch.submissions, batch.messages);
        let append = retry::append(storage.as_ref(), &batch.submissions, &failing, &appends);
        let result = spans.around(append).await;
        appends.record(batch.messages, began.elapsed());
        batch.answer(result);
    }
    Ok(())
}

/// Several submissions, and who waits for them.
struct Batch {
    submissions: Vec<Submission>,
    answers: Vec<oneshot::Sender<Outcome>>,
    messages: usize,
    flush: bool,
}

impl Batch {
    async fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>) -> Self {
        let deadline = Instant::now() + MAX_DELAY;
        let mut batch =
            Self { submissions: Vec::new(), answers: Vec::new(), messages: 0, flush: false };
        batch.add(first);
        while batch.messages < MAX_MESSAGES {
            // What is in the queue already is taken even when the batch is due.
            let next = match queue.try_recv() {
                Ok(next) => next,
                Err(_) if batch.flush => break,
                Err(_) => match timeout_at(deadline, queue.recv()).await {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            batch.add(next);
        }
        batch
    }

    fn add(&mut self, waiting: Waiting) {
        let Waiting { submission, flush, answer } = waiting;
        if answer.is_closed() {
            // Its stream has ended with an error: the sender will come with it again.
            return;
        }
        self.messages += submission.messages.len();
        self.submissions.push(submission);
        self.answers.push(answer);
        self.flush |= flush;
    }

    /// Tells everyone. One who has gone away needs no answer.
    fn answer(self, result: Result<Vec<Option<Tally>>>) {
        let result = result.map_err(Arc::new);
        for (n, answer) in self.answers.into_iter().enumerate() {
            let outcome = match &result {
                Ok(tallies) => {
                    tallies.get(n).copied().flatten().ok_or_else(|| Arc::new(Error::Overtaken))
                }
                Err(error) => Err(Arc::clone(error)),
            };
            drop(answer.send(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
