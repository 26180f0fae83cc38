//! What the source and the uplink share: the window between them, and whether each is up.

use std::sync::{Mutex, MutexGuard, PoisonError};

use service_kit::health::Health;
use tokio::sync::{Notify, watch};

use crate::{source::Receipt, window::Window};

/// The seam between the MQTT side and the gRPC side.
#[derive(Debug, Default)]
pub(crate) struct Link {
    window: Mutex<Window<Receipt>>,
    arrived: Notify,
    settled: Notify,
    subscribed: watch::Sender<bool>,
    streaming: watch::Sender<bool>,
}

impl Link {
    /// The window, for a moment.
    pub(crate) fn window(&self) -> MutexGuard<'_, Window<Receipt>> {
        // The window is whole between any two calls, so a panic elsewhere does not spoil it.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the window has something to send.
    pub(crate) fn has_arrived(&self) {
        self.arrived.notify_one();
    }

    /// Waits until it is said.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Sends acknowledgements to the broker, in order.
    pub(crate) fn acknowledge(&self, receipts: Vec<Receipt>) {
        receipts.into_iter().for_each(Receipt::acknowledge);
        self.settled.notify_one();
    }

    /// Waits until nothing is owed any more.
    pub(crate) async fn empty(&self) {
        while !self.window().is_empty() {
            self.settled.notified().await;
        }
    }

    /// Says whether every subscription is granted on a live connection.
    pub(crate) fn set_subscribed(&self, up: bool) {
        self.subscribed.send_replace(up);
    }

    /// Says whether the store takes events.
    pub(crate) fn set_streaming(&self, up: bool) {
        self.streaming.send_replace(up);
    }

    /// Keeps the health service true: serving only while both sides are up.
    pub(crate) async fn report(&self, health: &Health) {
        let (mut subscribed, mut streaming) =
            (self.subscribed.subscribe(), self.streaming.subscribe());
        loop {
            let serving = *subscribed.borrow_and_update() && *streaming.borrow_and_update();
            health.set(serving).await;
            // The senders live as long as this borrow of them.
            tokio::select! {
                _ = subscribed.changed() => {}
                _ = streaming.changed() => {}
            }
        }
    }
}
