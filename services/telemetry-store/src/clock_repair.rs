//! Turns a bare count sent by a device into a time: uptime repair, pure and repeatable.
//!
//! Firmware without a wall clock sends `millis()`: milliseconds since boot, in 32 bits. The instant
//! a device booted is decided once, from the first message seen of that boot and those after it in
//! its batch, and kept; every later message of the boot is placed by it, so a redelivered one gets
//! the same time and is recognised. What a count means is decided in this order:
//!
//! 1. The very same sample was stored under a known boot within the last 25 hours: it came again.
//! 2. A step forward, or over the 2^32 wrap, that agrees with the time of receipt: the newest boot
//!    goes on. A message may be late by a day (it waited in the broker), hardly early. But if the
//!    boot was seen for less than ten seconds, and then nothing for a minute, the device has slept
//!    and this is a reboot.
//! 3. It continues an older boot and is not late: that boot never ended, the newest was a mistake.
//! 4. Read as seconds since 1970 it lies within the last five years: the device has a wall clock.
//! 5. Read so it lies within the next year: a wall clock that is ahead. It is not believed, and the
//!    time of receipt counts.
//! 6. Otherwise a boot begins. The count went back, so the device has rebooted; or it is early, so
//!    the first message seen of the boot was late. The time is as late as the receipt of this
//!    message and of those after it in its batch allow, and after all times given before.
//!
//! What that cannot tell:
//!
//! - After a reboot, a sample equal to an older one of the last 25 hours in its count and in all its
//!   values is taken for that one come again.
//! - A reboot to a count above the last one is taken for a late message, unless the device slept.
//! - Of messages that waited, those of a boot that nothing was known of are right if the batch holds
//!   them up to a fresh one; else they are placed at their receipt, a millisecond or more apart.
//! - An uptime of 19 to 21 days is read as seconds since 1970 if its boot is not known.

use std::{collections::HashMap, time::Duration};

use telemetry_model::{TimeSource, Timestamp};

/// How far ahead of us a device's clock may be and still be believed.
pub(crate) const MAX_AHEAD: Duration = Duration::from_mins(10);
/// How long a message may have waited in the broker.
const MAX_LATE: Duration = Duration::from_hours(24);
/// How long after its time a sample that comes again is recognised. It may have been late at first.
const MAX_AGE: Duration = Duration::from_hours(25);
/// How old a count may be when it is read as seconds since 1970, and how far ahead.
const MAX_EPOCH_AGE: Duration = Duration::from_hours(5 * 366 * 24);
const MAX_EPOCH_AHEAD: Duration = Duration::from_hours(366 * 24);
/// A device that sleeps is awake for less than this, and asleep for more than that.
const AWAKE_MS: i64 = 10_000;
const ASLEEP: Duration = Duration::from_mins(1);
/// How many boots of a device are kept: more than one that reboots every minute begins in a day.
const MAX_BOOTS: usize = 4000;
/// The count's range in milliseconds: it wraps after 49.7 days.
const WRAP_MS: i64 = 1 << 32;
/// A device this close to the wrap may pass it unseen.
const NEAR_WRAP_MS: i64 = 24 * 60 * 60 * 1000;

/// One run of a device, from power-on to power-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    /// 1, 2, 3, … per device.
    pub(crate) number: i32,
    /// When it began. Never changes.
    pub(crate) booted: Timestamp,
    /// The lowest uptime seen.
    pub(crate) first_uptime_ms: i64,
    /// The highest uptime seen, wraps counted in.
    pub(crate) last_uptime_ms: i64,
}

impl Boot {
    fn at(&self, uptime_ms: i64) -> Timestamp {
        plus_ms(self.booted, uptime_ms)
    }

    fn last_time(&self) -> Timestamp {
        self.at(self.last_uptime_ms)
    }

    /// The uptime a count stands for if this boot goes on.
    fn next_uptime(&self, count: i64) -> Option<i64> {
        let wraps = self.last_uptime_ms / WRAP_MS;
        let uptime = wraps * WRAP_MS + count;
        if uptime > self.last_uptime_ms {
            return Some(uptime);
        }
        let to_wrap = (wraps + 1) * WRAP_MS - self.last_uptime_ms;
        (to_wrap <= NEAR_WRAP_MS).then_some(uptime + WRAP_MS)
    }

    /// The uptimes between the lowest and the highest seen that a count may stand for.
    fn past_uptimes(&self, count: i64) -> impl Iterator<Item = i64> {
        let (first, last) = (self.first_uptime_ms, self.last_uptime_ms);
        let uptimes = (0..).map(move |wraps| wraps * WRAP_MS + count);
        uptimes.take_while(move |uptime| *uptime <= last).filter(move |uptime| *uptime >= first)
    }

    /// How far the device's oscillator may have run ahead since the boot was placed: 100 ppm, and
    /// what a network does.
    fn drift(&self, uptime_ms: i64) -> Duration {
        let since_ms = uptime_ms.abs_diff(self.first_uptime_ms);
        Duration::from_secs(2) + Duration::from_millis(since_ms / 10_000)
    }

    /// Whether the device has rebooted before it told this uptime at this time.
    fn has_slept(&self, uptime_ms: i64, time: Timestamp) -> bool {
        uptime_ms - self.first_uptime_ms < AWAKE_MS && self.at(uptime_ms) < time.minus(ASLEEP)
    }
}

/// A count, and when it can have been told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) count: u32,
    pub(crate) received: Timestamp,
    /// See [`latest_times`].
    pub(crate) latest: Timestamp,
}

/// When each of these counts was told at the latest, given those that the same device told after it:
/// as long before the next one as the counts say. They are (device, count, received), in the order
/// in which they came; none stands for a message that came again, which tells nothing. What follows
/// does not count if by it a message were later than one can be.
pub(crate) fn latest_times(told: &[Option<(i32, u32, Timestamp)>]) -> Vec<Option<Timestamp>> {
    let mut next: HashMap<i32, (i64, Timestamp)> = HashMap::new();
    let latest = told.iter().rev().map(|told| {
        let (device, count, received) = (*told)?;
        let count = i64::from(count);
        let before_next = next.get(&device).map(|(next_count, latest)| {
            plus_ms(*latest, -least_step(count, *next_count)).min(received)
        });
        let possible = before_next.filter(|latest| *latest >= received.minus(MAX_LATE));
        let latest = possible.unwrap_or(received);
        next.insert(device, (count, latest));
        Some(latest)
    });
    let mut latest: Vec<_> = latest.collect();
    latest.reverse();
    latest
}

/// How many milliseconds lie between two counts told one after the other, at least.
fn least_step(count: i64, next: i64) -> i64 {
    if next >= count {
        next - count
    } else if WRAP_MS - count <= NEAR_WRAP_MS {
        next + WRAP_MS - count
    } else {
        next
    }
}

/// What is known of a device's uptime counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct UptimeClock {
    /// In the order of their last times.
    boots: Vec<Boot>,
    changed: Vec<i32>,
}

impl UptimeClock {
    /// From all known boots of a device, in any order.
    pub(crate) fn new(mut boots: Vec<Boot>) -> Self {
        boots.sort_by_key(Boot::last_time);
        Self { boots, changed: Vec::new() }
    }

    /// The times at which a telemetry sample with this count may have been stored before, newest
    /// boot first; none for a plain step forward.
    pub(crate) fn earlier_times(
        &self,
        counter: u32,
        received: Timestamp,
    ) -> impl Iterator<Item = Timestamp> {
        let count = i64::from(counter);
        let times = self.boots.iter().rev();
        let times = times.flat_map(move |boot| boot.past_uptimes(count).map(|ms| boot.at(ms)));
        times.filter(move |time| *time >= received.minus(MAX_AGE))
    }

    /// Decides the time of a telemetry sample. `is_stored` says whether this very sample, all of
    /// its measurements, is stored at a time.
    pub(crate) fn place(
        &mut self,
        told: Told,
        is_stored: impl Fn(Timestamp) -> bool,
    ) -> (Timestamp, TimeSource) {
        let Told { count, received, latest } = told;
        if let Some(time) = self.earlier_times(count, received).find(|time| is_stored(*time)) {
            return (time, TimeSource::Uptime);
        }
        let next = self.next_in_time(count, received, latest);
        if let Some((index, uptime)) = next.or_else(|| self.older_in_time(count, received)) {
            return (self.advance(index, uptime), TimeSource::Uptime);
        }
        if let Some(placed) = as_seconds(count, received) {
            return placed;
        }
        (self.begin(count, latest), TimeSource::Uptime)
    }

    /// Places a heartbeat by the boots known. It decides none: it is not stored as readings, so
    /// that one that came again could not be told from a reboot.
    pub(crate) fn place_heartbeat(
        &self,
        counter: u32,
        received: Timestamp,
    ) -> (Timestamp, TimeSource) {
        let next = self.next_in_time(counter, received, received);
        if let Some(time) = next.and_then(|(index, uptime)| Some(self.boots.get(index)?.at(uptime)))
        {
            return (time, TimeSource::Uptime);
        }
        as_seconds(counter, received).unwrap_or((received, TimeSource::Received))
    }

    /// Forgets the boots that no message can belong to any more, and answers their numbers. The
    /// newest stays: its device may go on after any silence.
    pub(crate) fn forget(&mut self, received: Timestamp) -> Vec<i32> {
        let oldest = received.minus(MAX_AGE);
        let old = self.boots.partition_point(|boot| boot.last_time() < oldest);
        let count = self.boots.len();
        let old = old.max(count.saturating_sub(MAX_BOOTS)).min(count.saturating_sub(1));
        self.boots.drain(..old).map(|boot| boot.number).collect()
    }

    /// The boots to write back: new ones, and those that went on.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Boot> {
        self.boots.iter().filter(|boot| self.changed.contains(&boot.number))
    }

    fn newest(&self) -> Option<(usize, &Boot)> {
        self.boots.iter().enumerate().next_back()
    }

    fn next_in_time(
        &self,
        counter: u32,
        received: Timestamp,
        latest: Timestamp,
    ) -> Option<(usize, i64)> {
        let (index, boot) = self.newest()?;
        let uptime = boot.next_uptime(i64::from(counter))?;
        let in_time = in_time(boot.at(uptime), received, MAX_LATE, boot.drift(uptime));
        (in_time && !boot.has_slept(uptime, latest)).then_some((index, uptime))
    }

    fn older_in_time(&self, counter: u32, received: Timestamp) -> Option<(usize, i64)> {
        let (_, newest) = self.newest()?;
        self.boots.iter().enumerate().rev().skip(1).find_map(|(index, boot)| {
            let uptime = boot.next_uptime(i64::from(counter))?;
            let time = boot.at(uptime);
            let in_time = in_time(time, received, MAX_AHEAD, boot.drift(uptime));
            (in_time && time > newest.last_time()).then_some((index, uptime))
        })
    }

    /// Lets a boot go on to an uptime, which makes it the newest.
    fn advance(&mut self, index: usize, uptime_ms: i64) -> Timestamp {
        let mut boot = self.boots.remove(index);
        boot.last_uptime_ms = uptime_ms;
        self.changed.push(boot.number);
        self.boots.push(boot);
        boot.last_time()
    }

    /// Begins a boot with a count told at a time, or after all that went before.
    fn begin(&mut self, counter: u32, time: Timestamp) -> Timestamp {
        let uptime_ms = i64::from(counter);
        let after = self.newest().map(|(_, boot)| boot.last_time().plus(Duration::from_millis(1)));
        let time = after.map_or(time, |after| after.max(time));
        let number = self.boots.iter().map(|boot| boot.number).max().unwrap_or(0) + 1;
        let booted = plus_ms(time, -uptime_ms);
        let (first_uptime_ms, last_uptime_ms) = (uptime_ms, uptime_ms);
        self.boots.push(Boot { number, booted, first_uptime_ms, last_uptime_ms });
        self.changed.push(number);
        time
    }
}

/// What a count means as seconds since 1970, if that is close enough to now.
fn as_seconds(counter: u32, received: Timestamp) -> Option<(Timestamp, TimeSource)> {
    let time = Timestamp::from_micros(i64::from(counter) * 1_000_000)?;
    if in_time(time, received, MAX_EPOCH_AGE, MAX_AHEAD) {
        return Some((time, TimeSource::Device));
    }
    let ahead = in_time(time, received, Duration::ZERO, MAX_EPOCH_AHEAD);
    ahead.then_some((received, TimeSource::Received))
}

fn in_time(time: Timestamp, received: Timestamp, late: Duration, early: Duration) -> bool {
    time >= received.minus(late) && time <= received.plus(early)
}

fn plus_ms(time: Timestamp, ms: i64) -> Timestamp {
    let duration = Duration::from_millis(ms.unsigned_abs());
    if ms < 0 { time.minus(duration) } else { time.plus(duration) }
}

#[cfg(test)]
mod tests;
