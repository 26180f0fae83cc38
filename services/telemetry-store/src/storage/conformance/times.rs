//! When readings are said to have been measured.

use std::time::Duration;

use sqlx::{Connection, PgConnection, SqliteConnection};
use telemetry_model::{DeviceClock, Event, EventKind, TimeSource, Timestamp, Value};

use super::{Fresh, all, at, device, on_each_backend, sample};
use crate::storage::testing::AppendEvents;

on_each_backend!(
    clocks_that_cannot_be_believed,
    samples_without_a_time_do_not_collide,
    uptime_lands_at_true_time_and_twice_is_once,
    the_counter_wraps_and_time_goes_on,
    uptime_sent_twice_in_a_batch_is_once,
    a_boot_is_decided_once_for_all_processes,
    counts_that_are_seconds,
    lives_played_fast_thrice_are_stored_once,
    a_reboot_in_a_late_backlog,
    boots_that_are_over_are_forgotten,
);

fn event(received: Timestamp, clocks: &[DeviceClock], value: i64) -> Event {
    let sample = |clock: &DeviceClock| sample(*clock, &[("t", Value::Integer(value))]);
    let samples = clocks.iter().map(sample).collect();
    Event { device: device("esp"), kind: EventKind::Telemetry, received, samples, trace: None }
}

async fn times(fresh: &Fresh) -> Vec<(Timestamp, TimeSource)> {
    all(&fresh.storage, "esp").await.iter().map(|r| (r.time, r.time_source)).collect()
}

const DAY: i64 = 24 * 60 * 60;

async fn clocks_that_cannot_be_believed(fresh: &mut Fresh) {
    let clock = |text| DeviceClock::Wall(Timestamp::parse(text).unwrap());
    let events = [
        event(at(0), &[clock("1970-01-01T00:00:07Z")], 1),
        event(at(1), &[clock("2200-01-01T00:00:00Z")], 2),
        event(at(2), &[DeviceClock::Wall(at(2 + 601))], 3),
        event(at(3), &[DeviceClock::Wall(at(3 + 599))], 4),
        event(at(4), &[DeviceClock::Wall(at(-9 * DAY))], 5),
    ];
    fresh.storage.append_events(&events).await.unwrap();
    let expected = [
        (at(-9 * DAY), TimeSource::Device),
        (at(0), TimeSource::Received),
        (at(1), TimeSource::Received),
        (at(2), TimeSource::Received),
        (at(602), TimeSource::Device),
    ];
    assert_eq!(times(fresh).await, expected);
}

async fn samples_without_a_time_do_not_collide(fresh: &mut Fresh) {
    fresh.storage.append_events(&[event(at(0), &[DeviceClock::None; 5], 1)]).await.unwrap();
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
        fresh.storage.append_events(&[event(at(*seconds), &[*clock], *value)]).await.unwrap();
    }
    let expected: Vec<_> =
        told.iter().map(|(seconds, ..)| (at(*seconds), TimeSource::Uptime)).collect();
    assert_eq!(times(fresh).await, expected);
    fresh.reopen().await;
    let again = told.iter().map(|(_, clock, value)| event(at(3700), &[*clock], *value));
    let outcome = fresh.storage.append_events(&again.collect::<Vec<_>>()).await.unwrap();
    assert!(outcome.iter().all(|appended| appended.duplicates == 1), "{outcome:?}");
    assert_eq!(times(fresh).await, expected);
}

/// 49.7 days after it booted, a minute at a time; then all of it again.
async fn the_counter_wraps_and_time_goes_on(fresh: &mut Fresh) {
    let told: Vec<_> = (0..10_u32)
        .map(|minute| {
            let count = (u32::MAX - 5 * 60_000 + 1).wrapping_add(minute * 60_000);
            (i64::from(minute) * 60, DeviceClock::Counter(count))
        })
        .collect();
    for (seconds, clock) in &told {
        fresh.storage.append_events(&[event(at(*seconds), &[*clock], *seconds)]).await.unwrap();
    }
    let expected: Vec<_> =
        told.iter().map(|(seconds, _)| (at(*seconds), TimeSource::Uptime)).collect();
    assert_eq!(times(fresh).await, expected);
    let again = told.iter().map(|(seconds, clock)| event(at(1000 + seconds), &[*clock], *seconds));
    let outcome = fresh.storage.append_events(&again.collect::<Vec<_>>()).await.unwrap();
    assert!(outcome.iter().all(|appended| appended.duplicates == 1), "{outcome:?}");
    assert_eq!(times(fresh).await, expected);
}

/// Nothing of the boot is in the database yet when the message comes for the second time.
async fn uptime_sent_twice_in_a_batch_is_once(fresh: &mut Fresh) {
    let told = [(60, 60_000), (61, 60_000), (120, 120_000), (121, 60_000), (122, 120_000)];
    let events = told.map(|(seconds, count)| {
        event(at(seconds), &[DeviceClock::Counter(count)], i64::from(count))
    });
    let outcome = fresh.storage.append_events(&events).await.unwrap();
    let new: Vec<_> = outcome.iter().map(|appended| appended.stored).collect();
    assert_eq!(new, [1, 0, 1, 0, 0]);
    let expected = [60, 120].map(|seconds| (at(seconds), TimeSource::Uptime));
    assert_eq!(times(fresh).await, expected);
}

async fn a_boot_is_decided_once_for_all_processes(fresh: &mut Fresh) {
    let late = |seconds, uptime_s: u32, value| {
        event(at(seconds), &[DeviceClock::Counter(uptime_s * 1000)], value)
    };
    fresh.storage.append_events(&[late(60, 60, 1)]).await.unwrap();
    let other = super::open(&fresh.url, super::POLICY, &fresh.background).await.unwrap();
    // Through another process, and an hour late: by the boot that the first one decided.
    other.append_events(&[late(3720, 120, 2)]).await.unwrap();
    fresh.storage.append_events(&[late(3721, 180, 3)]).await.unwrap();
    let expected = [60, 120, 180].map(|seconds| (at(seconds), TimeSource::Uptime));
    assert_eq!(times(fresh).await, expected);
    other.close().await;
}

async fn counts_that_are_seconds(fresh: &mut Fresh) {
    let seconds = u32::try_from(at(0).micros() / 1_000_000).unwrap();
    fresh
        .storage
        .append_events(&[event(at(10), &[DeviceClock::Counter(seconds)], 1)])
        .await
        .unwrap();
    assert_eq!(times(fresh).await, [(at(0), TimeSource::Device)]);
    let ahead = DeviceClock::Counter(seconds + 3600);
    fresh.storage.append_events(&[event(at(11), &[ahead], 2)]).await.unwrap();
    assert_eq!(times(fresh).await[1], (at(11), TimeSource::Received));
}

/// Two devices, each with a run of 40 minutes, one of 5, and one that passes the wrap, within a
/// second; all of it three times.
async fn lives_played_fast_thrice_are_stored_once(fresh: &mut Fresh) {
    let minutes = (1..=40_u32).chain(1..=5).map(|minute| minute * 60_000);
    let wrap = (1..=10_u32).map(|minute| (minute * 60_000).wrapping_sub(300_000));
    let counts: Vec<_> = minutes.chain(wrap).collect();
    for size in [1, 7, 1000] {
        let devices = ["a", "b"].map(|name| device(&format!("{name}-{size}")));
        let mut events = Vec::new();
        for _ in 0..3 {
            for (count, value) in counts.iter().zip(0..) {
                for device in &devices {
                    let received = at(0).plus(Duration::from_millis(events.len() as u64));
                    let event = event(received, &[DeviceClock::Counter(*count)], value);
                    events.push(Event { device: device.clone(), ..event });
                }
            }
        }
        for batch in events.chunks(size) {
            fresh.storage.append_events(batch).await.unwrap();
        }
        for device in &devices {
            let readings = all(&fresh.storage, device.as_str()).await;
            let values: Vec<_> = readings.iter().map(|reading| reading.value.clone()).collect();
            let expected = (0..55).map(Value::Integer).collect::<Vec<_>>();
            assert_eq!(values, expected, "in batches of {size}");
            assert!(readings.iter().all(|reading| reading.time_source == TimeSource::Uptime));
            assert!(readings.iter().all(|r| r.time > at(-DAY) && r.time < at(60)), "{readings:?}");
        }
    }
}

/// An hour by the minute, of which the last 40 came late, after a reboot in the middle.
async fn a_reboot_in_a_late_backlog(fresh: &mut Fresh) {
    let message = |minute: u32, seconds| {
        let uptime = if minute <= 30 { minute * 60_000 } else { (minute - 30) * 60_000 - 5000 };
        event(at(seconds), &[DeviceClock::Counter(uptime)], i64::from(minute))
    };
    for minute in 1..=20 {
        fresh.storage.append_events(&[message(minute, i64::from(minute) * 60)]).await.unwrap();
    }
    let late: Vec<_> = (21..=60).map(|minute| message(minute, 3600)).collect();
    for _ in 0..2 {
        fresh.storage.append_events(&late).await.unwrap();
        let expected: Vec<_> =
            (1..=60).map(|minute| (at(minute * 60), TimeSource::Uptime)).collect();
        assert_eq!(times(fresh).await, expected);
    }
}

async fn boots_that_are_over_are_forgotten(fresh: &mut Fresh) {
    for hour in 0..30 {
        let event = event(at(hour * 3600), &[DeviceClock::Counter(5000)], hour);
        fresh.storage.append_events(&[event]).await.unwrap();
    }
    let boots = "SELECT count(*) FROM device_boots";
    let boots: i64 = if fresh.database.is_some() {
        let mut connection = PgConnection::connect(fresh.database_url()).await.unwrap();
        sqlx::query_scalar(boots).fetch_one(&mut connection).await.unwrap()
    } else {
        let mut connection = SqliteConnection::connect(fresh.database_url()).await.unwrap();
        sqlx::query_scalar(boots).fetch_one(&mut connection).await.unwrap()
    };
    assert_eq!(boots, 26);
}
