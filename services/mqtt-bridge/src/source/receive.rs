//! From what comes on a connection into the window: taken, let go, or left with the broker.

use std::hash::BuildHasher;

use rumqttc::Publish;
use service_kit::trace;
use telemetry_decode::{Reason, Rejected};
use telemetry_model::{DeviceClock, EventKind, Message, TraceParent};

use super::{Receipt, Source};
use crate::{
    rejected::Extent,
    window::{Full, Identity, Owed, weight},
};

impl Source {
    /// By what this delivery is known if it comes again.
    pub(super) fn identity(&self, publish: &Publish) -> Identity {
        let fingerprint = self.fingerprints.hash_one((&publish.topic, &publish.payload));
        Identity { packet_id: publish.pkid, fingerprint }
    }

    /// Takes a message into the window, or lets it go, as one that is known already. One for which
    /// there is no room is left with the broker, if it sends it again.
    pub(super) fn receive(
        &mut self,
        publish: &Publish,
        owed: Option<Owed<Receipt>>,
        is_known: bool,
    ) -> Result<(), Full> {
        let is_qos0 = owed.is_none();
        let received = if is_known {
            self.link.window().let_go(Reason::Redelivered, owed);
            Ok(())
        } else {
            self.take(publish, owed)
        };
        let mut window = self.link.window();
        let unacked = window.owed();
        let settled = window.settled();
        if settled.is_empty() {
            drop(window);
        } else {
            self.link.acknowledge(window, settled);
        }
        self.link.delivery().received(is_qos0, unacked);
        received
    }

    fn take(&mut self, publish: &Publish, owed: Option<Owed<Receipt>>) -> Result<(), Full> {
        let is_qos0 = owed.is_none();
        let topic = String::from_utf8_lossy(&publish.topic);
        let given = trace_parent(publish);
        let parent = given.as_ref().map(TraceParent::as_str);
        let mut span = trace::begin("mqtt receive", trace::Kind::Consumer, parent);
        let _lines = span.as_ref().map(|span| span.log().entered());
        if let Some(span) = &mut span {
            span.set("messaging.destination.name", topic.to_string());
        }
        let mut message = self.intake.take(&topic, publish.qos as u8, &publish.payload);
        if let Some(event) = &mut message.event {
            // While we record nothing ourselves, what others record goes on through us.
            let sampled = given.filter(|given| !trace::is_on() && given.is_sampled());
            let own = span.as_ref().and_then(|span| TraceParent::parse(&span.context()).ok());
            event.trace = own.or(sampled);
        }
        let device = message.event.as_ref().map(|event| event.device.clone());
        let let_go = |reason, owed, detail| {
            self.link.window().let_go(reason, owed);
            let rejected = Rejected::new(reason, "payload", detail);
            self.link.rejections().record(device.as_ref(), &topic, &rejected, Extent::Message);
        };
        let rates = self.rates.as_mut().zip(device.as_ref());
        if rates.is_some_and(|(rates, device)| !rates.take(device)) {
            let_go(Reason::RateLimited, owed, "the device sends more than DEVICE_RATE allows");
            return Ok(());
        }
        if publish.retain && !keep_retained(&mut message) {
            let detail = "retained by the broker, and without a time that says of when it is";
            let_go(Reason::Retained, owed, detail);
            return Ok(());
        }
        let bytes = weight(&message);
        let pushed = self.link.window().push(message, owed, bytes);
        if pushed.is_err() && is_qos0 {
            let detail = "the store is away and QoS 0 messages no longer fit in memory";
            let_go(Reason::WindowFull, None, detail);
            return Ok(());
        }
        pushed
    }
}

/// The span that published it, if it says so in a user property as W3C has it for MQTT.
fn trace_parent(publish: &Publish) -> Option<TraceParent> {
    let properties = publish.properties.as_ref()?;
    let (_, text) = properties.user_properties.iter().find(|(key, _)| key == "traceparent")?;
    TraceParent::parse(text).ok()
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
