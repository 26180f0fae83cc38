//! The deletion of a device: all that is its own goes, nothing else does, and nobody stores anything
//! under its old number, whatever they remember.

use std::sync::Arc;

use telemetry_model::{
    ClientId, DeviceClock, DeviceId, Event, EventKind, Message, Presence, ProcessId, Refusal,
    Sender, Submission, Tally, Value,
};

use super::{
    Fresh, POLICY, all, at, device, heartbeat, metric, on_each_backend, sample, telemetry,
    views::text,
};
use crate::{
    error::Error,
    storage::{
        Deleted, QuarantineQuery, Storage, open,
        testing::{AppendEvents, Appended, DeviceLog, message, of_nobody},
    },
};

on_each_backend!(
    all_of_it_goes_and_is_written_down,
    another_replica_stores_nothing_under_a_dead_number,
    appends_and_deletions_at_once_leave_nothing_behind,
    a_watch_of_the_partition_goes_on,
    what_its_sender_sends_again_is_counted_once,
);

const DAY: i64 = 24 * 60 * 60;
/// The tables that hold something by a device's number.
const TABLES: [&str; 4] = ["readings", "device_log", "device_boots", "device_metrics"];

fn reading(id: &str, seconds: i64) -> Event {
    telemetry(id, seconds, &[("t", Value::Integer(seconds))])
}

/// A device in the partition of fern-1.
fn neighbour() -> String {
    let is_near = |id: &String| device(id).partition() == device("fern-1").partition();
    (2..1000).map(|n| format!("fern-{n}")).find(is_near).unwrap()
}

async fn another(fresh: &Fresh) -> Arc<dyn Storage> {
    open(&fresh.url, POLICY, &fresh.background).await.unwrap()
}

async fn delete(storage: &Arc<dyn Storage>, id: &str) -> Deleted {
    storage.delete_device(&device(id), "gardener", at(DAY)).await.unwrap()
}

/// Fails if a table, or a rollup, holds something of a device that there is not.
async fn nothing_is_of_nobody(fresh: &Fresh) {
    let mut tables = TABLES.map(str::to_owned).to_vec();
    if fresh.database.is_some() {
        let rollups = "SELECT view_name::text FROM timescaledb_information.continuous_aggregates";
        tables.extend(text(fresh, rollups.to_owned()).await);
    }
    for table in tables {
        let of_nobody = format!(
            "SELECT DISTINCT CAST(device_id AS TEXT) FROM {table}
             WHERE device_id NOT IN (SELECT id FROM devices)"
        );
        assert_eq!(text(fresh, of_nobody).await, [""; 0], "{table}");
    }
}

fn refused(id: &str) -> Message {
    let refusal = Refusal {
        device: Some(device(id)),
        kind: Some(EventKind::Telemetry),
        received: at(0),
        reason: "not_json".into(),
        field: "payload".into(),
        detail: String::new(),
        payload: b"{".to_vec(),
    };
    let topic = format!("devices/{id}/telemetry").into();
    Message { topic, qos: 1, event: None, refusal: Some(refusal) }
}

/// Days of readings, a boot, a heartbeat, and something that was refused.
async fn fill(fresh: &Fresh, id: &str) {
    let mut events: Vec<_> = (0..500).map(|n| reading(id, n * 600)).collect();
    let mut booted = reading(id, 300_000);
    booted.samples = vec![sample(DeviceClock::Counter(9_000), &[("u", Value::Flag(true))])];
    events.extend([booted, heartbeat(id, 300_001, vec![])]);
    fresh.storage.append_events(&events).await.unwrap();
    let refused = Submission { messages: vec![refused(id)], ..Submission::default() };
    fresh.storage.append(&[refused]).await.unwrap();
    fresh.storage.flush_devices(at(300_002)).await.unwrap();
}

async fn all_of_it_goes_and_is_written_down(fresh: &mut Fresh) {
    let neighbour = neighbour();
    fill(fresh, "fern-1").await;
    fill(fresh, &neighbour).await;
    // What can be is rolled up and compressed.
    fresh.storage.prune(at(5 * DAY)).await.unwrap();
    let boots = "SELECT CAST(count(*) AS TEXT) FROM device_boots".to_owned();
    assert_eq!(text(fresh, boots).await, ["2"]);

    // 502 messages, and that it came online.
    let deleted = delete(&fresh.storage, "fern-1").await;
    assert_eq!(deleted, Deleted { readings: 501, events: 503, quarantined: 1 });
    nothing_is_of_nobody(fresh).await;
    assert_eq!(fresh.storage.device(&device("fern-1")).await.unwrap(), None);
    assert_eq!(all(&fresh.storage, "fern-1").await, []);
    let audit = "
        SELECT actor || ' ' || action || ' ' || subject || ' ' || readings || ' ' || events || ' '
               || quarantined FROM audit";
    let audit = text(fresh, audit.to_owned()).await;
    assert_eq!(audit, ["gardener delete_device fern-1 501 503 1"]);

    assert_eq!(all(&fresh.storage, &neighbour).await.len(), 501);
    let near = fresh.storage.device(&device(&neighbour)).await.unwrap().unwrap();
    assert_eq!((near.counts.messages, near.counts.quarantined), (502, 1));
    assert_eq!(fresh.storage.metrics(Some(&near.id)).await.unwrap(), [metric("t"), metric("u")]);
    let query = QuarantineQuery { limit: 10, ..QuarantineQuery::default() };
    assert_eq!(fresh.storage.quarantine(&query).await.unwrap().len(), 1);
    for unknown in ["fern-1", "nobody"] {
        let error = fresh.storage.delete_device(&device(unknown), "x", at(0)).await.unwrap_err();
        assert!(matches!(error, Error::UnknownDevice(_)), "{error}");
    }
}

async fn another_replica_stores_nothing_under_a_dead_number(fresh: &mut Fresh) {
    let (neighbour, other) = (neighbour(), another(fresh).await);
    fresh.storage.append_events(&[reading("fern-1", 0), reading(&neighbour, 0)]).await.unwrap();
    for round in 1..4 {
        delete(&other, "fern-1").await;
        let events = [reading("fern-1", round), reading(&neighbour, round)];
        let appended = fresh.storage.append_events(&events).await.unwrap();
        assert_eq!(appended, [Appended { stored: 1, ..Appended::default() }; 2]);
        nothing_is_of_nobody(fresh).await;
        let id = device("fern-1");
        let new = other.device(&id).await.unwrap().unwrap();
        assert_eq!((new.first_seen, new.presence.state), (at(round + 1), Presence::Online));
        assert_eq!(other.metrics(Some(&id)).await.unwrap(), [metric("t")]);
        let times: Vec<_> = all(&other, "fern-1").await.iter().map(|r| r.time).collect();
        assert_eq!(times, [at(round)]);
    }
    assert_eq!(all(&other, &neighbour).await.len(), 4);
    other.close().await;
}

async fn appends_and_deletions_at_once_leave_nothing_behind(fresh: &mut Fresh) {
    let other = another(fresh).await;
    let append = async |storage: &Arc<dyn Storage>, from: i64| {
        for n in 0..40 {
            storage.append_events(&[reading("fern-1", from + n)]).await.unwrap();
        }
    };
    let deleting = async {
        let mut deleted = 0;
        while deleted < 10 {
            match other.delete_device(&device("fern-1"), "gardener", at(0)).await {
                Ok(_) => deleted += 1,
                Err(Error::UnknownDevice(_)) => {
                    other.append_events(&[reading("fern-1", 1000)]).await.map(drop).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::join!(
        append(&fresh.storage, 0),
        append(&fresh.storage, 100),
        append(&other, 200),
        deleting
    );
    nothing_is_of_nobody(fresh).await;
    other.close().await;
}

async fn a_watch_of_the_partition_goes_on(fresh: &mut Fresh) {
    let neighbour = neighbour();
    fresh.storage.append_events(&[reading("fern-1", 0), reading(&neighbour, 0)]).await.unwrap();
    let near: DeviceId = device(&neighbour);
    let start = fresh.storage.range_of(&near).await.unwrap();
    delete(&fresh.storage, "fern-1").await;
    let after = fresh.storage.range_of(&near).await.unwrap();
    assert_eq!(after, start, "the log reaches as far as before");
    let is_telemetry = |e: &&telemetry_model::StoredEvent| e.kind == EventKind::Telemetry;
    let tail = fresh.storage.tail_of(&near, start.oldest, 10).await.unwrap();
    assert_eq!(tail.events.iter().filter(is_telemetry).count(), 1);
    fresh.storage.append_events(&[reading("fern-1", 1), reading(&neighbour, 1)]).await.unwrap();
    let tail = fresh.storage.tail_of(&near, tail.cursor, 10).await.unwrap();
    assert_eq!((tail.events.len(), tail.at_head), (1, true));
    let own = fresh.storage.tail_of(&device("fern-1"), start.oldest, 10).await.unwrap();
    let kinds: Vec<_> = own.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Presence, EventKind::Telemetry], "of the new device");
    assert!(own.events.iter().all(|event| event.cursor.position > start.newest.position));
}

async fn what_its_sender_sends_again_is_counted_once(fresh: &mut Fresh) {
    let (process, client) = (ProcessId::parse("p").unwrap(), ClientId::parse("b").unwrap());
    let sender = Sender { process: process.clone(), client, started: at(0) };
    fresh.storage.introduce(&sender, 1).await.unwrap();
    let send = |numbers: std::ops::Range<i64>| Submission {
        sender: Some(process.clone()),
        first_sequence: numbers.start.unsigned_abs(),
        messages: numbers.map(|n| message(reading("fern-1", n))).collect(),
        report: None,
    };
    let stored = |n| Some(Tally { stored: n, readings_stored: n, ..Tally::default() });
    assert_eq!(fresh.storage.append(&[send(1..4)]).await.unwrap(), [stored(3)]);
    delete(&fresh.storage, "fern-1").await;
    assert_eq!(fresh.storage.append(&[send(1..6)]).await.unwrap(), [stored(2)], "4 and 5 are new");
    assert_eq!(
        fresh.storage.append(&[of_nobody(vec![reading("fern-1", 1)])]).await.unwrap(),
        [stored(1)]
    );
    let account = &fresh.storage.accounts().await.unwrap();
    assert_eq!(account.iter().map(|account| account.tally.stored).sum::<u64>(), 6);
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 3);
    fresh.storage.flush_devices(at(9)).await.unwrap();
    let new = fresh.storage.device(&device("fern-1")).await.unwrap().unwrap();
    assert_eq!(new.counts.messages, 3, "of the new device");
}
