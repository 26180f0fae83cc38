//! Presence, case by case: what is heard, what silence proves, and when.

use telemetry_model::{DeviceId, EventKind, Measurement, MetricName, Sample, Value};

use super::*;

const AFTER: Duration = Duration::from_mins(3);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_767_787_200 + seconds) * 1_000_000).unwrap()
}

fn listener(since: i64, through: i64) -> Listener {
    Listener { since: at(since), through: at(through), told: at(through) }
}

fn standing(state: Presence, since: i64) -> Standing {
    Standing { state, decided: Some((at(since), PresenceReason::Heard)) }
}

/// What becomes of a device that is online and was last heard of at 0.
fn judged(now: i64, listeners: &[Listener]) -> Option<(Presence, i64)> {
    let evidence = Evidence::of(at(now), AFTER, listeners);
    let change = evidence.judge(standing(Presence::Online, -1000), at(0))?;
    Some((change.state, (change.since.micros() - at(0).micros()) / 1_000_000))
}

#[test]
fn silence_counts_while_we_listen() {
    assert_eq!(judged(179, &[listener(-500, 179)]), None);
    assert_eq!(judged(185, &[listener(-500, 179)]), None, "it will be told soon");
    assert_eq!(judged(185, &[listener(-500, 180)]), Some((Presence::Offline, 180)));
    assert_eq!(judged(10_000, &[listener(-500, 9_999)]), Some((Presence::Offline, 9_999)));
}

#[test]
fn silence_proves_nothing_while_we_do_not_listen() {
    assert_eq!(judged(179, &[listener(-500, 20)]), None, "heard of lately");
    assert_eq!(judged(200, &[listener(-500, 20)]), Some((Presence::Unknown, 200)));
    assert_eq!(judged(200, &[listener(150, 200)]), Some((Presence::Unknown, 200)), "since 150");
    assert_eq!(judged(200, &[]), Some((Presence::Unknown, 200)), "nobody ever listened");
    assert_eq!(judged(330, &[listener(150, 330)]), Some((Presence::Offline, 330)));
}

#[test]
fn all_bridges_must_have_listened() {
    let one = listener(-500, 400);
    assert_eq!(judged(400, &[one, listener(-500, 390)]), Some((Presence::Offline, 390)));
    assert_eq!(judged(400, &[one, listener(-500, 100)]), Some((Presence::Unknown, 400)));
    assert_eq!(judged(400, &[one, listener(300, 400)]), Some((Presence::Unknown, 400)));
    assert_eq!(
        judged(4000, &[listener(-500, 4000), listener(-500, 300)]).unwrap().0,
        Presence::Offline
    );
    let gone = listener(-500, 100);
    assert_eq!(judged(3701, &[listener(-500, 3701), gone]), Some((Presence::Offline, 3701)));
}

#[test]
fn the_clock_of_bridges_counts_not_ours() {
    let behind = Listener { since: at(-900), through: at(100), told: at(700) };
    assert_eq!(judged(701, &[behind]), None);
    let later = Listener { through: at(180), told: at(780), ..behind };
    assert_eq!(judged(781, &[later]), Some((Presence::Offline, 180)));
}

#[test]
fn what_is_heard_late_of_a_device_is_found() {
    let evidence = Evidence::of(at(300), AFTER, &[listener(-500, 300)]);
    let judge = |state, since, seen| Some(evidence.judge(standing(state, since), at(seen))?.state);
    assert_eq!(judge(Presence::Offline, 200, 290), Some(Presence::Online));
    assert_eq!(judge(Presence::Offline, 295, 290), None, "heard before it said goodbye");
    assert_eq!(judge(Presence::Unknown, 295, 290), Some(Presence::Online));
    assert_eq!(judge(Presence::Offline, -50, 10), None, "too long ago");
    assert_eq!(judge(Presence::Unknown, 100, 100), Some(Presence::Offline));
}

fn event(kind: EventKind, received: i64, flags: &[(&str, bool)]) -> Event {
    let measurement = |(name, flag): &(&str, bool)| Measurement {
        metric: MetricName::parse(name).unwrap(),
        value: Value::Flag(*flag),
    };
    let measurements = flags.iter().map(measurement).collect();
    let samples = vec![Sample { clock: telemetry_model::DeviceClock::None, measurements }];
    let device = DeviceId::parse("fern-1").unwrap();
    Event { device, kind, received: at(received), samples, trace: None }
}

#[test]
fn whatever_is_heard_makes_a_device_online() {
    let beat = event(EventKind::Heartbeat, 100, &[]);
    let heard = |standing, fresh| super::heard(standing, &beat, at(fresh)).map(|c| c.state);
    assert_eq!(heard(Standing::default(), 0), Some(Presence::Online));
    assert_eq!(heard(standing(Presence::Unknown, 200), 0), Some(Presence::Online));
    assert_eq!(heard(standing(Presence::Offline, 50), 0), Some(Presence::Online));
    assert_eq!(heard(standing(Presence::Offline, 100), 0), None, "not after it left");
    assert_eq!(heard(standing(Presence::Online, 50), 0), None);
    assert_eq!(heard(Standing::default(), 100), None, "too old");
}

#[test]
fn a_last_will_counts_at_once_and_a_retained_one_only_of_strangers() {
    let said = |flags: &[(&str, bool)], standing| {
        super::heard(standing, &event(EventKind::Presence, 100, flags), at(0)).map(|c| c.state)
    };
    let (online, offline) = (&[("online", true)][..], &[("online", false)][..]);
    let retained = &[("online", false), ("retained", true)][..];
    assert_eq!(said(offline, standing(Presence::Online, 50)), Some(Presence::Offline));
    assert_eq!(said(offline, standing(Presence::Online, 150)), None, "heard since");
    assert_eq!(said(offline, standing(Presence::Offline, 50)), None);
    assert_eq!(said(offline, Standing::default()), Some(Presence::Offline));
    assert_eq!(said(online, standing(Presence::Offline, 50)), Some(Presence::Online));
    assert_eq!(said(retained, standing(Presence::Online, 50)), None);
    assert_eq!(said(retained, standing(Presence::Unknown, 50)), None);
    assert_eq!(said(retained, Standing::default()), Some(Presence::Offline));
}
