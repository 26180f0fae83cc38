//! Ingest: requests of a stream go to the batcher, acknowledgements come back in order.

use std::sync::Arc;

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesOrdered},
};
use service_kit::lifecycle::Lifecycle;
use telemetry_model::Invalid;
use telemetry_proto::v1::{
    IngestRequest, IngestResponse, Rejection, ingest_service_server::IngestService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    batcher::{Batcher, Outcome},
    error::{Error, Result},
};

/// The most events in one request.
const MAX_EVENTS: usize = 10_000;
/// Requests of one stream that may wait for their commit; then the stream is not read further.
const MAX_PENDING: usize = 16;
/// Responses a slow client may leave unread; then its requests are not read further.
const RESPONSES: usize = 16;

/// The Ingest service.
#[derive(Debug)]
pub(super) struct Ingest {
    batcher: Batcher,
    lifecycle: Lifecycle,
}

impl Ingest {
    pub(super) fn new(batcher: Batcher, lifecycle: Lifecycle) -> Self {
        Self { batcher, lifecycle }
    }
}

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestStream = BoxStream<'static, Result<IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let (responses, stream) = mpsc::channel(RESPONSES);
        let session = Session {
            batcher: self.batcher.clone(),
            lifecycle: self.lifecycle.clone(),
            last_sequence: 0,
            pending: FuturesOrdered::new(),
            responses,
        };
        self.lifecycle.spawn("ingest stream", async move {
            session.run(request.into_inner()).await;
            Ok::<_, Error>(())
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

/// One Ingest stream.
struct Session {
    batcher: Batcher,
    lifecycle: Lifecycle,
    last_sequence: u64,
    /// Requests whose events are with the batcher, oldest first.
    pending: FuturesOrdered<BoxFuture<'static, Settled>>,
    responses: mpsc::Sender<Result<IngestResponse, Status>>,
}

/// A request that the batcher has answered.
struct Settled {
    last_sequence: u64,
    rejections: Vec<Rejection>,
    outcome: Outcome,
}

impl Session {
    /// Reads until the client or the server stops, then settles what is pending.
    async fn run(mut self, requests: Streaming<IngestRequest>) {
        let result = match self.respond(IngestResponse::default()).await {
            Ok(()) => self.serve(requests).await,
            gone => gone,
        };
        let settled = self.acknowledge_pending().await;
        if let Err(error) = result.and(settled) {
            drop(self.responses.send(Err(Status::from(error.as_ref()))).await);
        }
    }

    async fn serve(&mut self, mut requests: Streaming<IngestRequest>) -> Result<(), Arc<Error>> {
        let lifecycle = self.lifecycle.clone();
        loop {
            tokio::select! {
                biased;
                Some(settled) = self.pending.next() => self.acknowledge(settled).await?,
                request = requests.message(), if self.pending.len() < MAX_PENDING => match request {
                    Ok(Some(request)) => self.accept(request).await?,
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        tracing::debug!(%status, "ingest stream broke");
                        return Ok(());
                    }
                },
                () = lifecycle.stopping() => return Err(Arc::new(Error::Stopping)),
            }
        }
    }

    /// Checks a request and hands its good events to the batcher.
    async fn accept(&mut self, request: IngestRequest) -> Result<(), Arc<Error>> {
        let first = self.last_sequence + 1;
        if request.first_sequence != first {
            let reason = format!("must be {first}, is {}", request.first_sequence);
            return Err(Arc::new(Invalid::new("first_sequence", reason).into()));
        }
        if request.events.len() > MAX_EVENTS {
            let reason = format!("must be at most {MAX_EVENTS}, are {}", request.events.len());
            return Err(Arc::new(Invalid::new("events", reason).into()));
        }
        let mut events = Vec::with_capacity(request.events.len());
        let mut rejections = Vec::new();
        for wire in request.events {
            self.last_sequence += 1;
            match telemetry_proto::event(wire) {
                Ok(event) => events.push(event),
                Err(Invalid { field, reason }) => {
                    rejections.push(Rejection { sequence: self.last_sequence, field, reason });
                }
            }
        }
        let outcome = self.batcher.submit(events, request.flush).await.map_err(Arc::new)?;
        let last_sequence = self.last_sequence;
        let settled = outcome.map(move |outcome| {
            // A batcher that went away without an answer committed nothing that we know of.
            let outcome = outcome.unwrap_or_else(|_| Err(Arc::new(Error::Stopping)));
            Settled { last_sequence, rejections, outcome }
        });
        self.pending.push_back(settled.boxed());
        Ok(())
    }

    async fn acknowledge(&mut self, settled: Settled) -> Result<(), Arc<Error>> {
        let appended = match settled.outcome {
            Ok(appended) => appended,
            Err(error) => {
                // To acknowledge what comes later, even if it is committed, would cover this too.
                self.pending = FuturesOrdered::new();
                return Err(error);
            }
        };
        self.respond(IngestResponse {
            acked_through: settled.last_sequence,
            stored: appended.stored.into(),
            duplicates: appended.duplicates.into(),
            conflicts: appended.conflicts.into(),
            rejections: settled.rejections,
        })
        .await
    }

    async fn acknowledge_pending(&mut self) -> Result<(), Arc<Error>> {
        while let Some(settled) = self.pending.next().await {
            self.acknowledge(settled).await?;
        }
        Ok(())
    }

    /// A client that has gone away ends the stream without further ado.
    async fn respond(&mut self, response: IngestResponse) -> Result<(), Arc<Error>> {
        self.responses.send(Ok(response)).await.map_err(|_| Arc::new(Error::Stopping))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::ready;

    use super::*;
    use crate::storage::{Appended, fake::FakeStorage};

    #[tokio::test]
    async fn a_failed_batch_is_not_acknowledged_by_those_after_it() {
        let settled =
            |last_sequence, outcome| Settled { last_sequence, rejections: vec![], outcome };
        let (responses, mut sent) = mpsc::channel(RESPONSES);
        let (batcher, _) = Batcher::new(Arc::new(FakeStorage::new(0)));
        let mut session = Session {
            batcher,
            lifecycle: Lifecycle::new(),
            last_sequence: 2,
            pending: FuturesOrdered::new(),
            responses,
        };
        session.pending.push_back(ready(settled(2, Ok(Appended::default()))).boxed());
        let failed = settled(1, Err(Arc::new(Error::Unavailable("gone".into()))));
        assert!(session.acknowledge(failed).await.is_err());
        assert!(session.acknowledge_pending().await.is_ok());
        assert!(sent.try_recv().is_err(), "2 was acknowledged, and 1 with it");
    }
}
