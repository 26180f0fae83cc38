//! What is stored, and what an append answers.

use std::time::Duration;

use telemetry_model::{DeviceClock, EventKind, Value};
use tokio::time::timeout;

use super::{Fresh, POLICY, all, at, device, heartbeat, on_each_backend, sample, telemetry};
use crate::storage::{
    Commit, open,
    testing::{AppendEvents, Appended, DeviceLog},
};

on_each_backend!(
    every_type_comes_back,
    repeated_readings_are_counted_not_stored,
    repeats_within_a_batch,
    large_events,
    names_survive_a_restart,
    last_seen,
    how_far_clocks_are_ahead,
    other_processes_hear_of_commits,
);

/// Not on the Community edition as the tests have it: all connections share one session there, which
/// one that is cut off in mid-statement may leave busy for ever.
mod cut_off {
    use super::{Fresh, an_append_that_is_cut_off_leaves_nothing};

    #[tokio::test]
    async fn sqlite() {
        let mut fresh = Fresh::sqlite().await;
        an_append_that_is_cut_off_leaves_nothing(&mut fresh).await;
        fresh.close().await;
    }

    #[tokio::test]
    async fn timescaledb() {
        let mut fresh = Fresh::timescaledb().await;
        an_append_that_is_cut_off_leaves_nothing(&mut fresh).await;
        fresh.close().await;
    }
}

fn stored(stored: u64, duplicates: u64, conflicts: u64) -> Appended {
    Appended { stored, duplicates, conflicts }
}

async fn every_type_comes_back(fresh: &mut Fresh) {
    let values = [
        ("a number", Value::Number(-1.5e300)),
        ("b integer", Value::Integer(i64::MIN)),
        ("c flag", Value::Flag(true)),
        ("d text", Value::text("grün \u{1F331} 'quoted' \"\\").unwrap()),
        ("e zero", Value::Number(0.0)),
        ("f empty", Value::text("").unwrap()),
    ];
    let outcome = fresh.storage.append_events(&[telemetry("grün-1", 0, &values)]).await.unwrap();
    assert_eq!(outcome, [stored(6, 0, 0)]);
    let readings = all(&fresh.storage, "grün-1").await;
    let read: Vec<_> = readings.iter().map(|r| (r.metric.as_str(), r.value.clone())).collect();
    assert_eq!(read, values);
    assert!(readings.iter().all(|reading| reading.time == at(0)));
}

async fn repeated_readings_are_counted_not_stored(fresh: &mut Fresh) {
    let first = telemetry("fern-1", 0, &[("t", Value::Integer(45)), ("h", Value::Flag(true))]);
    let events = [first.clone(), telemetry("moss-1", 0, &[("t", Value::Number(1.0))])];
    assert_eq!(
        fresh.storage.append_events(&events).await.unwrap(),
        [stored(2, 0, 0), stored(1, 0, 0)]
    );
    assert_eq!(
        fresh.storage.append_events(&events).await.unwrap(),
        [stored(0, 2, 0), stored(0, 1, 0)]
    );
    // One the same though written as a number, one different, one new; and a neighbour that is new.
    let values = [("t", Value::Number(45.0)), ("h", Value::Flag(false)), ("x", Value::Integer(1))];
    let mixed = [telemetry("fern-1", 0, &values), telemetry("moss-1", 1, &values)];
    assert_eq!(
        fresh.storage.append_events(&mixed).await.unwrap(),
        [stored(1, 1, 1), stored(3, 0, 0)]
    );
    let readings = all(&fresh.storage, "fern-1").await;
    assert_eq!(readings.len(), 3);
    assert_eq!(readings[0].value, Value::Flag(true), "the first value stays");
    // Only what was new is in the log, after the device coming online.
    let log = fresh.storage.range_of(&device("fern-1")).await.unwrap();
    let tail = fresh.storage.tail_of(&device("fern-1"), log.oldest, 10).await.unwrap();
    let logged: Vec<_> = tail.events.iter().map(|event| event.readings.len()).collect();
    assert_eq!(logged, [0, 2, 1]);
}

async fn repeats_within_a_batch(fresh: &mut Fresh) {
    let event = |value| telemetry("fern-1", 0, &[("t", Value::Integer(value))]);
    let outcome = fresh.storage.append_events(&[event(1), event(1), event(2)]).await.unwrap();
    assert_eq!(outcome, [stored(1, 0, 0), stored(0, 1, 0), stored(0, 0, 1)]);
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 1);
}

async fn an_append_that_is_cut_off_leaves_nothing(fresh: &mut Fresh) {
    let events: Vec<_> =
        (0..2000).map(|n| telemetry("fern-1", n, &[("t", Value::Integer(n))])).collect();
    for polls in 1..40 {
        let append = fresh.storage.append_events(&events);
        tokio::pin!(append);
        for _ in 0..polls {
            if futures::poll!(&mut append).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let outcome = fresh.storage.append_events(&events).await.unwrap();
    let sum: u64 = outcome.iter().map(|appended| appended.stored + appended.duplicates).sum();
    assert_eq!(sum, 2000);
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 2000);
    let log = fresh.storage.range_of(&device("fern-1")).await.unwrap();
    let tail = fresh.storage.tail_of(&device("fern-1"), log.oldest, 5000).await.unwrap();
    assert_eq!(tail.events.len(), 2001);
}

async fn large_events(fresh: &mut Fresh) {
    let names: Vec<_> = (0..1000).map(|n| format!("m{n:04}")).collect();
    let values: Vec<_> = names.iter().map(|name| (name.as_str(), Value::Number(0.5))).collect();
    let events: Vec<_> = (0..10).map(|n| telemetry("fern-1", n, &values)).collect();
    for expected in [stored(1000, 0, 0), stored(0, 1000, 0)] {
        let appended = fresh.storage.append_events(&events).await.unwrap();
        assert!(appended.iter().all(|appended| *appended == expected), "{appended:?}");
    }
    assert_eq!(fresh.storage.metrics(Some(&device("fern-1"))).await.unwrap().len(), 1000);
}

async fn names_survive_a_restart(fresh: &mut Fresh) {
    let values = [("t", Value::Integer(1))];
    fresh.storage.append_events(&[telemetry("fern-1", 0, &values)]).await.unwrap();
    fresh.reopen().await;
    let again = [telemetry("fern-1", 0, &values), telemetry("moss-1", 0, &values)];
    let outcome = fresh.storage.append_events(&again).await.unwrap();
    assert_eq!(outcome, [stored(0, 1, 0), stored(1, 0, 0)]);
}

async fn last_seen(fresh: &mut Fresh) {
    let events = [
        telemetry("fern-1", 0, &[("t", Value::Integer(1))]),
        heartbeat("fern-1", 50, vec![]),
        telemetry("fern-1", 10, &[("t", Value::Integer(2))]),
        heartbeat("moss-1", 7, vec![sample(DeviceClock::None, &[])]),
    ];
    fresh.storage.append_events(&events).await.unwrap();
    for _ in 0..2 {
        let fern = fresh.storage.device(&device("fern-1")).await.unwrap().unwrap();
        assert_eq!((fern.first_seen, fern.last_seen), (at(1), at(50)));
        assert_eq!(fern.last_heartbeat, Some(at(50)));
        let moss = fresh.storage.device(&device("moss-1")).await.unwrap().unwrap();
        assert_eq!((moss.last_seen, moss.last_heartbeat), (at(7), Some(at(7))));
        // Now from the database, and an older message changes nothing.
        fresh.storage.flush_devices(at(0)).await.unwrap();
        fresh.reopen().await;
        fresh
            .storage
            .append_events(&[telemetry("fern-1", 20, &[("t", Value::Flag(true))])])
            .await
            .unwrap();
    }
    assert_eq!(events[1].kind, EventKind::Heartbeat);
    assert_eq!(fresh.storage.device(&device("nobody")).await.unwrap(), None);
}

async fn how_far_clocks_are_ahead(fresh: &mut Fresh) {
    let told = |seconds: i64, clocks: &[DeviceClock]| {
        let sample = |clock: &DeviceClock| sample(*clock, &[("t", Value::Integer(seconds))]);
        heartbeat("fern-1", seconds, clocks.iter().map(sample).collect())
    };
    let skew = async |fresh: &Fresh| {
        fresh.storage.device(&device("fern-1")).await.unwrap().unwrap().clock_skew_us
    };
    for (event, expected) in [
        (told(0, &[DeviceClock::None]), None),
        (told(1, &[DeviceClock::Counter(5)]), None),
        (told(2, &[DeviceClock::Wall(at(4))]), Some(2_000_000)),
        (told(3, &[]), Some(2_000_000)),
        // Not believed; then late, or behind.
        (told(4, &[DeviceClock::Wall(at(4 + 3600))]), Some(3_600_000_000)),
        (telemetry("fern-1", 5, &[("t", Value::Integer(1))]), Some(-1_000_000)),
        (told(9, &[DeviceClock::None]), Some(-1_000_000)),
    ] {
        fresh.storage.append_events(&[event]).await.unwrap();
        assert_eq!(skew(fresh).await, expected);
        fresh.storage.flush_devices(at(0)).await.unwrap();
        fresh.reopen().await;
        assert_eq!(skew(fresh).await, expected);
    }
    // What was received last counts, in whatever order it comes.
    let events = [told(20, &[DeviceClock::Wall(at(21))]), told(19, &[DeviceClock::Wall(at(25))])];
    fresh.storage.append_events(&events).await.unwrap();
    assert_eq!(skew(fresh).await, Some(1_000_000));
}

async fn other_processes_hear_of_commits(fresh: &mut Fresh) {
    let mut own = fresh.storage.commits();
    let event = |seconds| [telemetry("fern-1", seconds, &[("t", Value::Integer(1))])];
    if fresh.database.as_ref().is_some_and(|database| database.server.is_some()) {
        let other = open(&fresh.url, POLICY, &fresh.background).await.unwrap();
        let mut heard = other.commits();
        // Whether it listens yet, only hearing something tells.
        let mut seconds = 0;
        let partitions = loop {
            seconds += 1;
            assert!(seconds < 150, "nothing is heard");
            fresh.storage.append_events(&event(seconds)).await.unwrap();
            match timeout(Duration::from_millis(200), heard.recv()).await {
                Ok(Ok(Commit::Partitions(partitions))) => break partitions,
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        };
        assert_eq!(partitions[..], [device("fern-1").partition()]);
        other.close().await;
    } else {
        fresh.storage.append_events(&event(0)).await.unwrap();
    }
    loop {
        if let Commit::Devices(devices) = own.recv().await.unwrap() {
            assert_eq!(devices[..], [device("fern-1")]);
            break;
        }
    }
}
