//! The store's API as a test uses it.

use anyhow::Context;
use telemetry_proto::v1::{
    Event, GetLedgerRequest, GetLedgerResponse, Ledger, ListReadingsRequest, Reading,
    WatchDeviceRequest, WatchDeviceResponse, WatchDevicesRequest, WatchDevicesResponse,
    diagnostics_service_client::DiagnosticsServiceClient,
    ingest_service_client::IngestServiceClient, query_service_client::QueryServiceClient,
    watch_service_client::WatchServiceClient,
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::eventually;

/// A connection on which each call shows a token, if there is one.
pub type Caller = InterceptedService<Channel, Token>;

/// What each call shows.
#[derive(Clone, Debug, Default)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    /// Shows a bearer token.
    pub fn bearer(token: &str) -> anyhow::Result<Self> {
        Ok(Self(Some(format!("Bearer {token}").parse()?)))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A connection to a store.
#[derive(Clone, Debug)]
pub struct Client {
    /// Queries.
    pub query: QueryServiceClient<Caller>,
    /// Watches.
    pub watch: WatchServiceClient<Caller>,
    /// Ingest.
    pub ingest: IngestServiceClient<Caller>,
    /// The ledger and the quarantine.
    pub diagnostics: DiagnosticsServiceClient<Caller>,
}

impl Client {
    /// Connects to `address`, such as `127.0.0.1:50051`.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self::over(channel, Token::default()))
    }

    /// A client on a connection that it shows a token on.
    pub fn over(channel: Channel, token: Token) -> Self {
        let channel = InterceptedService::new(channel, token);
        Self {
            query: QueryServiceClient::new(channel.clone()),
            watch: WatchServiceClient::new(channel.clone()),
            ingest: IngestServiceClient::new(channel.clone()),
            diagnostics: DiagnosticsServiceClient::new(channel),
        }
    }

    /// Every reading of a device, oldest first.
    pub async fn readings(&self, device: &str) -> anyhow::Result<Vec<Reading>> {
        let (mut readings, mut page_token) = (Vec::new(), String::new());
        loop {
            let device_id = device.to_owned();
            let request = ListReadingsRequest { device_id, page_token, ..Default::default() };
            let page = self.query.clone().list_readings(request).await?.into_inner();
            readings.extend(page.readings);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(readings);
            }
        }
    }

    /// Waits until a device has at least so many readings.
    pub async fn readings_come(&self, device: &str, count: usize) -> anyhow::Result<Vec<Reading>> {
        eventually(&format!("{device} has {count} readings"), async || {
            let readings = self.readings(device).await?;
            anyhow::ensure!(readings.len() >= count, "has {}", readings.len());
            Ok(readings)
        })
        .await
    }

    /// The ledger, once every account in it is found balanced.
    pub async fn ledger(&self) -> anyhow::Result<GetLedgerResponse> {
        let answer = self.diagnostics.clone().get_ledger(GetLedgerRequest {}).await?.into_inner();
        let accounts = answer.senders.iter().filter_map(|sender| sender.ledger.as_ref());
        for ledger in accounts.chain(&answer.total) {
            let Ledger { received, stored, duplicate, quarantined, in_flight, .. } = *ledger;
            let dropped: u64 = ledger.dropped.iter().map(|dropped| dropped.count).sum();
            let accounted = stored + duplicate + quarantined + dropped + in_flight;
            anyhow::ensure!(received == accounted, "the ledger does not balance: {ledger:?}");
        }
        Ok(answer)
    }

    /// Waits until nothing is in flight, and answers the sum over all senders.
    pub async fn ledger_settles(&self) -> anyhow::Result<Ledger> {
        eventually("nothing is in flight", async || {
            let total = self.ledger().await?.total.context("no total")?;
            anyhow::ensure!(total.in_flight == 0, "{total:?}");
            Ok(total)
        })
        .await
    }

    /// Watches a device after a cursor; empty for from now on. The first response has been read,
    /// so that the watch is known to stand.
    pub async fn watch(
        &self,
        device: &str,
        after_cursor: &str,
    ) -> anyhow::Result<(WatchDeviceResponse, Streaming<WatchDeviceResponse>)> {
        let request = WatchDeviceRequest {
            device_id: device.to_owned(),
            after_cursor: after_cursor.to_owned(),
            ..Default::default()
        };
        let mut stream = self.watch.clone().watch_device(request).await?.into_inner();
        let first = stream.message().await?.context("the watch ended")?;
        Ok((first, stream))
    }

    /// Watches many devices. The first response has been read, as of one.
    pub async fn watch_many(
        &self,
        request: WatchDevicesRequest,
    ) -> Result<(WatchDevicesResponse, Streaming<WatchDevicesResponse>), Status> {
        let mut stream = self.watch.clone().watch_devices(request).await?.into_inner();
        let first = stream.message().await?.unwrap_or_default();
        Ok((first, stream))
    }
}

/// A response of either kind of watch.
pub trait WatchResponse {
    /// Where the stream stands, and the events.
    fn into_parts(self) -> (String, Vec<Event>);
}

impl WatchResponse for WatchDeviceResponse {
    fn into_parts(self) -> (String, Vec<Event>) {
        (self.cursor, self.events)
    }
}

impl WatchResponse for WatchDevicesResponse {
    fn into_parts(self) -> (String, Vec<Event>) {
        (self.cursor, self.events)
    }
}

/// Reads a watch until it has told so many events, changes of presence not counted; also answers
/// the last cursor.
pub async fn events<R: WatchResponse>(
    stream: &mut Streaming<R>,
    count: usize,
) -> anyhow::Result<(Vec<Event>, String)> {
    let (mut events, mut cursor) = (Vec::new(), String::new());
    while events.len() < count {
        let response = tokio::time::timeout(crate::DEADLINE, stream.message()).await;
        let response = response.context("the watch is silent")??.context("the watch ended")?;
        let (told, next) = response.into_parts();
        events.extend(next.into_iter().filter(|event| event.presence.is_none()));
        cursor = told;
    }
    Ok((events, cursor))
}

/// What the health service at `address` says overall; false also if nobody answers.
pub async fn is_serving(address: &str) -> anyhow::Result<bool> {
    let channel = Channel::from_shared(format!("http://{address}"))?.connect_lazy();
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await;
    Ok(answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving))
}

/// Waits until the health service at `address` says that it serves, or that it does not.
pub async fn health_becomes(address: &str, serving: bool) -> anyhow::Result<()> {
    eventually(&format!("{address} serving: {serving}"), async || {
        anyhow::ensure!(is_serving(address).await? == serving, "it is not so");
        Ok(())
    })
    .await
}
