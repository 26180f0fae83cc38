//! Between the Ingest streams and storage: many submissions in, one transaction, an answer to each.
//!
//! A batch is written when it is large enough, when its first submission has waited long enough,
//! when a submission asks for it, or when the batcher is closed. While one batch is being written
//! the next one gathers, so that under load batches grow by themselves.

use std::{sync::Arc, time::Duration};

use telemetry_model::Event;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    error::{Error, Result},
    storage::{Appended, Storage},
};

/// A batch of this many events is written at once.
const MAX_EVENTS: usize = 4000;
/// How long the first submission of a batch waits for others.
const MAX_DELAY: Duration = Duration::from_millis(5);
/// Submissions waiting while a batch is written; when they are as many, submitters wait.
const QUEUE: usize = 64;

/// The way into the batcher. When all clones are dropped it writes what it has and ends.
#[derive(Clone, Debug)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<Submission>,
}

/// What became of a submission; the error is shared by all that were in the batch.
pub(crate) type Outcome = Result<Appended, Arc<Error>>;

#[derive(Debug)]
struct Submission {
    events: Vec<Event>,
    flush: bool,
    answer: oneshot::Sender<Outcome>,
}

impl Batcher {
    /// A batcher, and the work it does, to be run as a task.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
    ) -> (Self, impl Future<Output = Result<()>> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { queue: sender }, run(receiver, storage))
    }

    /// Submits events, waiting while the queue is full. The receiver gets the outcome once they
    /// are committed, or an error if they will not be.
    pub(crate) async fn submit(
        &self,
        events: Vec<Event>,
        flush: bool,
    ) -> Result<oneshot::Receiver<Outcome>> {
        let (answer, outcome) = oneshot::channel();
        let submission = Submission { events, flush, answer };
        self.queue.send(submission).await.map_err(|_| Error::Stopping)?;
        Ok(outcome)
    }
}

async fn run(mut queue: mpsc::Receiver<Submission>, storage: Arc<dyn Storage>) -> Result<()> {
    while let Some(first) = queue.recv().await {
        let batch = Batch::gather(first, &mut queue).await;
        let result = storage.append(&batch.events).await;
        batch.answer(result);
    }
    Ok(())
}

/// The events of several submissions, and who waits for how many of them.
struct Batch {
    events: Vec<Event>,
    waiting: Vec<(usize, oneshot::Sender<Outcome>)>,
    flush: bool,
}

impl Batch {
    async fn gather(first: Submission, queue: &mut mpsc::Receiver<Submission>) -> Self {
        let deadline = Instant::now() + MAX_DELAY;
        let mut batch = Self { events: Vec::new(), waiting: Vec::new(), flush: false };
        batch.add(first);
        while batch.events.len() < MAX_EVENTS {
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

    fn add(&mut self, submission: Submission) {
        self.waiting.push((submission.events.len(), submission.answer));
        self.events.extend(submission.events);
        self.flush |= submission.flush;
    }

    /// Tells everyone. One who has gone away needs no answer.
    fn answer(self, result: Result<Vec<Appended>>) {
        let result = result.map_err(Arc::new);
        let mut appended = result.as_deref().unwrap_or_default();
        for (count, answer) in self.waiting {
            let (own, rest) = appended.split_at(count.min(appended.len()));
            appended = rest;
            let outcome = match &result {
                Ok(_) => Ok(own.iter().copied().sum()),
                Err(error) => Err(Arc::clone(error)),
            };
            drop(answer.send(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
