//! The log that watches read: order, cursors, horizon.

use std::sync::Arc;

use telemetry_model::{Cursor, EventKind, Presence, StoredEvent, Value};

use super::{Fresh, at, device, heartbeat, on_each_backend, prune_before, sample, telemetry};
use crate::storage::testing::{AppendEvents, DeviceLog};

on_each_backend!(
    holds_events_of_each_kind_as_they_were_stored,
    pages_to_the_head,
    cursors_outside_are_refused,
    concurrent_appends_leave_no_gap,
    writers_to_one_device_lose_nothing_to_a_reader,
    pruning_moves_the_horizon,
);

fn positions(events: &[StoredEvent]) -> Vec<i64> {
    events.iter().map(|event| event.cursor.position).collect()
}

async fn holds_events_of_each_kind_as_they_were_stored(fresh: &mut Fresh) {
    let id = device("fern-1");
    let clock = telemetry_model::DeviceClock::Wall(at(5));
    let events = [
        telemetry("fern-1", 0, &[("t", Value::Number(1.5))]),
        telemetry("moss-1", 0, &[("t", Value::Number(1.5))]),
        heartbeat("fern-1", 6, vec![sample(clock, &[("rssi", Value::Integer(-60))])]),
        heartbeat("fern-1", 7, vec![]),
    ];
    fresh.storage.append_events(&events).await.unwrap();
    let oldest = fresh.storage.range_of(&id).await.unwrap().oldest;
    let tail = fresh.storage.tail_of(&id, oldest, 10).await.unwrap();
    assert!(tail.at_head && tail.events.is_sorted_by_key(|event| event.cursor.position));
    let [change, first, second, third] = &tail.events[..] else { panic!("{tail:?}") };
    let state = change.presence.map(|change| change.state);
    assert_eq!((change.kind, state), (EventKind::Presence, Some(Presence::Online)));
    assert_eq!((first.kind, first.time, first.received), (EventKind::Telemetry, at(0), at(1)));
    assert_eq!(first.readings[0].value, Value::Number(1.5));
    assert_eq!((second.kind, second.time), (EventKind::Heartbeat, at(5)));
    assert_eq!(second.readings[0].metric.as_str(), "rssi");
    assert_eq!((third.time, third.readings.len()), (at(7), 0));
    let known = fresh.storage.metrics(Some(&id)).await.unwrap();
    assert_eq!(known.len(), 1, "what a heartbeat says is no reading: {known:?}");
}

async fn pages_to_the_head(fresh: &mut Fresh) {
    let id = device("fern-1");
    let events: Vec<_> =
        (0..9).map(|n| telemetry("fern-1", n, &[("t", Value::Integer(n))])).collect();
    fresh.storage.append_events(&events).await.unwrap();
    let mut cursor = fresh.storage.range_of(&id).await.unwrap().oldest;
    let mut seen = Vec::new();
    for (count, at_head) in [(4, false), (4, false), (2, true), (0, true)] {
        let tail = fresh.storage.tail_of(&id, cursor, 4).await.unwrap();
        assert_eq!((tail.events.len(), tail.at_head), (count, at_head));
        seen.extend(positions(&tail.events));
        cursor = tail.cursor;
    }
    // The first one says that the device is online.
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    assert_eq!(cursor, fresh.storage.range_of(&id).await.unwrap().newest);
    // A device that nobody has heard of has an empty log, in a partition that others may fill.
    let nobody = device("nobody");
    let newest = fresh.storage.range_of(&nobody).await.unwrap().newest;
    assert!(fresh.storage.tail_of(&nobody, newest, 4).await.unwrap().events.is_empty());
}

async fn cursors_outside_are_refused(fresh: &mut Fresh) {
    let id = device("fern-1");
    fresh.storage.append_events(&[heartbeat("fern-1", 0, vec![])]).await.unwrap();
    let ahead = Cursor { partition: id.partition(), position: 3 };
    fresh.storage.tail_of(&id, ahead, 1).await.unwrap_err();
}

/// Eight writers, each to a device of its own, while a reader follows each device.
async fn concurrent_appends_leave_no_gap(fresh: &mut Fresh) {
    const BATCHES: i64 = 30;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (id, storage) = (format!("device-{writer}"), Arc::clone(&fresh.storage));
        let (reader_id, reader) = (device(&id), Arc::clone(&fresh.storage));
        tasks.spawn(async move {
            for batch in 0..BATCHES {
                let event =
                    |n| telemetry(&id, batch * 3 + n, &[("t", Value::Integer(batch * 3 + n))]);
                storage.append_events(&[event(0), event(1), event(2)]).await.unwrap();
            }
        });
        tasks.spawn(async move {
            let mut cursor = reader.range_of(&reader_id).await.unwrap().oldest;
            let mut seen = Vec::new();
            while seen.len() < usize::try_from(BATCHES * 3).unwrap() {
                let tail = reader.tail_of(&reader_id, cursor, 1000).await.unwrap();
                cursor = tail.cursor;
                let events = tail.events.into_iter().filter(|event| event.presence.is_none());
                seen.extend(events.map(|event| event.readings[0].value.clone()));
            }
            let expected: Vec<_> = (0..BATCHES * 3).map(Value::Integer).collect();
            assert_eq!(seen, expected);
        });
    }
    tasks.join_all().await;
}

/// Eight writers to one device, as after a move to another replica; a reader follows in small steps.
async fn writers_to_one_device_lose_nothing_to_a_reader(fresh: &mut Fresh) {
    const EACH: i64 = 25;
    let id = device("fern-1");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let storage = Arc::clone(&fresh.storage);
        tasks.spawn(async move {
            for n in 0..EACH {
                let number = writer * EACH + n;
                let neighbour = format!("neighbour-{}", number % 60);
                let values = [("t", Value::Integer(number))];
                let events =
                    [telemetry("fern-1", number, &values), telemetry(&neighbour, n, &values)];
                storage.append_events(&events).await.unwrap();
            }
        });
    }
    let mut cursor = fresh.storage.range_of(&id).await.unwrap().oldest;
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(8 * EACH).unwrap() {
        let tail = fresh.storage.tail_of(&id, cursor, 7).await.unwrap();
        assert!(tail.events.iter().all(|event| event.cursor.position > cursor.position));
        cursor = tail.cursor;
        let events = tail.events.into_iter().filter(|event| event.presence.is_none());
        seen.extend(events.map(|event| event.readings[0].time));
        tokio::task::yield_now().await;
    }
    tasks.join_all().await;
    assert!(fresh.storage.tail_of(&id, cursor, 7).await.unwrap().events.is_empty());
    seen.sort_unstable();
    assert_eq!(seen, (0..8 * EACH).map(at).collect::<Vec<_>>());
}

async fn pruning_moves_the_horizon(fresh: &mut Fresh) {
    let id = device("fern-1");
    let day = 24 * 60 * 60;
    let events = [0, 1, 2 * day]
        .map(|seconds| telemetry("fern-1", seconds, &[("t", Value::Integer(seconds))]));
    fresh.storage.append_events(&events).await.unwrap();
    let before = fresh.storage.range_of(&id).await.unwrap();
    let first = Cursor { position: 1, ..before.oldest };
    prune_before(&fresh.storage, at(day)).await.unwrap();
    let after = fresh.storage.range_of(&id).await.unwrap();
    assert_eq!((after.oldest.position, after.newest), (3, before.newest));
    fresh.storage.tail_of(&id, first, 10).await.unwrap_err();
    let tail = fresh.storage.tail_of(&id, after.oldest, 10).await.unwrap();
    assert_eq!(positions(&tail.events), [4]);
    let left = super::all(&fresh.storage, "fern-1").await;
    assert_eq!(left.len(), 1, "{left:?}");
    // What was pruned may come again, and is stored again.
    fresh.storage.append_events(&events[..1]).await.unwrap();
    assert_eq!(super::all(&fresh.storage, "fern-1").await.len(), 2);
    // Nothing to do is nothing wrong.
    prune_before(&fresh.storage, at(-day)).await.unwrap();
}
