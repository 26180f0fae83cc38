//! Presence: decided once, whoever decides, and silence counts only while somebody listens.

use std::sync::Arc;

use telemetry_model::{
    ClientId, Cursor, DeviceClock, DeviceCounts, DeviceQuery, Event, EventKind, Listening,
    Presence, PresenceReason, ProcessId, Sender, SenderReport, Submission, Value,
};

use super::{Fresh, POLICY, at, device, heartbeat, on_each_backend, open, sample, telemetry};
use crate::storage::{
    Storage,
    testing::{AppendEvents, DeviceLog, message},
};

on_each_backend!(
    a_device_comes_online_before_its_first_message,
    silence_is_decided_once_whichever_replica_decides,
    silence_counts_only_while_somebody_listens,
    what_a_store_took_with_it_was_not_listened_to,
    a_last_will_counts_at_once,
    what_another_replica_decided_is_found_out,
    devices_are_listed_by_presence_and_prefix,
    what_a_heartbeat_says_is_kept,
    what_is_counted_is_what_came,
);

const TELEMETRY: EventKind = EventKind::Telemetry;

type Shared = Arc<dyn Storage>;

/// The changes in a device's log: to what, since when, and why.
async fn changes(storage: &Shared, id: &str) -> Vec<(Presence, i64, PresenceReason)> {
    let partition = device(id).partition();
    let after = Cursor { partition, position: 0 };
    let tail = storage.tail_of(&device(id), after, 1000).await.unwrap();
    let changes = tail.events.iter().filter_map(|event| event.presence);
    let second = |time: telemetry_model::Timestamp| (time.micros() - at(0).micros()) / 1_000_000;
    changes.map(|change| (change.state, second(change.since), change.reason)).collect()
}

async fn state(storage: &Shared, id: &str) -> Presence {
    storage.device(&device(id)).await.unwrap().unwrap().presence.state
}

/// A bridge that has an account.
async fn bridge(storage: &Shared, process: &str, client: &str) {
    let process = ProcessId::parse(process).unwrap();
    let client = ClientId::parse(client).unwrap();
    storage.introduce(&Sender { process, client, started: at(0) }, 1).await.unwrap();
}

/// It tells for how long it has listened; that is written at once, and judged.
async fn listened(storage: &Shared, process: &str, since: i64, through: i64) {
    told(storage, process, Listening { since: at(since), through: at(through), leaves: false })
        .await;
    storage.flush_devices(at(through)).await.unwrap();
    storage.judge(at(through)).await.unwrap();
}

async fn told(storage: &Shared, process: &str, listening: Listening) {
    let report = Some(SenderReport { listening: Some(listening), ..SenderReport::default() });
    let sender = Some(ProcessId::parse(process).unwrap());
    let submission = Submission { sender, report, ..Submission::default() };
    storage.append(&[submission]).await.unwrap();
}

fn beat(id: &str, seconds: i64) -> Event {
    heartbeat(id, seconds, vec![])
}

fn status(id: &str, seconds: i64, online: bool) -> Event {
    let samples = vec![sample(DeviceClock::None, &[("online", Value::Flag(online))])];
    Event {
        device: device(id),
        kind: EventKind::Presence,
        received: at(seconds),
        samples,
        trace: None,
    }
}

async fn a_device_comes_online_before_its_first_message(fresh: &mut Fresh) {
    let event = |seconds| telemetry("fern-1", seconds, &[("t", Value::Integer(seconds))]);
    fresh.storage.append_events(&[event(0), event(1)]).await.unwrap();
    fresh.storage.append_events(&[event(2)]).await.unwrap();
    let after = Cursor { partition: device("fern-1").partition(), position: 0 };
    let tail = fresh.storage.tail_of(&device("fern-1"), after, 10).await.unwrap();
    let kinds: Vec<_> = tail.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Presence, TELEMETRY, TELEMETRY, TELEMETRY]);
    let change = tail.events[0].presence.unwrap();
    assert_eq!((change.state, change.previous), (Presence::Online, Presence::Unknown));
    assert_eq!(state(&fresh.storage, "fern-1").await, Presence::Online);
    // What is a duplicate is a sign of life, and no news.
    fresh.reopen().await;
    fresh.storage.append_events(&[event(2)]).await.unwrap();
    assert_eq!(changes(&fresh.storage, "fern-1").await.len(), 1);
}

async fn silence_is_decided_once_whichever_replica_decides(fresh: &mut Fresh) {
    let other = open(&fresh.url, POLICY, &fresh.background).await.unwrap();
    bridge(&fresh.storage, "a", "bridge").await;
    let ids: Vec<_> = (0..40).map(|n| format!("fern-{n}")).collect();
    let beats: Vec<_> = ids.iter().map(|id| beat(id, 10)).collect();
    fresh.storage.append_events(&beats).await.unwrap();
    listened(&fresh.storage, "a", 0, 189).await;
    assert_eq!(state(&other, "fern-0").await, Presence::Online);
    told(&fresh.storage, "a", Listening { since: at(0), through: at(190), leaves: false }).await;
    fresh.storage.flush_devices(at(190)).await.unwrap();
    let both = tokio::join!(fresh.storage.judge(at(190)), other.judge(at(190)));
    both.0.unwrap();
    both.1.unwrap();
    other.judge(at(191)).await.unwrap();
    for id in &ids {
        let online = (Presence::Online, 10, PresenceReason::Heard);
        let offline = (Presence::Offline, 190, PresenceReason::Silence);
        assert_eq!(changes(&other, id).await, [online, offline], "{id}");
    }
    fresh.storage.append_events(&[beat("fern-0", 200)]).await.unwrap();
    assert_eq!(state(&other, "fern-0").await, Presence::Online);
    let counted = other.presence().await.unwrap();
    assert!(counted.contains(&(Presence::Online, 1)), "{counted:?}");
    assert!(counted.contains(&(Presence::Offline, 39)), "{counted:?}");
    other.close().await;
}

async fn silence_counts_only_while_somebody_listens(fresh: &mut Fresh) {
    let storage = &fresh.storage;
    bridge(storage, "a", "bridge").await;
    storage.append_events(&[beat("fern-1", 10)]).await.unwrap();
    listened(storage, "a", 0, 100).await;
    // The bridge is gone; another process serves its session.
    storage.judge(at(180)).await.unwrap();
    assert_eq!(state(storage, "fern-1").await, Presence::Online);
    storage.judge(at(200)).await.unwrap();
    assert_eq!(state(storage, "fern-1").await, Presence::Unknown);
    bridge(storage, "b", "bridge").await;
    listened(storage, "b", 300, 479).await;
    assert_eq!(state(storage, "fern-1").await, Presence::Unknown);
    // A second one, that hears a part of the devices, has not listened so long.
    bridge(storage, "c", "second").await;
    told(storage, "c", Listening { since: at(479), through: at(479), leaves: false }).await;
    listened(storage, "b", 300, 481).await;
    assert_eq!(state(storage, "fern-1").await, Presence::Unknown);
    // It leaves, and says so.
    told(storage, "c", Listening { since: at(479), through: at(479), leaves: true }).await;
    listened(storage, "b", 300, 482).await;
    assert_eq!(state(storage, "fern-1").await, Presence::Offline);
    let reasons: Vec<_> = changes(storage, "fern-1").await.into_iter().map(|c| c.2).collect();
    assert_eq!(
        reasons,
        [PresenceReason::Heard, PresenceReason::NotListening, PresenceReason::Silence]
    );
}

async fn what_a_store_took_with_it_was_not_listened_to(fresh: &mut Fresh) {
    bridge(&fresh.storage, "a", "bridge").await;
    fresh.storage.append_events(&[beat("fern-1", 10)]).await.unwrap();
    listened(&fresh.storage, "a", 0, 100).await;
    // It hears the device, and dies before that is written.
    fresh.storage.append_events(&[beat("fern-1", 150)]).await.unwrap();
    told(&fresh.storage, "a", Listening { since: at(0), through: at(190), leaves: false }).await;
    fresh.reopen().await;
    fresh.storage.flush_devices(at(191)).await.unwrap();
    fresh.storage.judge(at(191)).await.unwrap();
    // The stream to the store that follows it begins later.
    listened(&fresh.storage, "a", 192, 200).await;
    assert_ne!(state(&fresh.storage, "fern-1").await, Presence::Offline);
}

async fn a_last_will_counts_at_once(fresh: &mut Fresh) {
    let storage = &fresh.storage;
    let events = [beat("fern-1", 10), status("fern-1", 11, false), status("fern-1", 12, false)];
    let tallies = storage.append(&[submission_of(&events)]).await.unwrap();
    assert_eq!(tallies[0].unwrap().stored, 3);
    storage.flush_devices(at(13)).await.unwrap();
    storage.judge(at(13)).await.unwrap();
    let fern = storage.device(&device("fern-1")).await.unwrap().unwrap();
    assert_eq!((fern.presence.state, fern.last_seen), (Presence::Offline, at(10)));
    storage.append_events(&[status("fern-1", 20, true), beat("fern-1", 21)]).await.unwrap();
    let online = |since| (Presence::Online, since, PresenceReason::Heard);
    let left = (Presence::Offline, 11, PresenceReason::LastWill);
    assert_eq!(changes(storage, "fern-1").await, [online(10), left, online(20)]);
    // Of a stranger even what the broker had kept is believed, of others it is not.
    let retained = |id| {
        let mut event = status(id, 30, false);
        assert!(event.mark_retained());
        event
    };
    storage.append_events(&[retained("fern-1"), retained("moss-1")]).await.unwrap();
    assert_eq!(state(storage, "fern-1").await, Presence::Online);
    assert_eq!(state(storage, "moss-1").await, Presence::Offline);
}

fn submission_of(events: &[Event]) -> Submission {
    let messages = events.iter().cloned().map(message).collect();
    Submission { messages, ..Submission::default() }
}

async fn what_another_replica_decided_is_found_out(fresh: &mut Fresh) {
    let other = open(&fresh.url, POLICY, &fresh.background).await.unwrap();
    fresh.storage.append_events(&[beat("fern-1", 10)]).await.unwrap();
    other.append_events(&[status("fern-1", 11, false)]).await.unwrap();
    // The first one knows the device to be online, so only the judge finds out.
    fresh.storage.append_events(&[beat("fern-1", 12)]).await.unwrap();
    fresh.storage.flush_devices(at(13)).await.unwrap();
    fresh.storage.judge(at(13)).await.unwrap();
    let reasons: Vec<_> = changes(&other, "fern-1").await.into_iter().map(|c| c.2).collect();
    assert_eq!(reasons, [PresenceReason::Heard, PresenceReason::LastWill, PresenceReason::Heard]);
    assert_eq!(state(&other, "fern-1").await, Presence::Online);
    other.close().await;
}

async fn devices_are_listed_by_presence_and_prefix(fresh: &mut Fresh) {
    let storage = &fresh.storage;
    let ids = ["fern-1", "fern_2", "fern%3", "moss-1"];
    storage.append_events(&ids.map(|id| beat(id, 10))).await.unwrap();
    storage.append_events(&[status("fern-1", 11, false)]).await.unwrap();
    let list = async |presence, prefix: &str, after: Option<&str>| {
        let query = DeviceQuery {
            after: after.map(device),
            id_prefix: prefix.to_owned(),
            presence,
            limit: 10,
            ..DeviceQuery::default()
        };
        let found = storage.devices(&query).await.unwrap();
        found.iter().map(|device| device.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(None, "", None).await, ["fern%3", "fern-1", "fern_2", "moss-1"]);
    assert_eq!(list(None, "fern_", None).await, ["fern_2"]);
    assert_eq!(list(None, "fern", Some("fern%3")).await, ["fern-1", "fern_2"]);
    assert_eq!(list(Some(Presence::Offline), "", None).await, ["fern-1"]);
    assert_eq!(list(Some(Presence::Online), "fern", None).await, ["fern%3", "fern_2"]);
    assert!(list(Some(Presence::Unknown), "", None).await.is_empty());
}

async fn what_a_heartbeat_says_is_kept(fresh: &mut Fresh) {
    let told = |seconds, values: &[(&str, Value)]| {
        heartbeat("fern-1", seconds, vec![sample(DeviceClock::None, values)])
    };
    let uptime =
        |seconds, key: &'static str, uptime| told(seconds, &[(key, Value::Integer(uptime))]);
    let first = [("uptime", Value::Integer(100)), ("rssi", Value::Integer(-61))];
    for (event, uptime_s, reboots) in [
        (told(100, &first), 100, 0),
        (uptime(160, "uptime_seconds", 160), 160, 0),
        // It came again.
        (uptime(165, "uptime", 100), 100, 0),
        (uptime(220, "uptime", 10), 10, 1),
        (uptime(280, "uptime", 70), 70, 1),
        (uptime(400, "uptime", 3), 3, 2),
    ] {
        fresh.storage.append_events(&[event]).await.unwrap();
        fresh.storage.flush_devices(at(0)).await.unwrap();
        fresh.reopen().await;
        let facts = fresh.storage.device(&device("fern-1")).await.unwrap().unwrap().facts;
        assert_eq!((facts.uptime_s, facts.reboots), (Some(uptime_s), reboots));
        assert_eq!(facts.rssi_dbm, Some(-61));
    }
    let version = told(500, &[("fw_version", Value::Text("1.2".into()))]);
    fresh
        .storage
        .append_events(&[uptime(460, "uptime", 63), uptime(490, "uptime", 2), version])
        .await
        .unwrap();
    for _ in 0..2 {
        let fern = fresh.storage.device(&device("fern-1")).await.unwrap().unwrap();
        assert_eq!(fern.facts.firmware.as_deref(), Some("1.2"));
        assert_eq!(fern.facts.last_kind, Some(EventKind::Heartbeat));
        assert_eq!(fern.facts.last_topic.as_deref(), Some("devices/fern-1/telemetry"));
        fresh.storage.flush_devices(at(0)).await.unwrap();
    }
    let facts = fresh.storage.device(&device("fern-1")).await.unwrap().unwrap().facts;
    assert_eq!((facts.uptime_s, facts.reboots), (Some(2), 3));
}

async fn what_is_counted_is_what_came(fresh: &mut Fresh) {
    let event = |seconds| {
        telemetry("fern-1", seconds, &[("t", Value::Integer(1)), ("u", Value::Integer(2))])
    };
    let mut refused = message(event(3));
    let half = refused.event.clone().unwrap();
    refused.refusal = Some(crate::storage::refuse(&half, "invalid_value", "x", String::new()));
    let submission = Submission { messages: vec![refused], ..Submission::default() };
    fresh.storage.append_events(&[event(0), event(0), event(1), beat("fern-1", 5)]).await.unwrap();
    fresh.storage.append(&[submission]).await.unwrap();
    let expected = DeviceCounts { messages: 5, readings: 6, duplicates: 2, quarantined: 1 };
    for _ in 0..3 {
        let fern = fresh.storage.device(&device("fern-1")).await.unwrap().unwrap();
        assert_eq!(fern.counts, expected);
        fresh.storage.flush_devices(at(0)).await.unwrap();
        fresh.reopen().await;
    }
}
