//! From what was published to a message: an event, a refusal, or both. Who sent it, when it came,
//! what it says. No I/O.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use telemetry_decode::{Decoded, Reason, Rejected, Router};
use telemetry_model::{Clock, DeviceId, Event, EventKind, Message, Refusal, Timestamp};

use crate::{
    rejected::{Extent, Rejections},
    window::weight_of_event,
};

/// The heaviest message. What weighs more might not fit into one request to the store, which takes
/// 4 MiB, and could then never be sent.
pub(crate) const MAX_MESSAGE_BYTES: usize = 3 * 1024 * 1024;
/// The heaviest event: what is left if the payload that it came from goes with it, as of one that is
/// half bad. Long keys around many values can weigh more.
const MAX_EVENT_BYTES: usize = MAX_MESSAGE_BYTES - 1024 * 1024 - 128 * 1024;

/// A clock that goes back by less than this is waited for; by more, it was set, and is followed.
const MAX_SET_BACK: Duration = Duration::from_secs(10);

/// Reads a payload.
pub(crate) type Decoder = fn(EventKind, &[u8]) -> Result<Decoded, Rejected>;

/// Takes messages in.
#[derive(Debug)]
pub(crate) struct Intake {
    router: Router,
    decode: Decoder,
    stamp: Stamp,
    rejections: Arc<Rejections>,
}

impl Intake {
    pub(crate) fn new(
        router: Router,
        decode: Decoder,
        clock: Arc<dyn Clock>,
        rejections: Arc<Rejections>,
    ) -> Self {
        let stamp = Stamp { clock, last: Timestamp::MIN };
        Self { router, decode, stamp, rejections }
    }

    /// What became of a message. A refusal, even of a part of it, is counted and logged.
    pub(crate) fn take(&mut self, topic: &str, qos: u8, payload: &[u8]) -> Message {
        let (device, kind, outcome) = match self.router.route(topic) {
            Ok((device, kind)) => {
                let outcome = self.event(&device, kind, payload);
                (Some(device), Some(kind), outcome)
            }
            Err(rejected) => (None, None, Err(rejected)),
        };
        let (event, rejected) = match outcome {
            Ok((event, rejected)) => (Some(event), rejected),
            Err(rejected) => (None, Some(rejected)),
        };
        let refusal = rejected.map(|rejected| {
            let extent = if event.is_some() { Extent::Part } else { Extent::Message };
            self.rejections.record(device.as_ref(), topic, &rejected, extent);
            let received = event.as_ref().map(|event| event.received);
            Refusal {
                device,
                kind,
                received: received.unwrap_or_else(|| self.stamp.next(1)),
                reason: rejected.reason.to_string(),
                field: rejected.field,
                detail: rejected.detail,
                payload: payload.to_vec(),
            }
        });
        Message { topic: topic.into(), qos, event, refusal }
    }

    /// The event in the good part of a payload, and what is wrong with the rest.
    fn event(
        &mut self,
        device: &DeviceId,
        kind: EventKind,
        payload: &[u8],
    ) -> Result<(Event, Option<Rejected>), Rejected> {
        // A decoder that panics must not take the listener with it.
        let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| (self.decode)(kind, payload)));
        let Decoded { samples, rejected } = decoded.unwrap_or_else(|_| {
            Err(Rejected::new(Reason::DecoderFailed, "payload", "the decoder panicked on it"))
        })?;
        let mut event =
            Event { device: device.clone(), kind, received: Timestamp::MIN, samples, trace: None };
        if weight_of_event(&event) > MAX_EVENT_BYTES {
            match kind {
                EventKind::Telemetry => {
                    let detail = format!("takes more than {MAX_EVENT_BYTES} bytes once unfolded");
                    return Err(Rejected::new(Reason::TooLarge, "payload", detail));
                }
                // It is a sign of life whatever it says.
                EventKind::Heartbeat => event.samples.clear(),
                // It says one thing.
                EventKind::Presence => {}
            }
        }
        event.received = self.stamp.next(event.samples.len());
        Ok((event, rejected))
    }
}

/// Says when messages were received.
#[derive(Debug)]
struct Stamp {
    clock: Arc<dyn Clock>,
    last: Timestamp,
}

impl Stamp {
    /// Now; but no two messages share an instant, nor do samples without a time of their own, which
    /// get the microseconds after it. Only a clock that is set back can say an instant twice, to the
    /// microsecond.
    fn next(&mut self, samples: usize) -> Timestamp {
        let (now, next) = (self.clock.now(), self.last.plus(Duration::from_micros(1)));
        let is_set_back = now.plus(MAX_SET_BACK) < next;
        let received = if is_set_back { now } else { now.max(next) };
        let more = u64::try_from(samples.saturating_sub(1)).unwrap_or(u64::MAX);
        self.last = received.plus(Duration::from_micros(more));
        received
    }
}

#[cfg(test)]
mod tests {
    use telemetry_decode::{TopicFilter, decode};
    use telemetry_model::ManualClock;

    use super::*;

    const NOON: i64 = 1_767_787_200_000_000;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn intake(decode: Decoder) -> (Intake, Arc<ManualClock>) {
        let mut router = Router::default();
        let filter = |text| [TopicFilter::parse("x", text).unwrap()];
        router.add(&filter("devices/+/telemetry"), EventKind::Telemetry);
        router.add(&filter("devices/+/heartbeat"), EventKind::Heartbeat);
        let clock = Arc::new(ManualClock::new(at(NOON)));
        let rejections = Arc::new(Rejections::default());
        (Intake::new(router, decode, Arc::clone(&clock) as Arc<dyn Clock>, rejections), clock)
    }

    #[test]
    fn no_two_samples_of_all_messages_share_an_instant() {
        let (mut intake, clock) = intake(decode);
        let mut received = |payload: &[u8]| {
            intake.take("devices/a/telemetry", 1, payload).event.unwrap().received.micros() - NOON
        };
        assert_eq!(received(br#"{"t":1}"#), 0);
        assert_eq!(received(br#"[{"t":1},{"t":2},{"t":3}]"#), 1);
        assert_eq!(received(br#"{"t":1}"#), 4);
        clock.set(at(NOON - 1_000_000));
        assert_eq!(received(br#"{"t":1}"#), 5, "a clock that is set back");
        clock.set(at(NOON + 1_000_000));
        assert_eq!(received(br#"{"t":1}"#), 1_000_000);
        clock.set(at(NOON - 10_000_000));
        assert_eq!(received(br#"{"t":1}"#), -10_000_000, "a clock that is set back by much");
        assert_eq!(received(br#"{"t":1}"#), -9_999_999);
    }

    #[tokio::test]
    async fn a_decoder_that_panics_harms_no_other_message() {
        let (mut intake, _) = intake(|kind, payload| {
            assert!(payload != b"poison", "on purpose");
            decode(kind, payload)
        });
        assert!(intake.take("devices/a/telemetry", 1, b"poison").event.is_none());
        assert!(intake.take("devices/a/telemetry", 1, br#"{"t":1}"#).event.is_some());
        assert!(intake.take("elsewhere", 1, br#"{"t":1}"#).event.is_none());
    }

    #[tokio::test]
    async fn the_good_part_of_a_message_is_an_event() {
        let (mut intake, _) = intake(decode);
        let mut samples = |payload: &str| {
            let message = intake.take("devices/a/telemetry", 1, payload.as_bytes());
            (message.event.map(|event| event.samples), message.refusal.map(|r| r.reason))
        };
        let long = "x".repeat(5000);
        let half_bad = samples(&format!(r#"{{"t":1,"note":"{long}"}}"#));
        let reason = Some("invalid_value".to_owned());
        assert_eq!(half_bad, (samples(r#"{"t":1}"#).0, reason.clone()));
        assert!(half_bad.0.is_some());
        assert_eq!(samples(&format!(r#"{{"note":"{long}"}}"#)), (None, reason));
        assert_eq!(intake.rejections.totals()[&Reason::InvalidValue], 2);
    }

    #[tokio::test]
    async fn what_would_not_fit_into_a_request_is_rejected() {
        let (mut intake, _) = intake(decode);
        let zeros = vec!["0"; 1000].join(",");
        let sample = format!(r#"{{"{}":[{zeros}]}}"#, "k".repeat(120));
        let payload = format!("[{}]", vec![sample; 100].join(","));
        assert!(payload.len() < 256 * 1024);
        assert!(intake.take("devices/a/telemetry", 1, payload.as_bytes()).event.is_none());
        let hearty = format!(r#"{{"status":"{}"}}"#, "x".repeat(4000));
        assert!(intake.take("devices/a/heartbeat", 1, hearty.as_bytes()).event.is_some());
    }
}
