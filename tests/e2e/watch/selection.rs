//! Which devices, which of their events, from where, and in which state they are.

use anyhow::{Context, ensure};
use e2e::{Database, System, events, eventually};
use telemetry_proto::v1::{
    Event, EventKind, WatchDeviceRequest, WatchDevicesRequest, WatchDevicesResponse, reading::Value,
};
use tonic::Code;
use tonic_types::StatusExt;

use super::{publish, values};
use crate::payloads::on_each_database;

on_each_database!(by_list_prefix_and_all, filters, from_a_time, with_state);

/// All messages that the log holds for a request.
async fn all(system: &System, request: WatchDevicesRequest) -> anyhow::Result<Vec<Event>> {
    let request = WatchDevicesRequest { after_cursor: "0".into(), ..request };
    let (mut response, mut watch) = system.client().await?.watch_many(request).await?;
    let mut seen = Vec::new();
    loop {
        seen.append(&mut response.events);
        if response.caught_up {
            seen.retain(|event| event.presence.is_none());
            return Ok(seen);
        }
        response = watch.message().await?.context("the watch ended")?;
    }
}

async fn by_list_prefix_and_all(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    let ids = ["fern-1", "fern-2", "moss-1"];
    let of = |list: &[&str], prefix: &str| WatchDevicesRequest {
        device_ids: list.iter().map(ToString::to_string).collect(),
        device_id_prefix: prefix.into(),
        ..Default::default()
    };
    let cases = [
        (of(&["fern-1", "moss-1", "nobody"], ""), vec!["fern-1", "moss-1"]),
        (of(&["fern-2"], ""), vec!["fern-2"]),
        (of(&[], "fern-"), vec!["fern-1", "fern-2"]),
        (of(&[], ""), ids.to_vec()),
        (of(&[], "x"), vec![]),
    ];
    let mut live = Vec::new();
    for (request, expected) in &cases {
        live.push((client.watch_many(request.clone()).await?.1, expected));
    }
    for id in ids {
        publish(&system.device(), id, 0..20)?;
        client.readings_come(id, 20).await?;
    }
    let devices = |events: &[Event]| {
        let mut ids: Vec<_> = events.iter().map(|event| event.device_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    for (watch, expected) in &mut live {
        let (seen, _) = events(watch, 20 * expected.len()).await?;
        ensure!(devices(&seen) == **expected, "{:?}, not {expected:?}", devices(&seen));
    }
    for (request, expected) in cases {
        let seen = all(&system, request).await?;
        ensure!(
            (devices(&seen), seen.len())
                == (expected.iter().map(ToString::to_string).collect(), expected.len() * 20)
        );
    }
    for (request, field) in [
        (of(&["a/b"], ""), "device_ids[0]"),
        (of(&["a"], "b"), "device_id_prefix"),
        (WatchDevicesRequest { after_cursor: "19-7".into(), ..Default::default() }, "after_cursor"),
        (WatchDevicesRequest { kinds: vec![77], ..Default::default() }, "kinds[0]"),
        (
            WatchDevicesRequest { device_ids: vec!["a".into(); 1001], ..Default::default() },
            "device_ids",
        ),
    ] {
        let status = client.watch_many(request).await.err().context("it is taken")?;
        let details = status.get_details_bad_request().context("no details")?;
        ensure!(details.field_violations[0].field == field, "{details:?}, not {field}");
    }
    Ok(())
}

async fn filters(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let (client, device) = (system.client().await?, system.device());
    device.publish("devices/fern-1/telemetry", 1, b"{\"a\":1,\"b\":2}")?;
    device.publish("devices/fern-1/telemetry", 1, b"{\"b\":3}")?;
    device.publish("devices/fern-1/heartbeat", 1, b"{\"rssi\":-60}")?;
    device.publish("devices/fern-1/heartbeat", 1, b"")?;
    eventually("all is logged", async || {
        let seen = all(&system, WatchDevicesRequest::default()).await?;
        ensure!(seen.len() == 4, "{}", seen.len());
        Ok(())
    })
    .await?;
    let (telemetry, heartbeat) = (EventKind::Telemetry, EventKind::Heartbeat);
    for (metrics, kinds, expected) in [
        (&["a"][..], &[][..], &[&[1][..]][..]),
        (&["b"], &[], &[&[2], &[3]]),
        (&["a", "b"], &[], &[&[1, 2], &[3]]),
        (&[], &[telemetry], &[&[1, 2], &[3]]),
        (&[], &[heartbeat], &[&[-60], &[]]),
        (&["rssi"], &[], &[&[-60]]),
        (&["a"], &[telemetry, heartbeat], &[&[1], &[], &[]]),
        (&["nothing"], &[], &[]),
    ] {
        let metrics: Vec<_> = metrics.iter().map(ToString::to_string).collect();
        let kinds: Vec<_> = kinds.iter().map(|kind| i32::from(*kind)).collect();
        let many = WatchDevicesRequest {
            metrics: metrics.clone(),
            kinds: kinds.clone(),
            ..Default::default()
        };
        let one = WatchDeviceRequest {
            device_id: "fern-1".into(),
            after_cursor: "0".into(),
            metrics: metrics.clone(),
            kinds: kinds.clone(),
            ..Default::default()
        };
        let mut one = client.watch.clone().watch_device(one).await?.into_inner();
        let mut one = one.message().await?.context("ended")?.events;
        one.retain(|event| event.presence.is_none());
        for seen in [all(&system, many).await?, one] {
            let seen: Vec<_> =
                seen.iter().map(|event| values(std::slice::from_ref(event))).collect();
            ensure!(seen == *expected, "{metrics:?} {kinds:?}: {seen:?}");
        }
    }
    let kinds = vec![EventKind::Presence.into()];
    let request = WatchDevicesRequest { after_cursor: "0".into(), kinds, ..Default::default() };
    let (first, _) = client.watch_many(request).await?;
    ensure!(first.events.len() == 1 && first.events[0].presence.is_some(), "{first:?}");
    Ok(())
}

async fn from_a_time(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    for id in ["fern-1", "moss-1"] {
        publish(&system.device(), id, 0..10)?;
        client.readings_come(id, 10).await?;
    }
    let seen = all(&system, WatchDevicesRequest::default()).await?;
    for id in ["fern-1", "moss-1"] {
        let own: Vec<_> = seen.iter().filter(|event| event.device_id == id).collect();
        for n in [0, 4, 9] {
            let request = WatchDeviceRequest {
                device_id: id.into(),
                from_time: own[n].received,
                ..Default::default()
            };
            let mut watch = client.watch.clone().watch_device(request).await?.into_inner();
            let first = watch.message().await?.context("ended")?;
            let expected: Vec<_> = (0..10).skip(n).collect();
            ensure!(values(&first.events) == expected, "{id} from {n}: {:?}", first.events);
        }
    }
    // No later than every device's next one, and no earlier.
    let from_time = seen
        .iter()
        .map(|event| event.received.unwrap_or_default())
        .max_by_key(|time| (time.seconds, time.nanos));
    let request = WatchDevicesRequest { from_time, ..Default::default() };
    let (first, mut watch) = client.watch_many(request).await?;
    ensure!(values(&first.events) == [9], "{:?}", first.events);
    publish(&system.device(), "fern-1", 10..11)?;
    ensure!(values(&events(&mut watch, 1).await?.0) == [10]);

    let mut long_ago = from_time.unwrap_or_default();
    long_ago.seconds -= 25 * 60 * 60;
    let request = WatchDevicesRequest { from_time: Some(long_ago), ..Default::default() };
    let status = client.watch_many(request).await.err().context("it is taken")?;
    let details = status.get_details_error_info().context("no details")?.metadata;
    ensure!(status.code() == Code::OutOfRange && details.contains_key("horizon"), "{status:?}");
    let after_cursor = details.get("oldest").cloned().context("no oldest cursor")?;
    let request = WatchDevicesRequest { after_cursor, ..Default::default() };
    ensure!(client.watch_many(request).await.is_ok());
    Ok(())
}

/// The state, then what follows: nothing is missing in between.
async fn with_state(database: Database) -> anyhow::Result<()> {
    let system = System::start(database).await?;
    let client = system.client().await?;
    for id in ["fern-1", "fern-2", "moss-1"] {
        system.device().publish(&format!("devices/{id}/telemetry"), 1, b"{\"a\":1,\"t\":0}")?;
        client.readings_come(id, 2).await?;
    }
    let request = WatchDeviceRequest {
        device_id: "fern-1".into(),
        metrics: vec!["t".into()],
        include_state: true,
        ..Default::default()
    };
    let mut one = client.watch.clone().watch_device(request).await?.into_inner();
    // The state is read when it is asked for, and the log goes on meanwhile.
    publish(&system.device(), "fern-1", 1..50)?;
    let first = one.message().await?.context("ended")?;
    let state = first.state.context("no state")?;
    ensure!(state.device.context("no device")?.device_id == "fern-1" && state.latest.len() == 1);
    let Some(Value::Integer(known)) = state.latest[0].value else { anyhow::bail!("no value") };
    let (seen, _) = events(&mut one, 49).await?;
    ensure!(known <= 49 && values(&seen) == (1..50).collect::<Vec<_>>());

    let of = |list: &[&str], prefix: &str| WatchDevicesRequest {
        device_ids: list.iter().map(ToString::to_string).collect(),
        device_id_prefix: prefix.into(),
        include_state: true,
        ..Default::default()
    };
    for (request, expected) in [
        (of(&[], ""), &["fern-1", "fern-2", "moss-1"][..]),
        (of(&[], "fern-"), &["fern-1", "fern-2"]),
        (of(&[], "fern-2"), &["fern-2"]),
        (of(&["moss-1", "nobody"], ""), &["moss-1"]),
        (of(&["nobody"], ""), &[]),
    ] {
        let (mut response, mut watch) = client.watch_many(request).await?;
        let mut states = Vec::new();
        while !response.caught_up {
            ensure!(response.events.is_empty());
            states.append(&mut response.states);
            let next: Option<WatchDevicesResponse> = watch.message().await?;
            response = next.context("ended")?;
        }
        let devices: Vec<_> = states.iter().filter_map(|state| state.device.as_ref()).collect();
        let devices: Vec<_> = devices.iter().map(|device| device.device_id.as_str()).collect();
        ensure!(devices == expected, "{devices:?}, not {expected:?}");
        ensure!(states.iter().all(|state| state.latest.len() == 2));
    }
    Ok(())
}
