//! What is known of the broker's side: how it delivers, and how the connection with it fails.

use telemetry_model::Timestamp;

/// The facts, since this process began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    /// Whether the broker has accepted us and the connection stands.
    pub(crate) connected: bool,
    /// Whether the broker still had our session when it accepted us last.
    pub(crate) session_present: bool,
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
    fn the_most_that_was_unacknowledged_at_once_stays() {
        let mut delivery = Delivery::default();
        for unacked in [1, 20, 3] {
            delivery.received(unacked == 3, unacked);
        }
        assert_eq!((delivery.qos0, delivery.qos1, delivery.most_unacked), (1, 2, 20));
    }
}
