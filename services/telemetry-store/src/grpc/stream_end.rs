//! When long streams end though neither side has a reason to: the process stops, or it is time to
//! spread over the replicas anew.

use std::time::Duration;

use service_kit::lifecycle::Lifecycle;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;

/// Ends streams.
#[derive(Clone, Debug)]
pub(super) struct StreamEnd {
    lifecycle: Lifecycle,
    max_age: Option<Duration>,
    /// When this one has lasted its time.
    aged_at: Option<Instant>,
}

impl StreamEnd {
    /// Streams end when the lifecycle does, and when they are older than a connection may be.
    pub(super) fn new(lifecycle: Lifecycle, max_age: Option<Duration>) -> Self {
        Self { lifecycle, max_age, aged_at: None }
    }

    /// The end of a stream that begins now. It lasts a little longer than the connection is to be
    /// used, so that its client goes on with another one; and not all end at the same moment.
    pub(super) fn of_new_stream(&self) -> Self {
        let spread = |age: Duration| age.mul_f64(1.0 + fastrand::f64() / 10.0);
        Self { aged_at: self.max_age.map(|age| Instant::now() + spread(age)), ..self.clone() }
    }

    /// Waits until it is time; answers why.
    pub(super) async fn reached(&self) -> Error {
        tokio::select! {
            () = self.lifecycle.stopping() => Error::Stopping,
            () = sleep_until(self.aged_at.unwrap_or_else(Instant::now)), if self.aged_at.is_some() =>
                Error::Aged,
        }
    }

    /// What the tasks of streams belong to.
    pub(super) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }
}
