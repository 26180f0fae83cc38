//! When readings are said to have been measured.

use telemetry_model::{DeviceClock, Event, EventKind, TimeSource, Timestamp, Value};

use super::{Fresh, all, at, device, on_each_backend, sample};

on_each_backend!(
    clocks_that_cannot_be_believed,
    samples_without_a_time_do_not_collide,
    uptime_lands_at_true_time_and_twice_is_once,
    a_boot_is_decided_once_for_all_processes,
    counts_that_are_seconds,
);

fn event(received: Timestamp, clocks: &[DeviceClock], value: i64) -> Event {
    let sample = |clock: &DeviceClock| sample(*clock, &[("t", Value::Integer(value))]);
    let samples = clocks.iter().map(sample).collect();
    Event { device: device("esp"), kind: EventKind::Telemetry, received, samples }
}

async fn times(fresh: &Fresh) -> Vec<(Timestamp, TimeSource)> {
    all(&fresh.storage, "esp").await.iter().map(|r| (r.time, r.time_source)).collect()
}

async fn clocks_that_cannot_be_believed(fresh: &mut Fresh) {
    let clock = |text| DeviceClock::Wall(Timestamp::parse(text).unwrap());
    let events = [
        event(at(0), &[clock("1970-01-01T00:00:07Z")], 1),
        event(at(1), &[clock("2200-01-01T00:00:00Z")], 2),
        event(at(2), &[DeviceClock::Wall(at(2 + 601))], 3),
        event(at(3), &[DeviceClock::Wall(at(3 + 599))], 4),
        event(at(4), &[clock("2012-01-01T00:00:00Z")], 5),
    ];
    fresh.storage.append(&events).await.unwrap();
    let old = Timestamp::parse("2012-01-01T00:00:00Z").unwrap();
    let expected = [
        (old, TimeSource::Device),
        (at(0), TimeSource::Received),
        (at(1), TimeSource::Received),
        (at(2), TimeSource::Received),
        (at(602), TimeSource::Device),
    ];
    assert_eq!(times(fresh).await, expected);
}

async fn samples_without_a_time_do_not_collide(fresh: &mut Fresh) {
    fresh.storage.append(&[event(at(0), &[DeviceClock::None; 5], 1)]).await.unwrap();
    let expected: Vec<_> = (0..5)
        .map(|n| (Timestamp::from_micros(at(0).micros() + n).unwrap(), TimeSource::Received))
        .collect();
    assert_eq!(times(fresh).await, expected);
}

/// A life of two boots, told minute by minute, then told again all at once.
async fn uptime_lands_at_true_time_and_twice_is_once(fresh: &mut Fresh) {
    let count = |seconds: i64| DeviceClock::Counter(u32::try_from(seconds * 1000).unwrap());
    let told: Vec<_> = (1..=60_i64)
        .map(|minute| {
            // It reboots after half an hour, and is back half a minute later.
            let uptime = if minute <= 30 { minute * 60 } else { (minute - 30) * 60 - 30 };
            (minute * 60, count(uptime), minute)
        })
        .collect();
    for (seconds, clock, value) in &told {
        fresh.storage.append(&[event(at(*seconds), &[*clock], *value)]).await.unwrap();
    }
    let expected: Vec<_> =
        told.iter().map(|(seconds, ..)| (at(*seconds), TimeSource::Uptime)).collect();
    assert_eq!(times(fresh).await, expected);
    fresh.reopen().await;
    let again = told.iter().map(|(_, clock, value)| event(at(3700), &[*clock], *value));
    let outcome = fresh.storage.append(&again.collect::<Vec<_>>()).await.unwrap();
    assert!(outcome.iter().all(|appended| appended.duplicates == 1), "{outcome:?}");
    assert_eq!(times(fresh).await, expected);
}

async fn a_boot_is_decided_once_for_all_processes(fresh: &mut Fresh) {
    let late = |seconds, uptime_s: u32, value| {
        event(at(seconds), &[DeviceClock::Counter(uptime_s * 1000)], value)
    };
    fresh.storage.append(&[late(60, 60, 1)]).await.unwrap();
    let other = super::open(&fresh.url, &fresh.background).await.unwrap();
    // Through another process, and an hour late: by the boot that the first one decided.
    other.append(&[late(3720, 120, 2)]).await.unwrap();
    fresh.storage.append(&[late(3721, 180, 3)]).await.unwrap();
    let expected = [60, 120, 180].map(|seconds| (at(seconds), TimeSource::Uptime));
    assert_eq!(times(fresh).await, expected);
    other.close().await;
}

async fn counts_that_are_seconds(fresh: &mut Fresh) {
    let seconds = u32::try_from(at(0).micros() / 1_000_000).unwrap();
    fresh.storage.append(&[event(at(10), &[DeviceClock::Counter(seconds)], 1)]).await.unwrap();
    assert_eq!(times(fresh).await, [(at(0), TimeSource::Device)]);
}
