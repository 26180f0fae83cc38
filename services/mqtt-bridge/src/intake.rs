//! From a message to an event or a rejection: who sent it, when it came, what it says. No I/O.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use telemetry_model::{Clock, DeviceId, Event, EventKind, Sample, Timestamp};

use crate::{
    rejected::{Reason, Rejected, Rejections},
    topic::Router,
    window::weight,
};

/// The heaviest event. What weighs more might not fit into one request to the store, which takes
/// 4 MiB, and could then never be sent: long keys around many values can do that.
pub(crate) const MAX_EVENT_BYTES: usize = 3 * 1024 * 1024;

/// Makes samples of a payload.
pub(crate) type Decoder = fn(EventKind, &[u8]) -> Result<Vec<Sample>, Rejected>;

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

    /// The event in a message; nothing if it was rejected, which is then counted and logged.
    pub(crate) fn take(&mut self, topic: &str, payload: &[u8]) -> Option<Event> {
        let (device, kind) = match self.router.route(topic) {
            Ok(route) => route,
            Err(rejected) => {
                self.rejections.record(None, topic, &rejected);
                return None;
            }
        };
        match self.event(&device, kind, payload) {
            Ok(event) => Some(event),
            Err(rejected) => {
                self.rejections.record(Some(&device), topic, &rejected);
                None
            }
        }
    }

    fn event(
        &mut self,
        device: &DeviceId,
        kind: EventKind,
        payload: &[u8],
    ) -> Result<Event, Rejected> {
        // A decoder that panics must not take the listener with it.
        let samples = std::panic::catch_unwind(AssertUnwindSafe(|| (self.decode)(kind, payload)));
        let samples = samples.unwrap_or_else(|_| {
            Err(Rejected::new(Reason::DecoderFailed, "payload", "the decoder panicked on it"))
        })?;
        let mut event = Event { device: device.clone(), kind, received: Timestamp::MIN, samples };
        if weight(Some(&event)) > MAX_EVENT_BYTES {
            match kind {
                EventKind::Telemetry => {
                    let detail = format!("takes more than {MAX_EVENT_BYTES} bytes once unfolded");
                    return Err(Rejected::new(Reason::TooLarge, "payload", detail));
                }
                // It is a sign of life whatever it says.
                EventKind::Heartbeat => event.samples.clear(),
            }
        }
        event.received = self.stamp.next(event.samples.len());
        Ok(event)
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
    /// get the microseconds after it.
    fn next(&mut self, samples: usize) -> Timestamp {
        let received = self.clock.now().max(self.last.plus(Duration::from_micros(1)));
        let more = u64::try_from(samples.saturating_sub(1)).unwrap_or(u64::MAX);
        self.last = received.plus(Duration::from_micros(more));
        received
    }
}

#[cfg(test)]
mod tests {
    use telemetry_model::ManualClock;

    use super::*;
    use crate::{decode::decode, topic::TopicFilter};

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
            intake.take("devices/a/telemetry", payload).unwrap().received.micros() - NOON
        };
        assert_eq!(received(br#"{"t":1}"#), 0);
        assert_eq!(received(br#"[{"t":1},{"t":2},{"t":3}]"#), 1);
        assert_eq!(received(br#"{"t":1}"#), 4);
        clock.set(at(NOON - 1_000_000));
        assert_eq!(received(br#"{"t":1}"#), 5, "a clock that is set back");
        clock.set(at(NOON + 1_000_000));
        assert_eq!(received(br#"{"t":1}"#), 1_000_000);
    }

    #[tokio::test]
    async fn a_decoder_that_panics_harms_no_other_message() {
        let (mut intake, _) = intake(|kind, payload| {
            assert!(payload != b"poison", "on purpose");
            decode(kind, payload)
        });
        assert_eq!(intake.take("devices/a/telemetry", b"poison"), None);
        assert!(intake.take("devices/a/telemetry", br#"{"t":1}"#).is_some());
        assert_eq!(intake.take("elsewhere", br#"{"t":1}"#), None);
    }

    #[tokio::test]
    async fn what_would_not_fit_into_a_request_is_rejected() {
        let (mut intake, _) = intake(decode);
        let zeros = vec!["0"; 1000].join(",");
        let sample = format!(r#"{{"{}":[{zeros}]}}"#, "k".repeat(120));
        let payload = format!("[{}]", vec![sample; 100].join(","));
        assert!(payload.len() < 256 * 1024);
        assert_eq!(intake.take("devices/a/telemetry", payload.as_bytes()), None);
        let hearty = format!(r#"{{"status":"{}"}}"#, "x".repeat(4000));
        assert!(intake.take("devices/a/heartbeat", hearty.as_bytes()).is_some());
    }
}
