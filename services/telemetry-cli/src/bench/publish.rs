//! Publishing to plan, over several connections, with many messages in flight on each.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::AsyncWriteExt,
    net::tcp::OwnedWriteHalf,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    latency::Latencies,
    load::{Load, Voice},
    mqtt::{self, Heard, Listener, Login},
    now_us,
    processes::as_f64,
};

/// How many messages are written at once, at most.
const BURST: u32 = 64;
/// How long to wait for what is due, or for those behind us.
const PAUSE: Duration = Duration::from_millis(1);
/// How long the last acknowledgements may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) qos: u8,
    pub(super) connections: u64,
    /// Of each connection.
    pub(super) in_flight: u32,
    /// Messages a second, of all connections; flat out if none.
    pub(super) rate: Option<u32>,
    /// Messages published and not settled, at most.
    pub(super) ahead: u64,
    pub(super) duration: Duration,
    pub(super) messages: u64,
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) published: AtomicU64,
    /// By whoever is behind: the store, or a subscriber.
    pub(super) settled: AtomicU64,
}

/// What was published.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// How many messages each connection has sent, and at `QoS` 1 seen acknowledged.
    pub(super) said: Vec<u64>,
    pub(super) to_puback: Latencies,
}

impl Published {
    pub(super) fn messages(&self) -> u64 {
        self.said.iter().sum()
    }
}

impl Progress {
    fn ahead(&self) -> u64 {
        let settled = self.settled.load(Ordering::Relaxed);
        self.published.load(Ordering::Relaxed).saturating_sub(settled)
    }
}

/// Publishes all of it, and waits until the broker has acknowledged it.
pub(super) async fn publish(
    login: &Login,
    load: &Load,
    plan: Plan,
    progress: &Arc<Progress>,
) -> anyhow::Result<Published> {
    let mut connections = JoinSet::new();
    for number in 0..plan.connections {
        let client_id = format!("{}{number}", load.prefix);
        let (listener, write) = mqtt::connect(login, &client_id).await?;
        let voice = Voice::new(load, number, plan.connections);
        let speaker = Speaker {
            voice,
            schedule: Schedule::new(plan, number, now_us()),
            qos: plan.qos,
            ahead: plan.ahead,
            unacknowledged: Unacknowledged::new(plan.in_flight),
            progress: progress.clone(),
        };
        connections.spawn(async move { (number, speaker.run(listener, write).await) });
    }
    let mut published = Published::default();
    let mut said = BTreeMap::new();
    while let Some(ended) = connections.join_next().await {
        let (number, ended) = ended?;
        let (messages, to_puback) = ended?;
        said.insert(number, messages);
        published.to_puback.extend(&to_puback);
    }
    published.said = said.into_values().collect();
    Ok(published)
}

/// When a connection says its messages.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    begin_us: i64,
    end_us: i64,
    /// Between two messages of this connection; none flat out.
    interval_us: Option<f64>,
    messages: u64,
}

impl Schedule {
    fn new(plan: Plan, number: u64, now_us: i64) -> Self {
        let duration_us = i64::try_from(plan.duration.as_micros()).unwrap_or(i64::MAX / 2);
        let of = plan.connections;
        let share = plan.messages / of + u64::from(number < plan.messages % of);
        let connections = as_f64(of);
        Self {
            begin_us: now_us,
            end_us: now_us.saturating_add(duration_us),
            interval_us: plan.rate.map(|rate| 1e6 / f64::from(rate) * connections),
            messages: share,
        }
    }

    /// When the message after so many is due.
    fn due_us(&self, said: u64) -> Option<i64> {
        let after_us = self.interval_us? * as_f64(said);
        #[expect(clippy::cast_possible_truncation, reason = "microseconds of a run")]
        Some(self.begin_us + after_us as i64)
    }

    /// How many messages after so many may be said now, at most `most`; none if that was all.
    fn ready(&self, said: u64, now_us: i64, most: u32) -> Option<u32> {
        let mut ready = 0;
        while ready < most && said + u64::from(ready) < self.messages {
            let due_us = self.due_us(said + u64::from(ready)).unwrap_or(now_us);
            if due_us >= self.end_us {
                break;
            }
            if due_us > now_us {
                return Some(ready);
            }
            ready += 1;
        }
        (ready > 0).then_some(ready)
    }
}

/// What a connection's broker owes it: when the message of each packet id was published.
#[derive(Debug)]
struct Unacknowledged {
    most: u32,
    room: Semaphore,
    published_us: Vec<AtomicI64>,
}

impl Unacknowledged {
    fn new(most: u32) -> Self {
        let published_us = std::iter::repeat_with(AtomicI64::default).take(1 << 16).collect();
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        Self { most, room: Semaphore::new(room), published_us }
    }

    fn slot(&self, id: u16) -> Option<&AtomicI64> {
        self.published_us.get(usize::from(id))
    }
}

/// One connection.
struct Speaker {
    voice: Voice,
    schedule: Schedule,
    qos: u8,
    ahead: u64,
    unacknowledged: Unacknowledged,
    progress: Arc<Progress>,
}

impl Speaker {
    async fn run(
        self,
        mut listener: Listener,
        mut write: OwnedWriteHalf,
    ) -> anyhow::Result<(u64, Latencies)> {
        let Self { mut voice, schedule, qos, ahead, unacknowledged, progress } = self;
        let mut to_puback = Latencies::default();
        let hears = hear(&mut listener, &unacknowledged, &mut to_puback);
        let speaks = async {
            let (most, mut packets) = (BURST.min(unacknowledged.most), Vec::new());
            while let Some(ready) = schedule.ready(voice.said(), now_us(), most) {
                if ready == 0 || progress.ahead() >= ahead {
                    sleep(PAUSE).await;
                    continue;
                }
                if qos == 1 {
                    unacknowledged.room.acquire_many(ready).await?.forget();
                }
                for _ in 0..ready {
                    say(&mut voice, &schedule, qos, &unacknowledged, &mut packets);
                }
                write.write_all(&packets).await.context("the broker ended the connection")?;
                packets.clear();
                progress.published.fetch_add(ready.into(), Ordering::Relaxed);
            }
            let all = unacknowledged.room.acquire_many(unacknowledged.most);
            timeout(PATIENCE, all).await.context("the broker does not acknowledge")??.forget();
            anyhow::Ok(voice.said())
        };
        let said = tokio::select! {
            said = speaks => said?,
            failed = hears => match failed? {},
        };
        Ok((said, to_puback))
    }
}

/// Takes acknowledgements, until it is dropped.
async fn hear(
    listener: &mut Listener,
    unacknowledged: &Unacknowledged,
    to_puback: &mut Latencies,
) -> anyhow::Result<Infallible> {
    loop {
        let Heard::Acknowledged(id) = listener.hear().await? else { continue };
        let published = unacknowledged.slot(id).map(|slot| slot.load(Ordering::Relaxed));
        to_puback.add_between(published.unwrap_or_default(), now_us());
        unacknowledged.room.add_permits(1);
    }
}

/// Adds the next message.
fn say(
    voice: &mut Voice,
    schedule: &Schedule,
    qos: u8,
    unacknowledged: &Unacknowledged,
    packets: &mut Vec<u8>,
) {
    // Packet ids go round from 1; there are more of them than messages in flight.
    let id = u16::try_from(voice.said() % 65_535 + 1).unwrap_or(1);
    let time_us = voice.next(schedule.due_us(voice.said()).unwrap_or_else(now_us));
    if let Some(slot) = unacknowledged.slot(id) {
        slot.store(time_us, Ordering::Relaxed);
    }
    let id = (qos == 1).then_some(id);
    mqtt::put_publish(packets, &voice.topic, voice.payload.as_bytes(), id);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: Option<u32>, messages: u64) -> Plan {
        let duration = Duration::from_secs(2);
        Plan { qos: 1, connections: 2, in_flight: 9, rate, ahead: 9, duration, messages }
    }

    #[test]
    fn at_a_rate_what_is_due_is_said_and_no_more() {
        // 10 a second by two: one every 200 ms, for two seconds.
        let schedule = Schedule::new(plan(Some(10), u64::MAX), 0, 1_000_000);
        assert_eq!(schedule.ready(0, 1_000_000, 64), Some(1));
        assert_eq!(schedule.ready(1, 1_000_000, 64), Some(0));
        assert_eq!(schedule.ready(1, 1_650_000, 64), Some(3));
        assert_eq!(schedule.ready(1, 9_000_000, 64), Some(9), "it may be late, but says all");
        assert_eq!(schedule.ready(10, 9_000_000, 64), None);
        assert_eq!(schedule.due_us(3), Some(1_600_000));
    }

    #[test]
    fn flat_out_all_is_ready_until_the_end() {
        let schedule = Schedule::new(plan(None, u64::MAX), 0, 1_000_000);
        assert_eq!(schedule.ready(0, 1_000_000, 64), Some(64));
        assert_eq!(schedule.ready(0, 3_000_000, 64), None);
        let shares = [0, 1].map(|number| Schedule::new(plan(None, 5), number, 0).messages);
        assert_eq!(shares, [3, 2]);
        assert_eq!(Schedule::new(plan(None, 5), 1, 0).ready(1, 0, 64), Some(1));
    }
}
