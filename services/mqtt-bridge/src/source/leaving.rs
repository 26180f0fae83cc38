//! The way out of a connection: a question is asked and its answer awaited, then our direction is
//! closed and the other read to its end. Pure.

use tokio::time::{Duration, Instant};

/// How long the broker may take to answer our last question, and then to hang up, when we stop.
const FAREWELL: Duration = Duration::from_millis(800);

/// How far we are with leaving.
#[derive(Debug)]
pub(super) struct Leaving {
    stage: Stage,
    /// When the next step is taken whatever the broker does, once we were told to leave.
    deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Staying,
    /// We wait for an answer from the broker. It answers in order: so then it has read our
    /// acknowledgements, and we all that it had been waiting to send.
    Asked,
    /// Our direction is closed. The broker closes the other when it sees that, and keeps the
    /// session; what it sends until then is read.
    Closed,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To listen, and to ask when it is time for it.
    Listen,
    /// To close our direction.
    Close,
    /// To read what still comes.
    ReadOn,
    /// To go, as the broker does not hang up.
    Go,
}

impl Leaving {
    /// We stay.
    pub(super) fn not_yet() -> Self {
        Self { stage: Stage::Staying, deadline: None }
    }

    pub(super) fn is_staying(&self) -> bool {
        self.stage == Stage::Staying
    }

    /// Whether whatever ends the connection now ends it well.
    pub(super) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Whether we were told to leave.
    pub(super) fn is_told(&self) -> bool {
        self.deadline.is_some()
    }

    /// We are told to leave, and not to take long over it.
    pub(super) fn told(&mut self, now: Instant) {
        self.deadline = Some(now + FAREWELL);
    }

    /// Begins. True if it had not begun: then the question is to be asked.
    pub(super) fn begins(&mut self) -> bool {
        let was_staying = self.is_staying();
        if was_staying {
            self.stage = Stage::Asked;
        }
        was_staying
    }

    /// Goes on, now that all questions are answered, or not.
    pub(super) fn next(&mut self, is_answered: bool, now: Instant) -> Next {
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        match self.stage {
            Stage::Asked if is_late || is_answered => {
                self.stage = Stage::Closed;
                self.deadline = self.deadline.map(|_| now + FAREWELL);
                Next::Close
            }
            Stage::Closed if is_late => Next::Go,
            Stage::Closed => Next::ReadOn,
            Stage::Staying | Stage::Asked => Next::Listen,
        }
    }

    /// When it goes on in any case.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closes_when_it_is_answered_and_goes_when_the_broker_does() {
        let now = Instant::now();
        let mut leaving = Leaving::not_yet();
        assert_eq!(leaving.next(true, now), Next::Listen, "nobody wants to leave");
        assert!(leaving.begins() && !leaving.begins(), "it is asked once");
        assert_eq!(leaving.next(false, now + 10 * FAREWELL), Next::Listen);
        assert!(!leaving.is_closed());
        assert_eq!(leaving.next(true, now), Next::Close);
        assert_eq!(leaving.next(true, now + 10 * FAREWELL), Next::ReadOn);
        assert!(leaving.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_does_not_wait_for_the_broker() {
        let mut now = Instant::now();
        let mut leaving = Leaving::not_yet();
        leaving.told(now);
        leaving.begins();
        assert_eq!(leaving.next(false, now), Next::Listen);
        now += FAREWELL;
        assert_eq!(leaving.next(false, now), Next::Close);
        assert_eq!(leaving.next(false, now), Next::ReadOn);
        assert_eq!(leaving.next(false, now + FAREWELL), Next::Go);
    }
}
