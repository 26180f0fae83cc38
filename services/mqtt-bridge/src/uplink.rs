//! The Ingest stream: the window's events up, cumulative acknowledgements down.
//!
//! After a break the stream is opened again; the store says through which of our numbers we are
//! settled, and what comes after is sent again. With the events goes what we count and know of the
//! broker's side, for the ledger. While the store is away nothing is acknowledged, so the broker
//! keeps what it has. That the other side is gone without a word is found by HTTP/2 keep-alive
//! (`service_kit::channel`); that it is there but does not answer what it was sent, here.

mod report;
mod spans;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use service_kit::channel::{self, Channel};
use telemetry_decode::{Reason, Rejected};
use telemetry_model::{Clock, Sender, Timestamp};
use telemetry_proto::{
    v1::{self, IngestRequest, IngestResponse, ingest_service_client::IngestServiceClient},
    wire_timestamp,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use self::spans::Spans;
use crate::{backoff::Backoff, link::Link, rejected::Extent};

/// The largest request, in events and in bytes.
const MAX_EVENTS: usize = 1000;
const MAX_BYTES: usize = 1024 * 1024;
/// Requests that may wait for the connection to take them.
const REQUESTS: usize = 4;
/// A store that owes us an answer for so long is not going to give it.
const SILENCE: Duration = Duration::from_secs(30);
/// How often it is told of our side while there are no events.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// How long the store may take to end the stream when we are stopping.
const GOODBYE: Duration = Duration::from_secs(1);

/// The sender.
#[derive(Debug)]
pub(crate) struct Uplink {
    sender: Sender,
    store_url: String,
    store: IngestServiceClient<Channel>,
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    /// Since when the stream stands.
    since: Timestamp,
    spans: Spans,
}

impl Uplink {
    pub(crate) fn new(
        sender: Sender,
        store_url: String,
        store: Channel,
        link: Arc<Link>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let since = clock.now();
        let store = IngestServiceClient::new(store);
        Self { sender, store_url, store, link, clock, since, spans: Spans::default() }
    }

    /// Sends until told to stop.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.stream(&mut backoff, &stopping).await else { return Ok(()) };
            self.spans.broke();
            let wait = if let Some(soon) = renewal(&error) {
                tracing::debug!(url = self.store_url, "the store asks us to connect anew");
                soon
            } else {
                let was_let_in = self.link.is_streaming();
                self.link.set_streaming(false);
                self.wait(&mut backoff, &error, was_let_in)
            };
            if stopping.run_until_cancelled(sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Says why the stream ended and how long to wait.
    fn wait(&self, backoff: &mut Backoff, error: &anyhow::Error, was_let_in: bool) -> Duration {
        let url = self.store_url.as_str();
        let (code, reason) = match error.downcast_ref::<Status>() {
            Some(status) => (status.code(), channel::reason(status)),
            None => (Code::Unknown, error.to_string()),
        };
        match code {
            // A token that has ended: there may be a new one by now.
            Code::Unauthenticated if was_let_in => {
                tracing::info!(url, reason, "our identity has ended, showing it anew");
                backoff.next()
            }
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::Unimplemented => {
                let wait = backoff.ceiling();
                let retry_in_ms = wait.as_millis();
                let fix = match code {
                    Code::InvalidArgument => "this is a fault of the bridge: report it",
                    Code::Unimplemented => "check that STORE_URL is a telemetry store's",
                    Code::Unauthenticated => {
                        "check STORE_TOKEN against the store's AUTH_TOKENS_FILE, or that \
                         STORE_CLIENT_CERT is known there"
                    }
                    _ => "give our identity the scope ingest in the store's AUTH_TOKENS_FILE",
                };
                tracing::error!(url, ?code, reason, fix, retry_in_ms, "telemetry store refuses us");
                wait
            }
            _ => {
                let wait = backoff.next();
                let retry_in_ms = wait.as_millis();
                tracing::info!(url, ?code, reason, retry_in_ms, "telemetry store connection lost");
                wait
            }
        }
    }

    /// One stream, until it breaks or we are stopping.
    async fn stream(
        &mut self,
        backoff: &mut Backoff,
        stopping: &CancellationToken,
    ) -> anyhow::Result<()> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        requests.send(self.introduction()).await?;
        let opened = timeout(SILENCE, self.open(ReceiverStream::new(outgoing)));
        let Some(opened) = stopping.run_until_cancelled(opened).await else { return Ok(()) };
        let mut responses = opened.context("the store does not answer")??;
        backoff.is_up();
        self.since = self.clock.now();
        self.link.set_streaming(true);
        tracing::info!(url = self.store_url, "streaming to telemetry store");
        let mut request = self.next_request();
        let mut answer_by = None;
        let mut report_at = Instant::now() + REPORT_EVERY;
        loop {
            tokio::select! {
                biased;
                response = responses.message() => {
                    let response = response?.context("the store ended the stream")?;
                    self.settle(&response)?;
                    let awaits_more = self.link.window().awaits_ack();
                    answer_by = awaits_more.then(|| Instant::now() + SILENCE);
                }
                () = stopping.cancelled() => {
                    // If there is no room for it, presence waits for us a while.
                    let _told = requests.try_send(self.farewell());
                    break;
                }
                permit = requests.reserve(), if request.is_some() => {
                    if let Some(request) = request.take() {
                        permit?.send(request);
                        report_at = Instant::now() + REPORT_EVERY;
                        answer_by.get_or_insert_with(|| Instant::now() + SILENCE);
                    }
                }
                () = self.link.arrived(), if request.is_none() => {}
                () = sleep_until(report_at), if request.is_none() => request = Some(self.report()),
                () = sleep_until(answer_by.unwrap_or_else(Instant::now)), if answer_by.is_some() =>
                {
                    bail!("the store does not answer");
                }
            }
            if request.is_none() {
                request = self.next_request();
            }
        }
        drop(requests);
        // Everything is acknowledged, or was given up; the stream need only end.
        let ended = async { while let Ok(Some(_)) = responses.message().await {} };
        if timeout(GOODBYE, ended).await.is_err() {
            tracing::debug!("the store did not end the stream");
        }
        Ok(())
    }

    /// A stream on which the store has said that it is ready.
    async fn open(
        &mut self,
        outgoing: ReceiverStream<IngestRequest>,
    ) -> anyhow::Result<Streaming<IngestResponse>> {
        let mut responses = self.store.ingest(outgoing).await?.into_inner();
        let first = responses.message().await?.context("the store ended the stream at once")?;
        let mut window = self.link.window();
        let Ok(receipts) = window.resume(first.acked_through) else {
            bail!("the store has settled {}, which was not sent", first.acked_through);
        };
        self.link.acknowledge(window, receipts);
        Ok(responses)
    }

    /// The first request of a stream.
    fn introduction(&self) -> IngestRequest {
        let first_sequence = self.link.window().first_held();
        let sender = Some(v1::Sender::from(&self.sender));
        IngestRequest { first_sequence, sender, ..self.report() }
    }

    /// What we count and know.
    fn report(&self) -> IngestRequest {
        let listening = self.listening().filter(|_| self.link.window().is_sent());
        self.report_with(listening)
    }

    fn report_with(&self, listening: Option<v1::Listening>) -> IngestRequest {
        let mut report = report::report(self.link.window().counts(), &self.link.delivery());
        report.listening = listening;
        IngestRequest { report: Some(report), ..IngestRequest::default() }
    }

    /// The last report: we leave.
    fn farewell(&self) -> IngestRequest {
        let now = Some(wire_timestamp(self.since));
        self.report_with(Some(v1::Listening { since: now, through: now, leaves: true }))
    }

    /// For how long we have heard the devices, over this stream. To be asked before the window is
    /// looked at: what was received until then is in it.
    fn listening(&self) -> Option<v1::Listening> {
        let (since, through) = self.link.delivery().listening()?;
        let since = since.max(self.since);
        let [since, through] = [since, through.max(since)].map(|t| Some(wire_timestamp(t)));
        Some(v1::Listening { since, through, leaves: false })
    }

    fn next_request(&mut self) -> Option<IngestRequest> {
        let listening = self.listening();
        let mut window = self.link.window();
        let batch = window.next_batch(MAX_EVENTS, MAX_BYTES)?;
        let (first_sequence, flush) = (batch.first_sequence, batch.is_last);
        let mut events: Vec<_> = batch.messages.into_iter().map(v1::IngestEvent::from).collect();
        drop(window);
        for (sequence, event) in (first_sequence..).zip(&mut events) {
            self.spans.begin(sequence, event);
        }
        // To flush is to say that nothing more will come before the broker has acknowledgements for
        // these, for all we know: its own limit of messages in flight may be as low as 20.
        let report = self.report_with(listening.filter(|_| flush));
        Some(IngestRequest { first_sequence, events, flush, ..report })
    }

    fn settle(&mut self, response: &IngestResponse) -> anyhow::Result<()> {
        if response.conflicts > 0 {
            let conflicts = response.conflicts;
            tracing::warn!(conflicts, "readings were stored before with other values, which stay");
        }
        let mut window = self.link.window();
        for rejection in &response.rejections {
            let (field, reason) = (rejection.field.as_str(), rejection.reason.as_str());
            let rejected = Rejected::new(Reason::RefusedByStore, field, reason);
            let message = window.sent_message(rejection.sequence);
            let device = message.and_then(|message| message.event.as_ref()).map(|e| &e.device);
            self.link.rejections().record(device, "", &rejected, Extent::Message);
        }
        let Ok(receipts) = window.acked(response.acked_through) else {
            bail!("the store acknowledged {}, which was not sent", response.acked_through);
        };
        self.spans.settled(response.acked_through);
        self.link.acknowledge(window, receipts);
        Ok(())
    }
}

/// How soon to come back, if the store ended the stream only so that another connection takes its
/// place: sooner than it would say if something were wrong.
fn renewal(error: &anyhow::Error) -> Option<Duration> {
    let status = error.downcast_ref::<Status>().filter(|status| status.code() == Code::Unavailable);
    let delay = status.and_then(StatusExt::get_details_retry_info)?.retry_delay?;
    (delay < Duration::from_secs(1)).then_some(delay)
}
