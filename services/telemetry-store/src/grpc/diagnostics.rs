//! Diagnostics: the ledger, and the quarantine.

use std::{collections::BTreeMap, sync::Arc};

use telemetry_decode::{Decoded, Router, TopicFilter, decode};
use telemetry_model::{Clock, DeviceId, Event, EventKind, Invalid, Message, Submission, Tally};
use telemetry_proto::{
    v1::{self, diagnostics_service_server::DiagnosticsService},
    wire_timestamp,
};
use tonic::{Request, Response, Status};

use super::{access::Devices, explain::Case, ledger, query::page_size};
use crate::{
    batcher::Batcher,
    error::{Error, Result},
    storage::{QuarantineQuery, Quarantined, Storage},
};

/// The most payload on a page, in bytes: a response must stay below what clients take by default.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024;
/// How many messages are read, or replayed, at once. Each may be 1 MiB large.
const CHUNK: usize = 16;
/// The most messages a request may name.
const MAX_IDS: usize = 1000;
/// The most messages that one call replays.
const MAX_REPLAYED: u64 = 1000;

/// The Diagnostics service.
#[derive(Debug)]
pub(super) struct Diagnostics {
    storage: Arc<dyn Storage>,
    batcher: Batcher,
    clock: Arc<dyn Clock>,
}

impl Diagnostics {
    pub(super) fn new(storage: Arc<dyn Storage>, batcher: Batcher, clock: Arc<dyn Clock>) -> Self {
        Self { storage, batcher, clock }
    }
}

#[tonic::async_trait]
impl DiagnosticsService for Diagnostics {
    async fn get_ledger(
        &self,
        _: Request<v1::GetLedgerRequest>,
    ) -> Result<Response<v1::GetLedgerResponse>, Status> {
        let accounts = self.storage.accounts().await?;
        let senders: Vec<_> = accounts.iter().map(ledger::of_sender).collect();
        let total = ledger::total(senders.iter().filter_map(|sender| sender.ledger.as_ref()));
        Ok(Response::new(v1::GetLedgerResponse { total: Some(total), senders }))
    }

    async fn list_quarantine(
        &self,
        request: Request<v1::ListQuarantineRequest>,
    ) -> Result<Response<v1::ListQuarantineResponse>, Status> {
        let within = Devices::of(&request).prefixes();
        let request = request.into_inner();
        let page_size = page_size(request.page_size, 100, 1000)?;
        let mut query = query(&request.device_id, request.reason, Vec::new())?;
        query.within = within;
        query.before = before(&request.page_token)?;
        Ok(Response::new(self.page(query, page_size).await?))
    }

    async fn replay_quarantine(
        &self,
        request: Request<v1::ReplayQuarantineRequest>,
    ) -> Result<Response<v1::ReplayQuarantineResponse>, Status> {
        let within = Devices::of(&request).prefixes();
        let request = request.into_inner();
        let mut query = query(&request.device_id, request.reason, request.ids)?;
        query.within = within;
        query.before = before(&request.page_token)?;
        Ok(Response::new(self.replay(query, request.dry_run).await?))
    }

    async fn explain_device(
        &self,
        request: Request<v1::ExplainDeviceRequest>,
    ) -> Result<Response<v1::ExplainDeviceResponse>, Status> {
        let id = DeviceId::parse(&request.get_ref().device_id).map_err(Error::from)?;
        Devices::of(&request).check(&id)?;
        Ok(Response::new(self.explain(id).await?))
    }
}

impl Diagnostics {
    async fn explain(&self, id: DeviceId) -> Result<v1::ExplainDeviceResponse> {
        let device = self.storage.device(&id).await?;
        let query =
            QuarantineQuery { device: Some(id.clone()), limit: 1, ..QuarantineQuery::default() };
        let mut rejection = self.storage.quarantine(&query).await?.pop();
        let accounts = self.storage.accounts().await?;
        // Others than bridges do not tell.
        let serving = accounts.iter().filter(|account| !account.ended && account.report.is_some());
        let mut bridges: Vec<_> = serving.map(ledger::of_sender).collect();
        bridges.retain(|bridge| bridge.report.is_some() && !bridge.client_id.is_empty());
        let case = Case {
            id: &id,
            device: device.as_ref(),
            rejection: rejection.as_ref(),
            bridges: &bridges,
            now: self.clock.now(),
        };
        let findings = case.findings();
        if let Some(rejection) = &mut rejection {
            rejection.refusal.payload.clear();
        }
        Ok(v1::ExplainDeviceResponse {
            findings,
            device: device.map(Into::into),
            last_rejection: rejection.map(Into::into),
            bridges,
        })
    }

    async fn page(
        &self,
        mut query: QuarantineQuery,
        page_size: usize,
    ) -> Result<v1::ListQuarantineResponse> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        loop {
            query.limit = CHUNK;
            let chunk = self.storage.quarantine(&query).await?;
            let is_last = chunk.len() < CHUNK;
            for message in chunk {
                bytes += 2 * message.refusal.payload.len();
                let is_full = messages.len() == page_size || bytes > MAX_PAGE_BYTES;
                // One there is always room for, or there would be no next page.
                if is_full && !messages.is_empty() {
                    let next_page_token = query.before.map(|id| id.to_string()).unwrap_or_default();
                    return Ok(v1::ListQuarantineResponse { messages, next_page_token });
                }
                query.before = Some(message.id);
                messages.push(message.into());
            }
            if is_last {
                return Ok(v1::ListQuarantineResponse { messages, ..Default::default() });
            }
        }
    }

    async fn replay(
        &self,
        mut query: QuarantineQuery,
        dry_run: bool,
    ) -> Result<v1::ReplayQuarantineResponse> {
        let mut replayed = Replayed::default();
        let mut next_page_token = String::new();
        loop {
            query.limit = CHUNK;
            let chunk = self.storage.quarantine(&query).await?;
            let Some(last) = chunk.last() else { break };
            if replayed.examined >= MAX_REPLAYED {
                next_page_token = query.before.map(|id| id.to_string()).unwrap_or_default();
                break;
            }
            query.before = Some(last.id);
            replayed.examined += chunk.len() as u64;
            let mut events = Vec::with_capacity(chunk.len());
            for message in &chunk {
                match understood(message) {
                    Ok(event) => events.push((message, event)),
                    Err(reason) => replayed.refused(reason),
                }
            }
            if dry_run {
                replayed.stored += events.len() as u64;
                replayed.readings += events.iter().map(|(_, event)| readings(event)).sum::<u64>();
            } else {
                self.store(events, &mut replayed).await?;
            }
        }
        Ok(replayed.into_response(next_page_token))
    }

    /// Stores events with all the care that new ones get, and in one batch; each is a submission of
    /// its own, so that it is known what became of each. Only what is stored, or in the quarantine
    /// anew, leaves it.
    async fn store(
        &self,
        events: Vec<(&Quarantined, Event)>,
        replayed: &mut Replayed,
    ) -> Result<()> {
        let mut outcomes = Vec::with_capacity(events.len());
        let last = events.last().map(|(message, _)| message.id);
        for (Quarantined { id, topic, qos, .. }, event) in events {
            let (topic, event) = (topic.as_str().into(), Some(event));
            let messages = vec![Message { topic, qos: *qos, event, refusal: None }];
            let submission = Submission { messages, ..Submission::default() };
            let outcome = self.batcher.submit(submission, last == Some(*id)).await?;
            outcomes.push((*id, outcome));
        }
        let (mut settled, mut failure) = (Vec::new(), None);
        for (id, outcome) in outcomes {
            match outcome.await.unwrap_or_else(|_| Err(Arc::new(Error::Stopping))) {
                Ok(tally) => {
                    // What storage refuses of it is in the quarantine anew, if there was room.
                    if tally.quarantine_full + tally.partial_lost == 0 {
                        settled.push(id);
                    }
                    replayed.settled(&tally);
                }
                Err(error) => failure = Some(error),
            }
        }
        if !settled.is_empty() {
            self.storage.release(&settled).await?;
        }
        match failure.map(Arc::try_unwrap) {
            None => Ok(()),
            Some(Ok(error)) => Err(error),
            Some(Err(shared)) => Err(Error::Unavailable(shared.to_string().into())),
        }
    }
}

/// What has become of messages that are replayed.
#[derive(Debug, Default)]
struct Replayed {
    examined: u64,
    stored: u64,
    readings: u64,
    refused: BTreeMap<String, u64>,
}

impl Replayed {
    fn settled(&mut self, tally: &Tally) {
        self.readings += tally.readings_stored;
        if tally.stored + tally.duplicate > 0 {
            self.stored += 1;
        } else {
            self.refused("refused_again".to_owned());
        }
    }

    fn refused(&mut self, reason: String) {
        *self.refused.entry(reason).or_default() += 1;
    }

    fn into_response(self, next_page_token: String) -> v1::ReplayQuarantineResponse {
        let Self { examined, stored, readings, refused } = self;
        v1::ReplayQuarantineResponse {
            examined,
            replayed: stored,
            still_refused: refused.values().sum(),
            readings_stored: readings,
            reasons: refused
                .into_iter()
                .map(|(reason, count)| v1::ReasonCount { reason, count })
                .collect(),
            next_page_token,
        }
    }
}

/// The whole event in a message, or the reason why there is none.
fn understood(message: &Quarantined) -> Result<Event, String> {
    let refusal = &message.refusal;
    let (device, kind) = match (refusal.device.clone(), refusal.kind) {
        (Some(device), Some(kind)) => (device, kind),
        // The topic was not understood. Only the bridge knows its filters, but the usual ones are
        // worth a try.
        _ => {
            usual_topics().route(&message.topic).map_err(|rejected| rejected.reason.to_string())?
        }
    };
    match decode(kind, &refusal.payload) {
        Ok(Decoded { samples, rejected: None }) => {
            Ok(Event { device, kind, received: refusal.received, samples, trace: None })
        }
        Ok(Decoded { rejected: Some(rejected), .. }) | Err(rejected) => {
            Err(rejected.reason.to_string())
        }
    }
}

fn usual_topics() -> Router {
    let mut router = Router::default();
    for (filter, kind) in [
        ("devices/+/telemetry", EventKind::Telemetry),
        ("devices/+/heartbeat", EventKind::Heartbeat),
        ("devices/+/status", EventKind::Presence),
    ] {
        router.add(&TopicFilter::parse("topic", filter).into_iter().collect::<Vec<_>>(), kind);
    }
    router
}

fn readings(event: &Event) -> u64 {
    match event.kind {
        EventKind::Telemetry => event.samples.iter().map(|s| s.measurements.len() as u64).sum(),
        EventKind::Heartbeat | EventKind::Presence => 0,
    }
}

fn query(device: &str, reason: String, ids: Vec<i64>) -> Result<QuarantineQuery> {
    if ids.len() > MAX_IDS {
        let reason = format!("must be at most {MAX_IDS}, are {}", ids.len());
        return Err(Invalid::new("ids", reason).into());
    }
    Ok(QuarantineQuery {
        device: if device.is_empty() { None } else { Some(DeviceId::parse(device)?) },
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        ids,
        ..QuarantineQuery::default()
    })
}

fn before(page_token: &str) -> Result<Option<i64>> {
    let reason = "is not a page token: pass next_page_token of the previous page";
    match page_token {
        "" => Ok(None),
        token => match token.parse() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(Invalid::new("page_token", reason).into()),
        },
    }
}

impl From<Quarantined> for v1::QuarantinedMessage {
    fn from(message: Quarantined) -> Self {
        let Quarantined { id, topic, qos, partial, refusal } = message;
        Self {
            id,
            received: Some(wire_timestamp(refusal.received)),
            topic,
            qos: qos.into(),
            device_id: refusal.device.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            kind: refusal.kind.map_or(v1::EventKind::Unspecified, Into::into).into(),
            reason: refusal.reason,
            field: refusal.field,
            detail: refusal.detail,
            partial,
            payload_text: String::from_utf8(refusal.payload.clone()).unwrap_or_default(),
            payload: refusal.payload,
        }
    }
}

#[cfg(test)]
mod tests;
