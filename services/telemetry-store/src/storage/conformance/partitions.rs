//! The log of many devices: one moment, every partition, where a time lies in it.

use std::collections::BTreeSet;

use telemetry_model::{DeviceId, Partition, Positions, Value};

use super::{Fresh, at, device, on_each_backend, prune_before, telemetry};
use crate::storage::{LogPage, LogQuery, testing::AppendEvents};

on_each_backend!(
    many_devices_are_read_in_pages,
    some_devices_are_read_without_the_others,
    a_position_outside_is_told_of,
    a_time_is_found,
);

/// `devices` times `each` events, a commit each.
async fn fill(fresh: &Fresh, devices: i64, each: i64) {
    for n in 0..each {
        let event = |id| telemetry(&format!("d-{id}"), n, &[("t", Value::Integer(n))]);
        let events: Vec<_> = (0..devices).map(event).collect();
        fresh.storage.append_events(&events).await.unwrap();
    }
}

async fn read(
    fresh: &Fresh,
    devices: Option<&BTreeSet<DeviceId>>,
    after: &Positions,
    limit: usize,
) -> Option<LogPage> {
    let partitions: Vec<_> = Partition::all().collect();
    let query = LogQuery { partitions: &partitions, devices, after, limit };
    fresh.storage.log_after(&query).await.unwrap()
}

/// Reads to the head in pages; answers each device's values in the order in which they came.
async fn read_all(
    fresh: &Fresh,
    devices: Option<&BTreeSet<DeviceId>>,
) -> Vec<(String, Vec<Value>)> {
    let mut seen = std::collections::BTreeMap::<_, Vec<_>>::new();
    let mut after = fresh.storage.log_range().await.unwrap().oldest;
    loop {
        let page = read(fresh, devices, &after, 3).await.unwrap();
        for event in page.events {
            let partition = event.device.partition();
            assert_eq!(event.cursor.partition, partition);
            assert!(event.cursor.position > after.get(partition));
            let values = event.readings.iter().map(|reading| reading.value.clone());
            seen.entry(event.device.to_string()).or_default().extend(values);
        }
        after = page.upto;
        if page.at_head {
            assert_eq!(after, fresh.storage.log_range().await.unwrap().newest);
            return seen.into_iter().collect();
        }
    }
}

async fn many_devices_are_read_in_pages(fresh: &mut Fresh) {
    fill(fresh, 100, 7).await;
    let seen = read_all(fresh, None).await;
    assert_eq!(seen.len(), 100);
    let expected: Vec<_> = (0..7).map(Value::Integer).collect();
    assert!(seen.iter().all(|(_, values)| *values == expected), "{seen:?}");
}

async fn some_devices_are_read_without_the_others(fresh: &mut Fresh) {
    fill(fresh, 100, 7).await;
    let some: BTreeSet<_> = (0..40).map(|n| device(&format!("d-{n}"))).collect();
    let mut asked = some.clone();
    asked.insert(device("nobody"));
    let seen = read_all(fresh, Some(&asked)).await;
    let expected: Vec<_> = (0..7).map(Value::Integer).collect();
    assert!(seen.iter().all(|(_, values)| *values == expected), "{seen:?}");
    let seen: Vec<_> = seen.into_iter().map(|(id, _)| id).collect();
    assert_eq!(seen, some.iter().map(ToString::to_string).collect::<Vec<_>>());
}

async fn a_position_outside_is_told_of(fresh: &mut Fresh) {
    fill(fresh, 100, 2).await;
    let mut ahead = fresh.storage.log_range().await.unwrap().newest;
    assert!(read(fresh, None, &ahead, 3).await.unwrap().events.is_empty());
    let partition = device("d-0").partition();
    ahead.advance(partition, ahead.get(partition) + 1);
    assert!(read(fresh, None, &ahead, 3).await.is_none());
    let query = LogQuery {
        partitions: &[device("d-1").partition()],
        devices: None,
        after: &ahead,
        limit: 3,
    };
    assert_ne!(device("d-1").partition(), partition);
    assert!(fresh.storage.log_after(&query).await.unwrap().is_some(), "that one is not asked for");
}

async fn a_time_is_found(fresh: &mut Fresh) {
    const DAY: i64 = 24 * 60 * 60;
    let ids = ["fern-1", "moss-1"].map(device);
    assert_ne!(ids[0].partition(), ids[1].partition());
    for seconds in [0, 10, 3 * DAY, 3 * DAY + 10, 3 * DAY + 5] {
        // Received a second later, the last one late.
        let events = ids
            .clone()
            .map(|id| telemetry(id.as_str(), seconds, &[("t", Value::Integer(seconds))]));
        fresh.storage.append_events(&events).await.unwrap();
    }
    // The first two, received at once, are the device's coming online and its first message.
    for (time, before) in
        [(-DAY, 0), (1, 0), (2, 2), (DAY, 3), (3 * DAY + 2, 4), (3 * DAY + 8, 4), (4 * DAY, 6)]
    {
        let partitions = ids.clone().map(|id| id.partition());
        let found = fresh.storage.log_since(&partitions, at(time)).await.unwrap();
        for partition in partitions {
            assert_eq!(found.get(partition), before, "{time}");
        }
        let other = Partition::all().find(|partition| !partitions.contains(partition)).unwrap();
        assert_eq!(found.get(other), 0, "an empty one begins at its head");
    }
    prune_before(&fresh.storage, at(2 * DAY)).await.unwrap();
    let partition = ids[0].partition();
    let found = fresh.storage.log_since(&[partition], at(-DAY)).await.unwrap();
    assert_eq!(
        found.get(partition),
        fresh.storage.log_range().await.unwrap().oldest.get(partition)
    );
}
