//! Devices that publish numbered messages and remember which the broker acknowledged: what a
//! database must have afterwards, whatever happened in between.
//!
//! A message that was not acknowledged when a connection broke is published again, the same bytes
//! with the same device time, so that it is the same message. A message at `QoS` 0 counts as taken
//! once a later one on the same connection was acknowledged, because a broker reads in order;
//! whether it was taken is not known if the connection broke before. Nor is it known whether a
//! broker that died without a warning still has what it acknowledged last: Mosquitto saves later.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use telemetry_model::{Clock, SystemClock};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use crate::{
    eventually::eventually_within,
    publisher::{self, Listener, Speaker},
};

/// Devices of a load.
pub const DEVICES: usize = 200;
/// Connections that the devices share.
const CONNECTIONS: usize = 10;
/// Unacknowledged messages of a connection.
const IN_FLIGHT: usize = 1000;
/// Messages that a connection publishes at a time.
const AT_A_TIME: usize = 2;
/// A broker that acknowledges nothing for so long is taken for gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a broker that saves every second may not have saved.
const UNSAVED: Duration = Duration::from_secs(3);
/// How long to wait before connecting again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What the devices know.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Of each device, how many of its messages are done with: its messages count from 0.
    pub through: Vec<u64>,
    /// Those of which nobody knows whether the broker has them.
    pub unsure: HashSet<(usize, u64)>,
    /// Those that were acknowledged last, and when.
    newest: VecDeque<(Instant, usize, u64)>,
}

impl Tally {
    /// How many messages the broker has certainly taken.
    pub fn taken(&self) -> u64 {
        let unsure = self.unsure.iter().filter(|(device, n)| self.is_through(*device, *n));
        self.through.iter().sum::<u64>() - unsure.count() as u64
    }

    /// Whether a message is done with.
    pub fn is_through(&self, device: usize, n: u64) -> bool {
        self.through.get(device).is_some_and(|through| n < *through)
    }
}

/// A running load.
#[derive(Debug)]
pub struct Auditor {
    /// The device time of every device's message 0, in ms since 1970.
    pub epoch_ms: i64,
    tally: Arc<Mutex<Tally>>,
    stopping: watch::Sender<bool>,
    connections: JoinSet<anyhow::Result<()>>,
}

impl Auditor {
    /// Begins to publish to the broker on `port`, each device every `qos0_every`th message at
    /// `QoS` 0, or none if that is 0.
    pub fn start(port: u16, rate: usize, qos0_every: u64) -> Self {
        let epoch_ms = SystemClock.now().micros() / 1000 - 3_600_000;
        let tally = Tally { through: vec![0; DEVICES], ..Tally::default() };
        let (tally, stopping) = (Arc::new(Mutex::new(tally)), watch::Sender::new(false));
        let mut connections = JoinSet::new();
        let per_second = (rate / CONNECTIONS / AT_A_TIME).max(1);
        let tick = Duration::from_micros(1_000_000 / per_second as u64);
        for number in 0..CONNECTIONS {
            let connection = Connection {
                port,
                number,
                tick,
                qos0_every,
                epoch_ms,
                made: 0,
                next_id: 1,
                pending: VecDeque::new(),
                tally: Arc::clone(&tally),
                stopping: stopping.subscribe(),
            };
            connections.spawn(connection.run());
        }
        Self { epoch_ms, tally, stopping, connections }
    }

    /// What is known now.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Waits until the broker has taken so many messages more.
    pub async fn publishes(&self, messages: u64) -> anyhow::Result<()> {
        let before = self.tally().taken();
        let deadline = Duration::from_mins(1);
        eventually_within(deadline, "the broker takes messages", async || {
            let taken = self.tally().taken() - before;
            ensure!(taken >= messages, "{taken} of {messages} taken");
            Ok(())
        })
        .await
    }

    /// Notes that the broker has died, and that nobody has heard of it since.
    pub fn broker_died(&self) {
        let mut tally = lock(&self.tally);
        let unsaved = std::mem::take(&mut tally.newest);
        tally.unsure.extend(unsaved.into_iter().map(|(_, device, n)| (device, n)));
    }

    /// Publishes no more, and waits until everything is acknowledged.
    pub async fn stop(&mut self) -> anyhow::Result<Tally> {
        self.stopping.send_replace(true);
        let ended = async {
            while let Some(ended) = self.connections.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        timeout(Duration::from_mins(1), ended)
            .await
            .context("not everything is acknowledged")??;
        Ok(self.tally())
    }
}

/// The name of a device of the load.
pub fn device_name(device: usize) -> String {
    format!("audit-{device}")
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection of some devices: those whose number ends like its own.
struct Connection {
    port: u16,
    number: usize,
    tick: Duration,
    qos0_every: u64,
    epoch_ms: i64,
    made: usize,
    next_id: u16,
    /// What was published and is not acknowledged, oldest first.
    pending: VecDeque<Message>,
    tally: Arc<Mutex<Tally>>,
    stopping: watch::Receiver<bool>,
}

struct Message {
    device: usize,
    n: u64,
    /// None at `QoS` 0.
    id: Option<u16>,
}

impl Connection {
    /// Publishes, over any number of broken connections, until told to stop.
    async fn run(mut self) -> anyhow::Result<()> {
        let id = format!("audit-{}", self.number);
        while !(*self.stopping.borrow() && self.pending.is_empty()) {
            if let Ok((speaker, listener)) = publisher::connect(self.port, &id).await
                && self.publish(speaker, listener).await.is_ok()
            {
                break;
            }
            sleep(RETRY_AFTER).await;
        }
        Ok(())
    }

    /// Publishes on one connection until it breaks, or until all is done.
    async fn publish(
        &mut self,
        mut speaker: Speaker,
        mut listener: Listener,
    ) -> anyhow::Result<()> {
        self.forget_unsure();
        let again: Vec<u8> = self.pending.iter().flat_map(|message| self.encode(message)).collect();
        timeout(PATIENCE, speaker.send(&again)).await??;
        let mut tick = interval(self.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acknowledged_at = Instant::now();
        loop {
            // Reading is resumable: one task, and nothing else reads.
            let reading = listener.acknowledged();
            tokio::pin!(reading);
            let id = loop {
                tokio::select! {
                    id = &mut reading => break id?,
                    _ = tick.tick() => {
                        let packets = self.due();
                        if packets.is_empty() && self.pending.is_empty() {
                            if *self.stopping.borrow() {
                                return Ok(());
                            }
                            acknowledged_at = Instant::now();
                        }
                        timeout(PATIENCE, speaker.send(&packets)).await??;
                    }
                    () = sleep_until(acknowledged_at + PATIENCE) => {
                        anyhow::bail!("the broker acknowledges nothing");
                    }
                }
            };
            acknowledged_at = Instant::now();
            self.acknowledged(id)?;
        }
    }

    /// The messages that are due now; the last of all is at `QoS` 1.
    fn due(&mut self) -> Vec<u8> {
        let stopping = *self.stopping.borrow();
        let unconfirmed = self.pending.back().is_some_and(|message| message.id.is_none());
        let count = match (stopping, unconfirmed) {
            (true, false) => 0,
            (true, true) => 1,
            (false, _) => AT_A_TIME.min(IN_FLIGHT.saturating_sub(self.pending.len())),
        };
        let mut packets = Vec::new();
        for _ in 0..count {
            let message = self.make(stopping);
            packets.extend(self.encode(&message));
            self.pending.push_back(message);
        }
        packets
    }

    fn make(&mut self, at_least_once: bool) -> Message {
        let own = DEVICES / CONNECTIONS;
        let (device, n) = ((self.made % own) * CONNECTIONS + self.number, self.made / own);
        self.made += 1;
        let n = n as u64;
        let is_its_turn = self.qos0_every > 0 && n.is_multiple_of(self.qos0_every);
        let at_most_once = is_its_turn && !at_least_once;
        let id = (!at_most_once).then(|| {
            let id = self.next_id;
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            id
        });
        Message { device, n, id }
    }

    fn encode(&self, message: &Message) -> Vec<u8> {
        let Message { device, n, id } = *message;
        let device = device_name(device);
        let time = self.epoch_ms + n.cast_signed();
        let (tenths, even) = (format!("{}.{}", n / 10, n % 10), n.is_multiple_of(2));
        let payload = format!(
            r#"{{"timestamp":{time},"n":{n},"tenths":{tenths},"even":{even},"name":"{device}/{n}"}}"#
        );
        publisher::publish(&format!("devices/{device}/telemetry"), payload.as_bytes(), id)
    }

    fn acknowledged(&mut self, id: u16) -> anyhow::Result<()> {
        let mut tally = lock(&self.tally);
        while tally.newest.front().is_some_and(|(when, ..)| when.elapsed() > UNSAVED) {
            tally.newest.pop_front();
        }
        loop {
            let message = self.pending.pop_front().context("acknowledged without a message")?;
            let through = tally.through.get_mut(message.device).context("no such device")?;
            *through = message.n + 1;
            tally.newest.push_back((Instant::now(), message.device, message.n));
            if let Some(expected) = message.id {
                ensure!(id == expected, "{id} is acknowledged before {expected}");
                return Ok(());
            }
        }
    }

    /// Nobody will ever know of those at `QoS` 0.
    fn forget_unsure(&mut self) {
        let mut tally = lock(&self.tally);
        let lost = self.pending.iter().filter(|message| message.id.is_none());
        tally.unsure.extend(lost.map(|message| (message.device, message.n)));
        self.pending.retain(|message| message.id.is_some());
    }
}
