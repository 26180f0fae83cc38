//! One connection with the broker, from CONNECT until it is lost or left.

use std::{collections::VecDeque, future::ready, pin::pin};

use rumqttc::{
    AsyncClient, ConnectionError, Event as Activity, EventLoop, Packet, Publish, SubAck,
    SubscribeReasonCode,
};
use telemetry_model::Timestamp;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    ROOM, Receipt, Source,
    failure::{Class, Failure},
    leaving::{Leaving, Next},
    socket::Valve,
};
use crate::{
    backoff::{self, Backoff},
    delivery::Grant,
    window::Owed,
};

/// How often we ask for our subscriptions again. It must be shorter than the keep-alive, so that
/// the client sends no pings: it would take a broker for dead whose answer to a ping waits behind
/// all that the broker has to send.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Messages that are read before the uplink hears of them, if there are so many to read: what a
/// broker sends at once is then committed at once, even if it is as little as 20.
const NEWS: usize = 100;
/// A broker that says nothing for so long is gone: less than twice the keep-alive.
const SILENCE: Duration = Duration::from_secs(15);

/// Why a connection ended.
pub(super) enum Ended {
    /// We left, and have read all that the broker had sent.
    Left,
    /// It was lost, or not made.
    Failed(Failure),
}

/// One connection.
pub(super) struct Connection<'a> {
    source: &'a mut Source,
    backoff: &'a mut Backoff,
    /// From here on nothing that the broker would send again is taken.
    stopping: &'a CancellationToken,
    /// Then we leave.
    leave: &'a CancellationToken,
    client: AsyncClient,
    valve: Valve,
    accepted_at: Option<Instant>,
    heard_at: Instant,
    /// When to ask for the subscriptions (again); of the questions that wait for answers, when each was
    /// asked, and how many messages were unacknowledged then.
    ask_at: Instant,
    unanswered: VecDeque<(Timestamp, usize)>,
    grants: Vec<Grant>,
    /// Whether messages were left with the broker, which sends them again on the next connection.
    has_left_messages: bool,
    /// Messages in the window that the uplink has not heard of.
    news: usize,
    leaving: Leaving,
}

impl<'a> Connection<'a> {
    /// Connects, and listens until the connection ends.
    pub(super) async fn listen(
        source: &'a mut Source,
        backoff: &'a mut Backoff,
        stopping: &'a CancellationToken,
        leave: &'a CancellationToken,
    ) -> Ended {
        let mut options = source.options.clone();
        let valve = Valve::of(&mut options, source.encryption.clone());
        let (client, mut events) = AsyncClient::builder(options).capacity(source.queue).build();
        let now = Instant::now();
        let mut connection = Self {
            source,
            backoff,
            stopping,
            leave,
            client,
            valve,
            accepted_at: None,
            heard_at: now,
            ask_at: now,
            unanswered: VecDeque::new(),
            grants: Vec::new(),
            has_left_messages: false,
            news: 0,
            leaving: Leaving::not_yet(),
        };
        loop {
            if let Err(ended) = connection.step(&mut events).await {
                connection.tell();
                return ended;
            }
        }
    }

    async fn step(&mut self, events: &mut EventLoop) -> Result<(), Ended> {
        self.tend()?;
        let Activity::Incoming(packet) = self.next_activity(events).await? else { return Ok(()) };
        self.heard_at = Instant::now();
        match packet {
            Packet::ConnAck(connack) => self.accepted(connack.session_present),
            Packet::SubAck(suback) => self.answered(&suback),
            Packet::Publish(publish) => self.receive(&publish),
            _ => {}
        }
        Ok(())
    }

    /// What happens next. Polling is not broken off, as that may lose a packet that was half read.
    async fn next_activity(&mut self, events: &mut EventLoop) -> Result<Activity, Ended> {
        let mut poll = pin!(events.poll());
        loop {
            // While the window could not take what the broker does not send again, nothing is read:
            // TCP then holds the broker back, which keeps what it cannot send.
            let is_held = self.accepted_at.is_some() && !self.source.link.window().takes(ROOM);
            self.valve.hold(is_held);
            let (alarm, awaits_room) = (self.alarm(), self.has_left_messages && self.is_staying());
            tokio::select! {
                biased;
                activity = &mut poll => return activity.map_err(|error| self.ended(&error)),
                // Nothing more to read for now.
                () = ready(()), if self.news > 0 => self.tell(),
                () = sleep_until(alarm) => {}
                () = self.leave.cancelled(), if !self.leaving.is_told() => {}
                () = self.source.link.has_room(), if awaits_room => self.begin_leaving()?,
                () = self.source.link.takes(ROOM), if is_held => {}
            }
            if is_held {
                // Nothing was heard because we did not listen.
                self.heard_at = Instant::now();
            }
            self.tend()?;
        }
    }

    /// Does what it is time for.
    fn tend(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if !self.leaving.is_told() && self.leave.is_cancelled() {
            self.leaving.told(now);
            if self.accepted_at.is_none() {
                return Err(Ended::Left);
            }
            self.begin_leaving()?;
        }
        if self.accepted_at.is_none() {
            return Ok(());
        }
        if self.is_staying() && !self.source.link.is_streaming() && !self.has_memory() {
            tracing::warn!("the store is away and memory nearly used, leaving it to the broker");
            self.begin_leaving()?;
        }
        match self.leaving.next(self.unanswered.is_empty(), now) {
            Next::Listen if self.ask_at <= now => self.ask()?,
            Next::Listen | Next::ReadOn => {}
            Next::Close => self.valve.close(),
            Next::Go => return Err(Ended::Left),
        }
        if self.heard_at + SILENCE <= now {
            return Err(self.unless_left(Failure::silence()));
        }
        Ok(())
    }

    /// When it is time for something.
    fn alarm(&self) -> Instant {
        if self.accepted_at.is_none() {
            // The client's own timeout is for that.
            return Instant::now() + SILENCE;
        }
        let silent = self.heard_at + SILENCE;
        let ask_at = if self.leaving.is_closed() { silent } else { self.ask_at };
        silent.min(ask_at).min(self.leaving.deadline().unwrap_or(silent))
    }

    fn is_staying(&self) -> bool {
        self.leaving.is_staying()
    }

    /// Whether there is memory for what comes while we leave.
    fn has_memory(&self) -> bool {
        self.source.link.window().takes(self.source.reserve)
    }

    fn begin_leaving(&mut self) -> Result<(), Ended> {
        if self.leaving.begins() { self.ask() } else { Ok(()) }
    }

    /// Subscribes, also within a session and again and again: the answer says that the broker is
    /// there, and that we (still) may read.
    fn ask(&mut self) -> Result<(), Ended> {
        let asked = self.client.try_subscribe_many(self.source.filters.clone());
        asked.map_err(|error| {
            self.unless_left(Failure { class: Class::Protocol, reason: error.to_string() })
        })?;
        let unacked = self.source.link.window().owed();
        self.unanswered.push_back((self.source.clock.now(), unacked));
        self.ask_at = Instant::now() + ASK_EVERY;
        Ok(())
    }

    fn accepted(&mut self, session_present: bool) {
        tracing::info!(session_present, "connected to MQTT broker");
        self.accepted_at = Some(Instant::now());
        self.ask_at = Instant::now();
        let mut delivery = self.source.link.delivery();
        (delivery.connected, delivery.session_present) = (true, session_present);
        let had_session = !delivery.grants.is_empty();
        drop(delivery);
        if !session_present {
            self.source.link.window().session_lost();
            if had_session {
                let fix = "let the broker keep sessions: see persistence in our mosquitto.conf";
                tracing::warn!(fix, "MQTT broker has lost our session, and what waited in it");
            }
        }
    }

    /// Looks whether we may read everything. What we may read is read in any case.
    fn answered(&mut self, suback: &SubAck) {
        let now = self.source.clock.now();
        // An answer may have waited to be read, with messages behind it: it tells of when we asked.
        let (asked, unacked) = self.unanswered.pop_front().unwrap_or((now, 0));
        let answers = self.source.filters.iter().zip(&suback.return_codes);
        let grants: Vec<_> = answers
            .map(|(filter, code)| Grant {
                filter: filter.path.clone(),
                answer: match code {
                    SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    refused => Err(format!("{refused:?}")),
                },
            })
            .collect();
        let needed = grants.iter().take(self.source.needed);
        let is_granted = needed.clone().count() == self.source.needed
            && needed.clone().all(|grant| grant.answer.is_ok());
        let is_news = grants != self.grants;
        for Grant { filter, answer } in &grants {
            match answer {
                Ok(qos) if is_news => tracing::info!(filter, qos, "subscribed"),
                Ok(_) => {}
                // We ask again soon if it is one that we can do without; it is said once.
                Err(_) if is_granted && !is_news => {}
                Err(reason) => self.source.failed(
                    &Failure { class: Class::Acl, reason: reason.clone() },
                    Some(filter),
                    backoff::CEILING,
                ),
            }
        }
        if is_granted {
            self.backoff.is_up();
        } else {
            self.ask_at = Instant::now() + backoff::CEILING;
        }
        self.source.link.set_subscribed(is_granted);
        let mut delivery = self.source.link.delivery();
        delivery.grants.clone_from(&grants);
        // While messages are left with the broker it has some that we have not heard. It may also
        // hold back some for as long as as many are unacknowledged as it ever sent.
        let holds_back = unacked > 0 && unacked >= delivery.most_unacked.div_ceil(2);
        let has_heard_all = !self.has_left_messages && !holds_back;
        delivery.answered(is_granted, has_heard_all, asked, now);
        drop(delivery);
        self.grants = grants;
    }

    /// Takes a message, or leaves it with the broker.
    fn receive(&mut self, publish: &Publish) {
        let owed = self.client.prepare_ack(publish).map(|ack| Owed {
            identity: self.source.identity(publish),
            receipt: Receipt { client: self.client.clone(), ack },
        });
        let is_ending = self.stopping.is_cancelled() || !self.is_staying();
        if owed.is_some() && (is_ending || self.has_left_messages) {
            // An acknowledgement must not overtake those of the messages that were left.
            self.has_left_messages = true;
            return;
        }
        let is_known = owed
            .as_ref()
            .is_some_and(|owed| self.source.link.window().knows(owed.identity, publish.dup));
        if self.source.receive(publish, owed, is_known).is_err() {
            self.has_left_messages = true;
            tracing::warn!("window full, leaving messages with the broker");
            return;
        }
        self.news += 1;
        if self.news >= NEWS {
            self.tell();
        }
    }

    /// Tells the uplink that there is something to send.
    fn tell(&mut self) {
        self.news = 0;
        self.source.link.has_arrived();
    }

    fn ended(&self, error: &ConnectionError) -> Ended {
        self.unless_left(Failure::of(error, self.accepted_at.map(|at| at.elapsed())))
    }

    fn unless_left(&self, failure: Failure) -> Ended {
        if self.leaving.is_closed() { Ended::Left } else { Ended::Failed(failure) }
    }
}
