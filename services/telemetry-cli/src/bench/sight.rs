//! What watches have shown.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use telemetry_model::Timestamp;
use telemetry_proto::v1::{Event, EventKind, WatchDevicesRequest};
use tonic::Streaming;

use super::{latency::Latencies, load::as_u64, now_us};
use crate::store::Store;

/// What one or several watches have shown so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight(Arc<Mutex<Seen>>);

/// How much, and how late.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) messages: u64,
    pub(super) readings: u64,
    pub(super) to_bridge: Latencies,
    pub(super) to_watch: Latencies,
}

impl Sight {
    pub(super) fn add(&self, events: &[Event]) {
        let (now, mut seen) = (now_us(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for event in events {
            let micros = |time: Option<_>| {
                time.and_then(|time| telemetry_proto::timestamp("time", time).ok())
                    .map_or(now, Timestamp::micros)
            };
            let published = micros(event.time);
            seen.to_bridge.add_between(published, micros(event.received));
            seen.to_watch.add_between(published, now);
            seen.readings += as_u64(event.readings.len());
        }
        seen.messages += as_u64(events.len());
    }

    pub(super) fn messages(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).messages
    }

    /// All of it, and forgets it.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Begins to watch all devices whose ids begin so, and adds what it sees until it is dropped.
pub(super) async fn watch(
    store: &Store,
    prefix: &str,
    sight: Sight,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let request = WatchDevicesRequest {
        device_id_prefix: prefix.to_owned(),
        kinds: vec![EventKind::Telemetry.into()],
        ..WatchDevicesRequest::default()
    };
    let stream = store.watch().watch_devices(request).await;
    let mut stream = stream.map_err(|status| store.explain(&status))?.into_inner();
    first(&mut stream).await?;
    Ok(async move {
        while let Some(response) = stream.message().await? {
            sight.add(&response.events);
        }
        anyhow::bail!("the store ended the watch")
    })
}

/// Waits for the first response, with which a stream has its beginning.
pub(super) async fn first<T>(stream: &mut Streaming<T>) -> anyhow::Result<()> {
    stream.message().await?.context("the store ended the watch").map(drop)
}
