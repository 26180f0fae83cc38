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

/// A count, what was measured (here: one number), and when it was received.
type Message = (u64, u32, u64);

/// A store of samples with the clock in front of it.
#[derive(Default)]
struct Store {
    clock: UptimeClock,
    rows: RefCell<HashMap<Timestamp, u32>>,
}

impl Store {
    /// Places a sample received at `ms`; answers its time.
    fn send(&mut self, counter: u64, value: u32, ms: u64) -> (Timestamp, TimeSource) {
        self.send_batch(&[(counter, value, ms)])[0]
    }

    /// Places the samples of one batch.
    fn send_batch(&mut self, batch: &[Message]) -> Vec<(Timestamp, TimeSource)> {
        let count = |counter| u32::try_from(counter % WRAP).unwrap();
        let rows = &self.rows;
        let stored = |value| move |time| rows.borrow().get(&time) == Some(&value);
        let told = batch.iter().enumerate().map(|(n, (counter, value, ms))| {
            let (count, received) = (count(*counter), at(*ms));
            let again = batch[..n].iter().any(|(c, v, _)| (c, v) == (counter, value))
                || self.clock.earlier_times(count, received).any(stored(*value));
            (!again).then_some((1, count, received))
        });
        let latest = latest_times(&told.collect::<Vec<_>>());
        let placed = batch.iter().zip(latest).map(|((counter, value, ms), latest)| {
            let (count, received) = (count(*counter), at(*ms));
            let told = Told { count, received, latest: latest.unwrap_or(received) };
            let placed = self.clock.place(told, stored(*value));
            rows.borrow_mut().entry(placed.0).or_insert(*value);
            placed
        });
        placed.collect()
    }

    fn rows(&self) -> usize {
        self.rows.borrow().len()
    }

    /// What is stored, by time.
    fn values(&self) -> Vec<u32> {
        let mut rows: Vec<_> = self.rows.borrow().iter().map(|(time, v)| (*time, *v)).collect();
        rows.sort_unstable();
        rows.into_iter().map(|(_, value)| value).collect()
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

/// Plays a device's life within a second or so, and all of it twice more. It is stored once, and in
/// its order, at about the time of receipt.
fn assert_plays(counts: impl IntoIterator<Item = u64>) {
    let mut messages: Vec<_> =
        counts.into_iter().zip(0..).map(|(count, n)| (count, n, 0)).collect();
    let expected: Vec<_> = messages.iter().map(|(_, value, _)| *value).collect();
    for size in [1, 7, 1000] {
        let (mut store, mut ms) = (Store::default(), 0);
        for pass in 0..3 {
            for message in &mut messages {
                ms += 1;
                message.2 = ms;
            }
            for batch in messages.chunks(size) {
                for (placed, (count, _, received)) in store.send_batch(batch).iter().zip(batch) {
                    let (oldest, newest) = (at(*received).minus(MAX_LATE), at(*received + 5000));
                    let time = placed.0;
                    assert!(pass > 0 || (oldest..=newest).contains(&time), "{count}: {time}");
                    assert_eq!(placed.1, TimeSource::Uptime);
                }
            }
            assert_eq!(store.values(), expected, "pass {pass} in batches of {size}");
            store.clock.forget(at(ms));
        }
    }
}

#[test]
fn a_life_played_fast_goes_forward_and_thrice_is_stored_once() {
    let minutes = |range: std::ops::RangeInclusive<u64>| range.map(|minute| minute * 60_000);
    for steps in [2, 10, 11, 12, 18, 19, 400] {
        assert_plays(minutes(1..=steps));
    }
    let wrap = || (1..=10).map(|step| WRAP - 5 * 60_000 + step * 60_000);
    assert_plays(minutes(1..=10).chain(minutes(1..=5)).chain(wrap()));
    assert_plays((1..=200).flat_map(|_| [60_000, 120_000]));
    assert_plays((1..=300).map(|second| second * 1000));
    assert_plays([60_000, 120_000, 180_000, 30_000, 90_000, WRAP - 60_000, WRAP - 1, 59_999]);
}

#[test]
fn a_batch_played_fast_keeps_its_steps() {
    let mut store = Store::default();
    let batch: Vec<_> = (0..300).map(|n| (60_000 * (u64::from(n) + 1), n, 1000)).collect();
    for (placed, (count, ..)) in store.send_batch(&batch).iter().zip(&batch) {
        assert_eq!(placed.0, plus_ms(at(1000), i64::try_from(*count).unwrap() - 18_000_000));
    }
}

/// 200 minutes of which the last 120 came hours late, with a reboot among them.
#[test]
fn a_reboot_within_a_late_backlog_is_placed_by_what_follows() {
    for known in [80, 0] {
        let message = |minute: u32, ms| {
            let uptime = if minute <= 100 { minute } else { minute - 100 };
            (u64::from(uptime) * 60_000 - 20_000, minute, ms)
        };
        let mut store = Store::default();
        for minute in 1..=known {
            store.send_batch(&[message(minute, u64::from(minute) * 60_000)]);
        }
        let late: Vec<_> =
            (known + 1..=200).map(|n| message(n, 200 * 60_000 + u64::from(n))).collect();
        let placed = store.send_batch(&late);
        for ((time, _), (_, minute, _)) in placed.iter().zip(&late) {
            let error = time.micros() - at(u64::from(*minute) * 60_000).micros();
            // What was on before is known to end before the reboot only: 40 s of its first minute.
            let most = if known == 0 && *minute <= 100 { 20_200_000 } else { 200_000 };
            assert!((0..=most).contains(&error), "{minute}: off by {error} us");
        }
        assert_eq!(store.send_batch(&late), placed);
        assert_eq!(store.rows(), 200);
    }
}

#[test]
fn a_device_that_sleeps_is_not_late() {
    let mut store = Store::default();
    let mut sent = Vec::new();
    for wake in 0..144_u32 {
        let (count, ms) = (2300 + u64::from(wake * 37 % 100), u64::from(wake) * 600_000);
        assert_eq!(store.send(count, wake, ms).0, at(ms), "wake {wake}");
        // Half of the time it says something more.
        if wake % 2 == 0 {
            assert_eq!(store.send(count + 1500, 1000 + wake, ms + 1500).0, at(ms + 1500));
        }
        sent.push((count, wake));
    }
    let rows = store.rows();
    for (count, wake) in sent {
        store.send(count, wake, 144 * 600_000);
    }
    assert_eq!(store.rows(), rows);
}

#[test]
fn an_outage_after_the_first_message_of_a_boot_is_no_sleep() {
    let mut store = Store::default();
    store.send(2300, 0, 2300);
    let backlog: Vec<_> = (1..=50).map(|n| (2300 + u64::from(n) * 5000, n, 252_300)).collect();
    for (placed, (count, ..)) in store.send_batch(&backlog).iter().zip(&backlog) {
        assert_eq!(placed.0, at(*count));
    }
}

#[test]
fn a_boot_whose_first_message_was_late_is_mended() {
    let mut store = Store::default();
    store.send(60_000, 0, 400_000);
    for minute in 7..100 {
        assert_eq!(store.send(minute * 60_000, 1, minute * 60_000).0, at(minute * 60_000));
    }
    // Those that came before are still recognised.
    let rows = store.rows();
    assert_eq!(store.send(60_000, 0, 6_000_000).0, at(400_000));
    assert_eq!(store.rows(), rows);
}

#[test]
fn boots_do_not_pile_up() {
    let mut store = Store::default();
    let number = |ms| {
        let received = at(ms);
        move |store: &mut Store| store.clock.forget(received).len()
    };
    for minute in 0..3 {
        store.send(5000, minute, u64::from(minute) * 60_000);
    }
    assert_eq!(number(25 * 3_600_000)(&mut store), 0);
    assert_eq!(number(25 * 3_600_000 + 60_001)(&mut store), 2);
    assert_eq!(number(1000 * 3_600_000)(&mut store), 0, "the newest stays");
    assert_eq!(store.clock.changed().count(), 1);
    for n in 10..5010_u32 {
        store.send(5000, n, 200_000 + u64::from(n));
    }
    assert_eq!(number(300_000)(&mut store), 1001);
    assert_eq!(store.clock.boots.len(), MAX_BOOTS);
}

#[test]
fn seconds_since_1970_that_are_ahead_are_not_believed() {
    let mut store = Store::default();
    let now = 1_767_787_200;
    for n in 0..100 {
        for ahead in [601, 3600, 364 * 86_400] {
            let ms = n * 3000 + ahead;
            let placed = store.send(now + ahead + 1 + 3 * n, 1, ms);
            assert_eq!(placed, (at(ms), TimeSource::Received));
        }
    }
    assert_eq!(store.send(now + 599, 1, 0).1, TimeSource::Device);
    // An uptime that its boot is known to have reached.
    store = Store::default();
    for n in 0..3 {
        let ms = u64::from(n) * 85_000_000;
        assert_eq!(store.send(1_600_000_000 + ms, n, ms), (at(ms), TimeSource::Uptime));
    }
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
    /// Whatever counts come, in whatever batches and however often: each sample is stored once, later
    /// than the one before it, and not more than a day before its receipt.
    #[test]
    fn anything_sent_again_is_stored_once(
        told in prop::collection::vec((count(), prop_oneof![0..10_u64, 0..30_000_u64]), 1..80),
        sizes in prop::collection::vec(1..30_usize, 1..8),
        passes in 2..4_u64,
    ) {
        let mut store = Store::default();
        let mut now = 0;
        let mut messages: Vec<Message> = Vec::new();
        for (value, (count, step)) in (0..).zip(told) {
            now += step;
            messages.push((count, value, now));
        }
        let everything: Vec<_> = (0..messages.len()).map(|n| u32::try_from(n).unwrap()).collect();
        let mut sizes = sizes.into_iter().cycle();
        for pass in 0..passes {
            let mut left = &messages[..];
            while !left.is_empty() {
                let (batch, rest) = left.split_at(sizes.next().unwrap().min(left.len()));
                left = rest;
                let at_once = |m: &Message| if pass == 0 { *m } else { (m.0, m.1, now + pass) };
                let batch: Vec<_> = batch.iter().map(at_once).collect();
                for (placed, message) in store.send_batch(&batch).iter().zip(&batch) {
                    let limit = if pass == 0 { MAX_LATE } else { MAX_AGE };
                    prop_assert!(placed.0 >= at(message.2).minus(limit));
                    prop_assert_eq!(placed.1, TimeSource::Uptime);
                }
            }
            prop_assert_eq!(&store.values(), &everything, "pass {}", pass);
        }
    }
}

/// Counts as devices have them, but for those that read as seconds since 1970.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..10_000_u64,
        (0..600_u64).prop_map(|minute| minute * 60_000),
        0..100_000_000_u64,
        WRAP - 600_000..WRAP,
    ]
}
