//! Whether devices are there: what follows from what was heard, and from how long we listened. Pure.
//!
//! A device is *online* while it was heard of within `OFFLINE_AFTER`. It is *offline* when it was
//! silent for that long while we listened, or when its status topic says so. When it was not heard of
//! for that long but nobody listened all the time, its presence is *unknown*: silence is evidence
//! only while somebody listens, so no restart of bridge, broker, store or database makes a device
//! offline.
//!
//! **Listening.** Each bridge tells with every report from when to when it has heard all that the
//! broker had for it: `since` both its subscriptions and its stream to us stand, `through` the last
//! answer of the broker at which nothing was held back, or left unsent. Whatever breaks on the way
//! begins this anew: the broker or the bridge (a new connection), a store, or a database that is away
//! for longer than an append waits (a new stream). A store notes `through` beside the messages it
//! commits, and writes both in one transaction every few seconds: if it dies, both are lost, and the
//! device that was heard in that time was not listened to either. So `devices.last_seen` is true of
//! all that `listening.through` covers, on every replica. All of it is by the bridge's clock; only
//! the clocks of several bridges must agree.
//!
//! A device may be heard by any of the bridges (a shared subscription gives each a part), so its
//! silence counts only while *all* of them listen. One that is gone without a goodbye is waited for
//! for [`GONE_AFTER`]; until then devices become unknown, not offline.
//!
//! **Deciding.** A change is written to the device's row and to its log in one transaction that holds
//! the head of its log partition, and is decided on what stands in the row then: of several replicas
//! one changes it, the others find it changed. Devices come online in the append that brings their
//! message, before it in the log. An append looks at the row only of devices that it does not know to
//! be online ([`crate::storage`] remembers them), so in the long run it costs a look-up in memory. What
//! a replica remembers may be wrong when another has just decided otherwise; the round that judges
//! silence, after each writing of what was heard, finds that too, seconds later.
//!
//! **Status topics.** `offline`, mostly the broker's last will, counts at once and is no sign of life;
//! `online` is one. A retained `offline` is old: it is believed of a device that nothing else is
//! known of. What the device sends afterwards always counts for more.

use std::time::Duration;

use telemetry_model::{
    Event, Presence, PresenceChange, PresenceReason, Standing, Status, Timestamp,
};

/// For how long a bridge that is gone without a goodbye is expected back.
pub(crate) const GONE_AFTER: Duration = Duration::from_hours(1);
/// A bridge that has not told so long that it listens does not do so now. It tells every 2 s, asks
/// the broker every 5 s, and what it tells is written within 5 s.
const LAPSE: Duration = Duration::from_secs(15);

/// For how long a bridge listened, as the database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// From when on.
    pub(crate) since: Timestamp,
    /// Until when.
    pub(crate) through: Timestamp,
    /// When that moved on, by our clock.
    pub(crate) told: Timestamp,
}

/// What silence proves at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// What was heard after this was heard lately.
    pub(crate) fresh_after: Timestamp,
    /// A device last heard of by then was silent long enough while we listened.
    pub(crate) silent_by: Option<Timestamp>,
    /// If we listen now: since when without a break.
    pub(crate) listening_since: Option<Timestamp>,
    now: Timestamp,
    offline_after: Duration,
}

impl Evidence {
    /// What follows from how long each bridge listened.
    pub(crate) fn of(now: Timestamp, offline_after: Duration, listeners: &[Listener]) -> Self {
        let expected = || listeners.iter().filter(|listener| listener.told.plus(GONE_AFTER) > now);
        // Now, by the bridges' clocks.
        let elapsed = |told: Timestamp| {
            Duration::from_micros(u64::try_from(now.micros() - told.micros()).unwrap_or(0))
        };
        let theirs = expected().map(|l| l.through.plus(elapsed(l.told))).max();
        let now_by_them = theirs.unwrap_or(now);
        let since = expected().map(|listener| listener.since).max();
        let through = expected().map(|listener| listener.through).min();
        let silent_by = through.map(|through| through.minus(offline_after));
        let is_live = expected().all(|listener| listener.told.plus(LAPSE) >= now);
        Self {
            fresh_after: now_by_them.minus(offline_after),
            silent_by: silent_by.filter(|silent_by| since.is_some_and(|s| s <= *silent_by)),
            listening_since: since.filter(|_| is_live),
            now: now_by_them,
            offline_after,
        }
    }

    /// What changes for a device that was last heard of at a time.
    pub(crate) fn judge(&self, standing: Standing, seen: Timestamp) -> Option<PresenceChange> {
        let is_fresh = seen > self.fresh_after;
        let is_news = standing.since().is_none_or(|since| seen > since);
        let silent_by = self.silent_by.filter(|silent_by| seen <= *silent_by);
        let (state, since, reason) = match (standing.state, silent_by) {
            (Presence::Online | Presence::Unknown, Some(silent_by)) => {
                let through = silent_by.plus(self.offline_after);
                (Presence::Offline, through, PresenceReason::Silence)
            }
            (Presence::Unknown, None) if is_fresh => {
                (Presence::Online, seen, PresenceReason::Heard)
            }
            (Presence::Offline, _) if is_fresh && is_news => {
                (Presence::Online, seen, PresenceReason::Heard)
            }
            // If we listen all the time, it will be found silent soon.
            (Presence::Online, None)
                if !is_fresh && self.listening_since.is_none_or(|since| since > seen) =>
            {
                (Presence::Unknown, self.now, PresenceReason::NotListening)
            }
            _ => return None,
        };
        Some(PresenceChange { state, previous: standing.state, since, reason })
    }
}

/// What changes for the device that an event is of.
pub(crate) fn heard(
    standing: Standing,
    event: &Event,
    fresh_after: Timestamp,
) -> Option<PresenceChange> {
    let (state, since) = (standing.state, event.received);
    let is_news = standing.since().is_none_or(|decided| since > decided);
    let (to, reason) = match event.status() {
        Some(Status { online: false, retained }) => {
            let counts = if retained { standing.decided.is_none() } else { is_news };
            (counts.then_some(Presence::Offline), PresenceReason::LastWill)
        }
        // What came late proves nothing.
        _ => {
            let counts = since > fresh_after && (is_news || state == Presence::Unknown);
            (counts.then_some(Presence::Online), PresenceReason::Heard)
        }
    };
    let to = to.filter(|to| *to != state)?;
    Some(PresenceChange { state: to, previous: state, since, reason })
}

/// Whether an event shows that its device lives.
pub(crate) fn is_sign_of_life(event: &Event) -> bool {
    event.status().is_none_or(|status| status.online)
}

#[cfg(test)]
mod tests;
