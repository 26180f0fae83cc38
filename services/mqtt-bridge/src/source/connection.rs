//! One connection with the broker, from CONNECT until it is lost or left.

use std::{future::ready, pin::pin};

use rumqttc::{
    AsyncClient, ConnectionError, Event as Activity, EventLoop, Packet, Publish, SubAck,
    SubscribeReasonCode,
};
use telemetry_decode::{Reason, Rejected};
use telemetry_model::{DeviceClock, EventKind, Message};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Receipt, Source,
    failure::{Class, Failure},
    socket::Closer,
};
use crate::{
    backoff::{self, Backoff},
    delivery::Grant,
    intake::MAX_MESSAGE_BYTES,
    rejected::Extent,
    window::{Window, weight},
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
/// How long the broker may take to answer our last question, and then to hang up, when we stop.
const FAREWELL: Duration = Duration::from_millis(800);

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
    closer: Closer,
    accepted_at: Option<Instant>,
    heard_at: Instant,
    /// When to ask for the subscriptions (again), and how many of these questions wait for answers.
    ask_at: Instant,
    unanswered: u32,
    grants: Vec<Grant>,
    /// Whether messages were left with the broker, which sends them again on the next connection.
    has_left_messages: bool,
    /// Messages in the window that the uplink has not heard of.
    news: usize,
    leaving: Leaving,
    /// When we leave whatever the broker does, once we were told to.
    deadline: Option<Instant>,
}

/// How far we are with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// We wait for an answer from the broker. It answers in order: so then it has read our
    /// acknowledgements, and we all that it had been waiting to send.
    Asked,
    /// Our direction is closed. The broker closes the other when it sees that, and keeps the
    /// session; what it sends until then is read.
    Closed,
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
        let closer = Closer::of(&mut options, source.encryption.clone());
        let (client, mut events) = AsyncClient::builder(options).capacity(source.queue).build();
        let now = Instant::now();
        let mut connection = Self {
            source,
            backoff,
            stopping,
            leave,
            client,
            closer,
            accepted_at: None,
            heard_at: now,
            ask_at: now,
            unanswered: 0,
            grants: Vec::new(),
            has_left_messages: false,
            news: 0,
            leaving: Leaving::No,
            deadline: None,
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
        if self.is_held() {
            self.tell();
            self.hold().await;
            self.tend()?;
        }
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
            let (alarm, awaits_room) = (self.alarm(), self.has_left_messages && self.is_staying());
            tokio::select! {
                biased;
                activity = &mut poll => return activity.map_err(|error| self.ended(&error)),
                // Nothing more to read for now.
                () = ready(()), if self.news > 0 => self.tell(),
                () = sleep_until(alarm) => {}
                () = self.leave.cancelled(), if self.deadline.is_none() => {}
                () = self.source.link.has_room(), if awaits_room => self.begin_leaving()?,
            }
            self.tend()?;
        }
    }

    /// True while the window could not take what the broker does not send again.
    fn is_held(&self) -> bool {
        self.accepted_at.is_some() && !self.source.link.window().takes(MAX_MESSAGE_BYTES)
    }

    /// Reads nothing until the window takes more, or it is time to say something. TCP then holds
    /// the broker back, which keeps what it cannot send.
    async fn hold(&mut self) {
        tokio::select! {
            () = self.source.link.takes(MAX_MESSAGE_BYTES) => {}
            () = sleep_until(self.alarm()) => {}
            () = self.leave.cancelled(), if self.deadline.is_none() => {}
        }
        // Nothing was heard because we did not listen.
        self.heard_at = Instant::now();
    }

    /// Does what it is time for.
    fn tend(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if self.deadline.is_none() && self.leave.is_cancelled() {
            self.deadline = Some(now + FAREWELL);
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
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        match self.leaving {
            Leaving::Asked if is_late || self.unanswered == 0 => {
                self.closer.close();
                self.leaving = Leaving::Closed;
                self.deadline = self.deadline.map(|_| now + FAREWELL);
            }
            Leaving::Closed if is_late => return Err(Ended::Left),
            Leaving::Closed => {}
            _ if self.ask_at <= now => self.ask()?,
            _ => {}
        }
        if self.heard_at + SILENCE <= now {
            return Err(self.unless_left(Failure::silence()));
        }
        Ok(())
    }

    /// When it is time for something.
    fn alarm(&self) -> Instant {
        let silent = self.heard_at + SILENCE;
        let ask_at = match self.leaving {
            // The client's own timeout is for that.
            _ if self.accepted_at.is_none() => return Instant::now() + SILENCE,
            Leaving::Closed => silent,
            _ => self.ask_at,
        };
        silent.min(ask_at).min(self.deadline.unwrap_or(silent))
    }

    fn is_staying(&self) -> bool {
        self.leaving == Leaving::No
    }

    /// Whether there is memory for what comes while we leave.
    fn has_memory(&self) -> bool {
        self.source.link.window().takes(self.source.reserve)
    }

    fn begin_leaving(&mut self) -> Result<(), Ended> {
        if self.is_staying() {
            self.leaving = Leaving::Asked;
            self.ask()?;
        }
        Ok(())
    }

    /// Subscribes, also within a session and again and again: the answer says that the broker is
    /// there, and that we (still) may read.
    fn ask(&mut self) -> Result<(), Ended> {
        let asked = self.client.try_subscribe_many(self.source.filters.clone());
        asked.map_err(|error| {
            self.unless_left(Failure { class: Class::Protocol, reason: error.to_string() })
        })?;
        self.unanswered += 1;
        self.ask_at = Instant::now() + ASK_EVERY;
        Ok(())
    }

    fn accepted(&mut self, session_present: bool) {
        tracing::info!(session_present, "connected to MQTT broker");
        self.accepted_at = Some(Instant::now());
        self.ask_at = Instant::now();
        let mut delivery = self.source.link.delivery();
        (delivery.connected, delivery.session_present) = (true, session_present);
    }

    /// Looks whether we may read everything. What we may read is read in any case.
    fn answered(&mut self, suback: &SubAck) {
        self.unanswered = self.unanswered.saturating_sub(1);
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
        let unacked = self.source.link.window().owed();
        let mut delivery = self.source.link.delivery();
        delivery.grants.clone_from(&grants);
        // While messages are left with the broker it has some that we have not heard. It may also
        // hold back some for as long as as many are unacknowledged as it ever sent.
        let holds_back = unacked > 0 && unacked >= delivery.most_unacked.div_ceil(2);
        let has_heard_all = !self.has_left_messages && !holds_back;
        delivery.answered(is_granted, has_heard_all, self.source.clock.now());
        drop(delivery);
        self.grants = grants;
    }

    /// Takes a message into the window.
    fn receive(&mut self, publish: &Publish) {
        let ack = self.client.prepare_ack(publish);
        let is_qos0 = ack.is_none();
        let is_ending = self.stopping.is_cancelled() || !self.is_staying();
        if !is_qos0 && (is_ending || self.has_left_messages) {
            // An acknowledgement must not overtake those of the messages that were left.
            self.has_left_messages = true;
            return;
        }
        let receipt = ack.map(|ack| Receipt { client: self.client.clone(), ack });
        let topic = String::from_utf8_lossy(&publish.topic);
        let mut message = self.source.intake.take(&topic, publish.qos as u8, &publish.payload);
        let device = message.event.as_ref().map(|event| event.device.clone());
        let bytes = weight(&message);
        let link = &self.source.link;
        let mut window = link.window();
        let let_go = |window: &mut Window<Receipt>, reason, receipt, detail| {
            window.let_go(reason, receipt);
            let rejected = Rejected::new(reason, "payload", detail);
            link.rejections().record(device.as_ref(), &topic, &rejected, Extent::Message);
        };
        let mut is_full = false;
        if publish.retain && !keep_retained(&mut message) {
            let detail = "retained by the broker, and without a time that says of when it is";
            let_go(&mut window, Reason::Retained, receipt, detail);
        } else if window.push(message, receipt, bytes).is_err() {
            is_full = true;
            if is_qos0 {
                let detail = "the store is away and QoS 0 messages no longer fit in memory";
                let_go(&mut window, Reason::WindowFull, None, detail);
            }
        }
        let owed = window.owed();
        let settled = window.settled();
        if settled.is_empty() {
            drop(window);
        } else {
            link.acknowledge(window, settled);
        }
        link.delivery().received(is_qos0, owed);
        if is_full {
            if !is_qos0 {
                self.has_left_messages = true;
                tracing::warn!("window full, leaving messages with the broker");
            }
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
        if self.leaving == Leaving::Closed { Ended::Left } else { Ended::Failed(failure) }
    }
}

/// Whether to keep a message that the broker had retained. It is old, and comes again whenever
/// somebody subscribes anew: telemetry can be kept only if its own time makes it one and the same. A
/// retained sign of life is none, whatever it says; that a device is gone may still be so, and goes
/// on marked as retained.
fn keep_retained(message: &mut Message) -> bool {
    let Some(event) = &mut message.event else { return false };
    let is_wall = |clock| matches!(clock, DeviceClock::Wall(_));
    match event.kind {
        EventKind::Telemetry => event.samples.iter().all(|sample| is_wall(sample.clock)),
        EventKind::Heartbeat => false,
        EventKind::Presence => event.mark_retained(),
    }
}
