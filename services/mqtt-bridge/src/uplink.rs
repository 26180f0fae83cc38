//! The Ingest stream: the window's events up, cumulative acknowledgements down.
//!
//! After a break the stream is opened again and the window sent again from its beginning; the
//! store recognises what it has. While the store is away nothing is acknowledged, so the broker
//! keeps what it has. That the other side is gone without a word is found by HTTP/2 keep-alive.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use telemetry_proto::v1::{
    IngestRequest, IngestResponse, ingest_service_client::IngestServiceClient,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use crate::{
    backoff::Backoff,
    link::Link,
    rejected::{Reason, Rejected, Rejections},
};

/// The largest request, in events and in bytes.
const MAX_EVENTS: usize = 1000;
const MAX_BYTES: usize = 1024 * 1024;
/// Requests that may wait for the connection to take them.
const REQUESTS: usize = 4;

/// The sender.
#[derive(Debug)]
pub(crate) struct Uplink {
    store_url: String,
    store: IngestServiceClient<Channel>,
    link: Arc<Link>,
    rejections: Rejections,
}

impl Uplink {
    pub(crate) fn new(store_url: &str, link: Arc<Link>) -> anyhow::Result<Self> {
        let channel = service_kit::channel::connect(store_url)
            .with_context(|| format!("STORE_URL: {store_url} is not a URL of a server"))?;
        let store = IngestServiceClient::new(channel);
        Ok(Self { store_url: store_url.to_owned(), store, link, rejections: Rejections::default() })
    }

    /// Sends until told to stop.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let ended = stopping.run_until_cancelled(self.stream(&mut backoff)).await;
            let Some(Err(error)) = ended else { return Ok(()) };
            self.link.set_streaming(false);
            let wait = self.wait(&mut backoff, &error);
            if stopping.run_until_cancelled(sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Says why the stream ended and how long to wait.
    fn wait(&self, backoff: &mut Backoff, error: &anyhow::Error) -> Duration {
        let url = self.store_url.as_str();
        let (code, reason) = match error.downcast_ref::<Status>() {
            Some(status) => (status.code(), status.message().to_owned()),
            None => (Code::Unknown, error.to_string()),
        };
        match code {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::Unimplemented => {
                let wait = backoff.ceiling();
                let retry_in_ms = wait.as_millis();
                tracing::error!(url, ?code, reason, retry_in_ms, "telemetry store refuses us");
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

    /// One stream, until it breaks.
    async fn stream(&mut self, backoff: &mut Backoff) -> anyhow::Result<Infallible> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let mut responses = self.store.ingest(ReceiverStream::new(outgoing)).await?.into_inner();
        responses.message().await?.context("the store ended the stream at once")?;
        self.link.window().rewind();
        backoff.is_up();
        self.link.set_streaming(true);
        tracing::info!(url = self.store_url, "streaming to telemetry store");
        let mut request = self.next_request();
        loop {
            tokio::select! {
                biased;
                response = responses.message() => match response? {
                    Some(response) => self.settle(&response)?,
                    None => bail!("the store ended the stream"),
                },
                permit = requests.reserve(), if request.is_some() => {
                    if let Some(request) = request.take() {
                        permit?.send(request);
                    }
                }
                () = self.link.arrived(), if request.is_none() => {}
            }
            if request.is_none() {
                request = self.next_request();
            }
        }
    }

    fn next_request(&self) -> Option<IngestRequest> {
        let mut window = self.link.window();
        let batch = window.next_batch(MAX_EVENTS, MAX_BYTES)?;
        Some(IngestRequest {
            first_sequence: batch.first_sequence,
            events: batch.events.into_iter().map(Into::into).collect(),
            // Nothing more will come before the broker has acknowledgements for these, for all we
            // know: its own limit of messages in flight may be as low as 20.
            flush: batch.is_last,
        })
    }

    fn settle(&self, response: &IngestResponse) -> anyhow::Result<()> {
        for rejection in &response.rejections {
            let (field, reason) = (rejection.field.as_str(), rejection.reason.as_str());
            let rejected = Rejected::new(Reason::RefusedByStore, field, reason);
            self.rejections.record("telemetry store", &rejected);
        }
        if response.conflicts > 0 {
            let conflicts = response.conflicts;
            tracing::warn!(conflicts, "readings were stored before with other values, which stay");
        }
        let settled = self.link.window().acked(response.acked_through);
        let Ok(receipts) = settled else {
            bail!("the store acknowledged {}, which was not sent", response.acked_through);
        };
        self.link.acknowledge(receipts);
        Ok(())
    }
}
