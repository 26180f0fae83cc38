//! A device's life as its counter tells it, against the true times.

use std::{cell::RefCell, collections::HashMap};

use proptest::prelude::*;
use telemetry_model::Timestamp;

use super::*;

const WRAP: u64 = 1 << 32;

fn at(ms: u64) -> Timestamp {
    // 2026-01-07T12:00:00Z plus so many milliseconds.
    Timestamp::from_micros(1_767_787_200_000_000).unwrap().plus(Duration::from_millis(ms))
}

/// A store of samples (here: one number each) with the clock in front of it.
#[derive(Default)]
struct Store {
    clock: UptimeClock,
    rows: RefCell<HashMap<Timestamp, u32>>,
}

impl Store {
    /// Places a sample received at `ms`; answers its time.
    fn send(&mut self, counter: u64, value: u32, ms: u64) -> (Timestamp, TimeSource) {
        let counter = u32::try_from(counter % WRAP).unwrap();
        let rows = &self.rows;
        let placed =
            self.clock.place(counter, at(ms), |time| rows.borrow().get(&time) == Some(&value));
        rows.borrow_mut().entry(placed.0).or_insert(value);
        placed
    }

    fn rows(&self) -> usize {
        self.rows.borrow().len()
    }
}

#[test]
fn steady_uptime_lands_at_true_time() {
    let mut store = Store::default();
    for minute in 1..=100 {
        let ms = minute * 60_000;
        assert_eq!(store.send(ms, 0, ms), (at(ms), TimeSource::Uptime));
    }
}

#[test]
fn a_message_that_waited_in_the_broker_keeps_its_time() {
    let mut store = Store::default();
    store.send(60_000, 1, 60_000);
    for minute in 2..600 {
        let (time, _) = store.send(minute * 60_000, 2, 36_000_000 + minute);
        assert_eq!(time, at(minute * 60_000));
    }
}

#[test]
fn the_counter_going_back_is_a_reboot() {
    let mut store = Store::default();
    store.send(600_000, 1, 600_000);
    assert_eq!(store.send(5_000, 2, 700_000).0, at(700_000));
    assert_eq!(store.send(65_000, 3, 760_000).0, at(760_000));
    assert_eq!(store.clock.boots.len(), 2);
}

#[test]
fn the_wrap_is_no_reboot() {
    let mut store = Store::default();
    let start = WRAP - 90_000;
    for step in 0..10 {
        let ms = step * 60_000;
        assert_eq!(store.send(start + ms, 1, ms).0, at(ms));
    }
    assert_eq!(store.clock.boots.len(), 1);
}

#[test]
fn a_reboot_near_the_wrap_is_a_reboot() {
    let mut store = Store::default();
    store.send(WRAP - 12 * 3_600_000, 1, 0);
    assert_eq!(store.send(60_000, 2, 120_000).0, at(120_000));
    assert_eq!(store.clock.boots.len(), 2);
}

#[test]
fn a_sequence_sent_all_at_once_goes_forward_and_twice_is_stored_once() {
    let counters = [60_000, 120_000, 180_000, 30_000, 90_000, WRAP - 60_000, WRAP - 1, 59_999];
    let mut store = Store::default();
    let send_all = |store: &mut Store| {
        let sent =
            counters.iter().zip(0..).map(|(counter, n)| store.send(*counter, n, u64::from(n)));
        sent.collect::<Vec<_>>()
    };
    let first = send_all(&mut store);
    assert!(first.is_sorted_by(|a, b| a.0 < b.0), "{first:?}");
    assert!(first.iter().all(|placed| placed.1 == TimeSource::Uptime), "{first:?}");
    assert_eq!(send_all(&mut store), first);
    assert_eq!(store.rows(), counters.len());
}

#[test]
fn seconds_since_1970_are_told_from_uptime() {
    let mut store = Store::default();
    let seconds = 1_767_787_100;
    let time = Timestamp::from_micros(1_767_787_100_000_000).unwrap();
    assert_eq!(store.send(seconds, 1, 0), (time, TimeSource::Device));
    // Uptime of 18.5 days, on from where it would be 2020 in seconds.
    store = Store::default();
    store.send(1_600_000_000, 1, 0);
    let ms = 150_000_000 - 1;
    assert_eq!(store.send(1_600_000_000 + ms, 2, ms).0, at(ms));
}

#[test]
fn a_mistaken_reboot_heals() {
    let mut store = Store::default();
    store.send(600_000, 1, 600_000);
    // An older message overtaken on another path: taken for a reboot.
    store.send(540_000, 2, 600_100);
    // The next one continues the first boot again.
    assert_eq!(store.send(660_000, 3, 660_000).0, at(660_000));
    assert_eq!(store.send(720_000, 4, 720_000).0, at(720_000));
}

#[test]
fn heartbeats_follow_but_decide_nothing() {
    let mut store = Store::default();
    assert_eq!(store.clock.place_heartbeat(5_000, at(0)), (at(0), TimeSource::Received));
    store.send(60_000, 1, 60_000);
    assert_eq!(store.clock.place_heartbeat(61_000, at(61_500)), (at(61_000), TimeSource::Uptime));
    assert_eq!(store.clock.changed().count(), 1);
}

proptest! {
    /// Whatever a device does within reason, each time is true to within what the network added,
    /// and sending everything again stores nothing new.
    #[test]
    fn times_are_true_and_repeatable(
        steps in prop::collection::vec((500..1_000_000_u64, 0..1_500_u64, prop::bool::weighted(0.1)), 1..60),
        start in prop_oneof![0..100_000_u64, WRAP - 3_600_000..WRAP],
    ) {
        let mut store = Store::default();
        let (mut now, mut uptime, mut sent) = (0, start, Vec::new());
        for (value, (step, delay, reboot)) in (0..).zip(steps) {
            now += step;
            // A reboot shows only if the count goes back, and not where it is about to wrap.
            let shows = reboot && uptime % WRAP > 2 && start < 100_000;
            uptime = if shows { (step / 2).min(uptime - 1) } else { uptime + step };
            let (time, source) = store.send(uptime, value, now + delay);
            let error = time.micros().abs_diff(at(now).micros());
            prop_assert!(source == TimeSource::Uptime && error <= 2_000_000, "{time} at {}", at(now));
            sent.push((uptime, value));
        }
        let rows = store.rows();
        for (uptime, value) in sent {
            store.send(uptime, value, now + 1_500);
        }
        prop_assert_eq!(store.rows(), rows);
    }
}
