//! What is known of the broker's side: how it delivers, and how the connection with it fails.

use telemetry_model::Timestamp;

/// The facts, since this process began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    /// Whether the broker has accepted us and the connection stands.
    pub(crate) connected: bool,
    /// Whether the broker still had our session when it accepted us last.
    pub(crate) session_present: bool,
    /// Since when it grants all that we need on this connection, and when it last said so with
    /// nothing left to send us.
    listening: Option<(Timestamp, Timestamp)>,
    /// What it answered to each of our subscriptions.
    pub(crate) grants: Vec<Grant>,
    /// Messages received at each `QoS`, redelivered ones included.
    pub(crate) qos0: u64,
    pub(crate) qos1: u64,
    /// The most messages that it sent before we acknowledged any: its limit if it stays at that.
    pub(crate) most_unacked: usize,
    /// The limit that we asked for.
    pub(crate) receive_maximum: u16,
    /// How often each class of failure occurred.
    pub(crate) failures: Vec<(&'static str, u64)>,
    pub(crate) last_failure: Option<LastFailure>,
}

/// The broker's answer to a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) filter: String,
    /// The `QoS` that it grants, or why it refuses.
    pub(crate) answer: Result<u8, String>,
}

/// A failure, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastFailure {
    pub(crate) class: &'static str,
    pub(crate) reason: String,
    pub(crate) time: Timestamp,
}

impl Delivery {
    /// Counts a failure.
    pub(crate) fn failed(&mut self, class: &'static str, reason: String, time: Timestamp) {
        match self.failures.iter_mut().find(|(known, _)| *known == class) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((class, 1)),
        }
        self.last_failure = Some(LastFailure { class, reason, time });
    }

    /// The broker has answered now what we asked at some time, and all that it sent before we asked is
    /// received: all it had, unless it may have held back more.
    pub(crate) fn answered(
        &mut self,
        is_granted: bool,
        has_heard_all: bool,
        asked: Timestamp,
        now: Timestamp,
    ) {
        self.listening = match self.listening {
            _ if !is_granted => None,
            Some((since, through)) if !has_heard_all => Some((since, through)),
            Some((since, through)) => Some((since, through.max(asked))),
            None => Some((now, now)),
        };
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        (self.connected, self.listening) = (false, None);
    }

    /// From when to when all messages that the broker had for us were received, with this connection.
    pub(crate) fn listening(&self) -> Option<(Timestamp, Timestamp)> {
        self.listening
    }

    /// Counts a message; so many are unacknowledged now.
    pub(crate) fn received(&mut self, is_qos0: bool, unacked: usize) {
        if is_qos0 {
            self.qos0 += 1;
        } else {
            self.qos1 += 1;
        }
        self.most_unacked = self.most_unacked.max(unacked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_class_and_the_last_is_remembered() {
        let mut delivery = Delivery::default();
        for class in ["network", "tls", "network"] {
            delivery.failed(class, format!("{class} again"), Timestamp::MIN);
        }
        assert_eq!(delivery.failures, [("network", 2), ("tls", 1)]);
        assert_eq!(delivery.last_failure.unwrap().reason, "network again");
    }

    #[test]
    fn we_listen_while_all_is_granted_and_nothing_held_back() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).unwrap();
        let mut delivery = Delivery::default();
        delivery.answered(false, true, at(1), at(1));
        assert_eq!(delivery.listening(), None);
        delivery.answered(true, true, at(1), at(2));
        delivery.answered(true, true, at(7), at(9));
        assert_eq!(delivery.listening(), Some((at(2), at(7))));
        delivery.answered(true, false, at(12), at(12));
        assert_eq!(delivery.listening(), Some((at(2), at(7))), "it holds back some");
        delivery.answered(true, true, at(22), at(23));
        assert_eq!(delivery.listening(), Some((at(2), at(22))));
        delivery.disconnected();
        assert_eq!(delivery.listening(), None);
    }

    #[test]
    fn the_most_that_was_unacknowledged_at_once_stays() {
        let mut delivery = Delivery::default();
        for unacked in [1, 20, 3] {
            delivery.received(unacked == 3, unacked);
        }
        assert_eq!((delivery.qos0, delivery.qos1, delivery.most_unacked), (1, 2, 20));
    }
}
