//! Turns a bare count sent by a device into a time: uptime repair, pure and repeatable.
//!
//! Firmware without a wall clock sends `millis()`: milliseconds since boot, in 32 bits. The instant
//! a device booted is decided once, from the first message seen of that boot, and kept; every later
//! message of the boot is placed by it, so a redelivered one gets the same time and is recognised.
//! What a count means is decided in this order:
//!
//! 1. The very same sample was stored under a known boot within the last day: it came again.
//! 2. A step forward, or over the 2^32 wrap, that agrees with the time of receipt: the newest boot
//!    goes on. A message may be late by a day (it waited in the broker), hardly early.
//! 3. It continues an older boot and is not late: that boot never ended, the newest was a mistake.
//! 4. Read as seconds since 1970 it lies within the last five years: the device has a wall clock.
//! 5. A step forward that is up to ten minutes early: the newest boot goes on.
//! 6. Otherwise, as when the count goes back: the device has rebooted. Times still go forward.

use std::time::Duration;

use telemetry_model::{TimeSource, Timestamp};

/// How far ahead of us a device's clock may be and still be believed.
pub(crate) const MAX_AHEAD: Duration = Duration::from_mins(10);
/// How long a message may have waited in the broker.
const MAX_LATE: Duration = Duration::from_hours(24);
/// How old a count may be when it is read as seconds since 1970.
const MAX_EPOCH_AGE: Duration = Duration::from_hours(5 * 366 * 24);
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

    /// The uptimes up to the highest seen that a count may stand for.
    fn past_uptimes(&self, count: i64) -> impl Iterator<Item = i64> {
        let last = self.last_uptime_ms;
        (0..).map(move |wraps| wraps * WRAP_MS + count).take_while(move |uptime| *uptime <= last)
    }
}

/// What is known of a device's uptime counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct UptimeClock {
    boots: Vec<Boot>,
    changed: Vec<i32>,
}

impl UptimeClock {
    /// From the newest known boots of a device, in any order.
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
        times.filter(move |time| *time >= received.minus(MAX_LATE))
    }

    /// Decides the time of a telemetry sample. `is_stored` says whether this very sample, all of
    /// its measurements, is stored at a time.
    pub(crate) fn place(
        &mut self,
        counter: u32,
        received: Timestamp,
        is_stored: impl Fn(Timestamp) -> bool,
    ) -> (Timestamp, TimeSource) {
        if let Some(time) = self.earlier_times(counter, received).find(|time| is_stored(*time)) {
            return (time, TimeSource::Uptime);
        }
        if let Some((index, uptime)) = self.next_in_time(counter, received) {
            return (self.advance(index, uptime), TimeSource::Uptime);
        }
        if let Some((index, uptime)) = self.older_in_time(counter, received) {
            return (self.advance(index, uptime), TimeSource::Uptime);
        }
        if let Some(time) = as_seconds(counter, received) {
            return (time, TimeSource::Device);
        }
        if let Some((index, uptime)) = self.next_early(counter, received) {
            return (self.advance(index, uptime), TimeSource::Uptime);
        }
        (self.reboot(counter, received), TimeSource::Uptime)
    }

    /// Places a heartbeat by the boots known. It decides none: it is not stored as readings, so
    /// that one that came again could not be told from a reboot.
    pub(crate) fn place_heartbeat(
        &self,
        counter: u32,
        received: Timestamp,
    ) -> (Timestamp, TimeSource) {
        let next =
            self.next_in_time(counter, received).or_else(|| self.next_early(counter, received));
        if let Some(time) = next.and_then(|(index, uptime)| Some(self.boots.get(index)?.at(uptime)))
        {
            return (time, TimeSource::Uptime);
        }
        match as_seconds(counter, received) {
            Some(time) => (time, TimeSource::Device),
            None => (received, TimeSource::Received),
        }
    }

    /// The boots to write back: new ones, and those that went on.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Boot> {
        self.boots.iter().filter(|boot| self.changed.contains(&boot.number))
    }

    fn newest(&self) -> Option<(usize, &Boot)> {
        self.boots.iter().enumerate().next_back()
    }

    fn next_in_time(&self, counter: u32, received: Timestamp) -> Option<(usize, i64)> {
        let (index, boot) = self.newest()?;
        let uptime = boot.next_uptime(i64::from(counter))?;
        in_time(boot.at(uptime), received, MAX_LATE, drift(uptime)).then_some((index, uptime))
    }

    fn next_early(&self, counter: u32, received: Timestamp) -> Option<(usize, i64)> {
        let (index, boot) = self.newest()?;
        let uptime = boot.next_uptime(i64::from(counter))?;
        in_time(boot.at(uptime), received, MAX_LATE, MAX_AHEAD).then_some((index, uptime))
    }

    fn older_in_time(&self, counter: u32, received: Timestamp) -> Option<(usize, i64)> {
        self.boots.iter().enumerate().rev().skip(1).find_map(|(index, boot)| {
            let uptime = boot.next_uptime(i64::from(counter))?;
            in_time(boot.at(uptime), received, MAX_AHEAD, drift(uptime)).then_some((index, uptime))
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

    /// Begins a boot whose times come after all that went before.
    fn reboot(&mut self, counter: u32, received: Timestamp) -> Timestamp {
        let uptime_ms = i64::from(counter);
        let after = self.newest().map(|(_, boot)| boot.last_time().plus(Duration::from_millis(1)));
        let time = after.map_or(received, |after| after.max(received));
        let number = self.boots.iter().map(|boot| boot.number).max().unwrap_or(0) + 1;
        let booted = plus_ms(time, -uptime_ms);
        self.boots.push(Boot { number, booted, last_uptime_ms: uptime_ms });
        self.changed.push(number);
        time
    }
}

/// What a count means as seconds since 1970, if that is close enough to now.
fn as_seconds(counter: u32, received: Timestamp) -> Option<Timestamp> {
    let time = Timestamp::from_micros(i64::from(counter) * 1_000_000)?;
    in_time(time, received, MAX_EPOCH_AGE, MAX_AHEAD).then_some(time)
}

fn in_time(time: Timestamp, received: Timestamp, late: Duration, early: Duration) -> bool {
    time >= received.minus(late) && time <= received.plus(early)
}

/// How far a device's oscillator may have run ahead: 100 ppm, and what a network does.
fn drift(uptime_ms: i64) -> Duration {
    Duration::from_secs(2) + Duration::from_millis(uptime_ms.unsigned_abs() / 10_000)
}

fn plus_ms(time: Timestamp, ms: i64) -> Timestamp {
    let duration = Duration::from_millis(ms.unsigned_abs());
    if ms < 0 { time.minus(duration) } else { time.plus(duration) }
}

#[cfg(test)]
mod tests;
