//! Ingest: requests of a stream go to the batcher, acknowledgements come back in order.
//!
//! An event that is not valid is taken for what it is, bytes that somebody has to look at: it goes to
//! the quarantine in its turn.

use std::sync::Arc;

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesOrdered},
};
use prost::Message as _;
use telemetry_model::{
    Clock, DeviceId, Invalid, Message, ProcessId, Refusal, Submission, Timestamp,
};
use telemetry_proto::v1::{
    IngestEvent, IngestRequest, IngestResponse, Rejection, ingest_service_server::IngestService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{access::Devices, stream_end::StreamEnd};
use crate::{
    batcher::{Batcher, Outcome},
    error::{Error, Result},
    storage::Storage,
};

/// The most events in one request.
const MAX_EVENTS: usize = 10_000;
/// Where a stream may begin: far below what a database can count to, and more than anyone sends.
const MAX_SEQUENCE: u64 = 1 << 60;
/// Requests of one stream that may wait for their commit; then the stream is not read further.
const MAX_PENDING: usize = 16;
/// Responses a slow client may leave unread; then its requests are not read further.
const RESPONSES: usize = 16;

/// The Ingest service.
#[derive(Debug)]
pub(super) struct Ingest {
    storage: Arc<dyn Storage>,
    batcher: Batcher,
    clock: Arc<dyn Clock>,
    end: StreamEnd,
}

impl Ingest {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        batcher: Batcher,
        clock: Arc<dyn Clock>,
        end: StreamEnd,
    ) -> Self {
        Self { storage, batcher, clock, end }
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
            storage: Arc::clone(&self.storage),
            batcher: self.batcher.clone(),
            clock: Arc::clone(&self.clock),
            end: self.end.of_new_stream(),
            devices: Devices::of(&request),
            sender: None,
            last_sequence: 0,
            pending: FuturesOrdered::new(),
            responses,
        };
        self.end.lifecycle().spawn("ingest stream", async move {
            session.run(request.into_inner()).await;
            Ok::<_, Error>(())
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

/// One Ingest stream.
struct Session {
    storage: Arc<dyn Storage>,
    batcher: Batcher,
    clock: Arc<dyn Clock>,
    end: StreamEnd,
    /// Those that the sender may send events of.
    devices: Devices,
    sender: Option<ProcessId>,
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
        let result = self.serve(requests).await;
        let settled = self.acknowledge_pending().await;
        if let Err(error) = result.and(settled) {
            drop(self.responses.send(Err(Status::from(error.as_ref()))).await);
        }
    }

    async fn serve(&mut self, mut requests: Streaming<IngestRequest>) -> Result<(), Arc<Error>> {
        let end = self.end.clone();
        let mut is_first = true;
        loop {
            tokio::select! {
                biased;
                Some(settled) = self.pending.next() => self.acknowledge(settled).await?,
                request = requests.message(), if self.pending.len() < MAX_PENDING => match request {
                    Ok(Some(request)) => {
                        if std::mem::take(&mut is_first) {
                            self.begin(&request).await?;
                        } else if request.sender.is_some() {
                            let reason = "must come with the first request of a stream";
                            return Err(Arc::new(Invalid::new("sender", reason).into()));
                        }
                        self.accept(request).await?;
                    }
                    Ok(None) => return Ok(()),
                    // So the server says when a message is over its limit.
                    Err(status) if status.code() == Code::OutOfRange => {
                        return Err(Arc::new(Error::TooLarge));
                    }
                    Err(status) => {
                        tracing::debug!(%status, "ingest stream broke");
                        return Ok(());
                    }
                },
                reason = end.reached() => return Err(Arc::new(reason)),
            }
        }
    }

    /// Answers the first request, of whatever it holds: that we are ready, and where to go on.
    async fn begin(&mut self, request: &IngestRequest) -> Result<(), Arc<Error>> {
        let mut acked_through = 0;
        if let Some(sender) = &request.sender {
            if request.first_sequence > MAX_SEQUENCE {
                let reason = format!("must be at most {MAX_SEQUENCE}");
                return Err(Arc::new(Invalid::new("first_sequence", reason).into()));
            }
            let invalid = |error: Invalid| Arc::new(error.within("sender").into());
            let sender = telemetry_proto::sender(sender).map_err(invalid)?;
            let introduced = self.storage.introduce(&sender, request.first_sequence).await;
            acked_through = introduced.map_err(Arc::new)?;
            // Events that come along are numbered by what the sender holds.
            self.last_sequence = match request.events.len() {
                0 => acked_through,
                _ => request.first_sequence.saturating_sub(1),
            };
            self.sender = Some(sender.process);
        }
        self.respond(IngestResponse { acked_through, ..IngestResponse::default() }).await
    }

    /// Checks a request and hands its events to the batcher.
    async fn accept(&mut self, request: IngestRequest) -> Result<(), Arc<Error>> {
        let first_sequence = self.last_sequence + 1;
        if request.events.is_empty() && request.report.is_none() {
            return Ok(());
        }
        if !request.events.is_empty() && request.first_sequence != first_sequence {
            let reason = format!("must be {first_sequence}, is {}", request.first_sequence);
            return Err(Arc::new(Invalid::new("first_sequence", reason).into()));
        }
        if request.events.len() > MAX_EVENTS {
            let reason = format!("must be at most {MAX_EVENTS}, are {}", request.events.len());
            return Err(Arc::new(Invalid::new("events", reason).into()));
        }
        let mut messages = Vec::with_capacity(request.events.len());
        let mut rejections = Vec::new();
        for wire in request.events {
            self.last_sequence += 1;
            let taken = telemetry_proto::message(&wire)
                .map_err(|error| ("invalid_event", error))
                .and_then(|message| permitted(&self.devices, message));
            messages.push(taken.unwrap_or_else(|(reason, error)| {
                let rejection = Rejection {
                    sequence: self.last_sequence,
                    field: error.field.clone(),
                    reason: error.reason.clone(),
                };
                rejections.push(rejection);
                refused(&wire, reason, error, self.clock.now())
            }));
        }
        let mut report = request.report.as_ref().map(telemetry_proto::report);
        // Whether the path to all devices is up is for those to say who may speak for all of them.
        if let Some(report) = report.as_mut().filter(|_| self.devices.check_all().is_err()) {
            report.listening = None;
        }
        let sender = self.sender.clone();
        let submission = Submission { sender, first_sequence, messages, report };
        let outcome = self.batcher.submit(submission, request.flush).await.map_err(Arc::new)?;
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
            stored: appended.readings_stored,
            duplicates: appended.readings_duplicate,
            conflicts: appended.readings_conflicting,
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

/// A message, if its sender may send it.
fn permitted(devices: &Devices, message: Message) -> Result<Message, (&'static str, Invalid)> {
    let event = message.event.as_ref().map(|event| &event.device);
    let refusal = message.refusal.as_ref().and_then(|refusal| refusal.device.as_ref());
    let allows = event.into_iter().chain(refusal).all(|device| devices.allow(device));
    let reason = "is not of a device that the identity of its sender may deal with";
    if allows { Ok(message) } else { Err(("not_permitted", Invalid::new("device_id", reason))) }
}

/// An event that is not taken, as it came.
fn refused(
    wire: &IngestEvent,
    reason: &'static str,
    error: Invalid,
    received: Timestamp,
) -> Message {
    let Invalid { field, reason: detail } = error;
    let refusal = Refusal {
        device: DeviceId::parse(&wire.device_id).ok(),
        kind: None,
        received,
        reason: reason.to_owned(),
        field,
        detail,
        payload: wire.encode_to_vec(),
    };
    Message { topic: Box::default(), qos: 0, event: None, refusal: Some(refusal) }
}

#[cfg(test)]
mod tests {
    use futures::future::ready;
    use service_kit::lifecycle::Lifecycle;
    use telemetry_model::{SystemClock, Tally};

    use super::*;
    use crate::storage::fake::FakeStorage;

    #[tokio::test]
    async fn a_failed_batch_is_not_acknowledged_by_those_after_it() {
        let settled =
            |last_sequence, outcome| Settled { last_sequence, rejections: vec![], outcome };
        let (responses, mut sent) = mpsc::channel(RESPONSES);
        let storage: Arc<dyn Storage> = Arc::new(FakeStorage::new(0));
        let (batcher, ..) = Batcher::new(Arc::clone(&storage));
        let mut session = Session {
            storage,
            batcher,
            clock: Arc::new(SystemClock),
            devices: Devices::of(&Request::new(())),
            sender: None,
            end: StreamEnd::new(Lifecycle::new(), None),
            last_sequence: 2,
            pending: FuturesOrdered::new(),
            responses,
        };
        session.pending.push_back(ready(settled(2, Ok(Tally::default()))).boxed());
        let failed = settled(1, Err(Arc::new(Error::Unavailable("gone".into()))));
        assert!(session.acknowledge(failed).await.is_err());
        assert!(session.acknowledge_pending().await.is_ok());
        assert!(sent.try_recv().is_err(), "2 was acknowledged, and 1 with it");
    }
}
