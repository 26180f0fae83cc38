//! What the source and the uplink share: the window between them, whether each is up, and what the
//! broker delivers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use service_kit::health::Health;
use tokio::sync::{Notify, watch};

use crate::{
    delivery::Delivery,
    rejected::Rejections,
    source::Receipt,
    window::{Limits, Window},
};

/// The seam between the MQTT side and the gRPC side.
#[derive(Debug)]
pub(crate) struct Link {
    window: Mutex<Window<Receipt>>,
    /// The window has something to send. Only the uplink waits for it.
    arrived: Notify,
    /// The window has become smaller.
    settled: Notify,
    subscribed: watch::Sender<bool>,
    streaming: watch::Sender<bool>,
    rejections: Arc<Rejections>,
    delivery: Mutex<Delivery>,
}

impl Link {
    /// A link with an empty window, neither side of which is up.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            window: Mutex::new(Window::new(limits)),
            arrived: Notify::default(),
            settled: Notify::default(),
            subscribed: watch::Sender::default(),
            streaming: watch::Sender::default(),
            rejections: Arc::default(),
            delivery: Mutex::default(),
        }
    }

    /// The window, for a moment.
    pub(crate) fn window(&self) -> MutexGuard<'_, Window<Receipt>> {
        // The window is whole between any two calls, so a panic elsewhere does not spoil it.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What both sides count and log.
    pub(crate) fn rejections(&self) -> &Arc<Rejections> {
        &self.rejections
    }

    /// What is known of the broker's side, for a moment. Whoever locks the window as well locks it
    /// first.
    pub(crate) fn delivery(&self) -> MutexGuard<'_, Delivery> {
        // A panic elsewhere leaves at worst one count behind.
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the window has something to send.
    pub(crate) fn has_arrived(&self) {
        self.arrived.notify_one();
    }

    /// Waits until it is said.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Sends acknowledgements to the broker. Both sides do so, and the window stays locked
    /// meanwhile, so that they go out in the order in which they were taken from it.
    pub(crate) fn acknowledge(
        &self,
        window: MutexGuard<'_, Window<Receipt>>,
        receipts: Vec<Receipt>,
    ) {
        receipts.into_iter().for_each(Receipt::acknowledge);
        drop(window);
        self.settled.notify_waiters();
    }

    /// Waits until nothing is owed any more.
    pub(crate) async fn empty(&self) {
        self.until(Window::is_empty).await;
    }

    /// Waits until the window has room for what was left with the broker.
    pub(crate) async fn has_room(&self) {
        self.until(Window::has_room).await;
    }

    /// Waits until so many bytes fit that the broker would not send again.
    pub(crate) async fn takes(&self, bytes: usize) {
        self.until(|window| window.takes(bytes)).await;
    }

    async fn until(&self, condition: impl Fn(&Window<Receipt>) -> bool) {
        loop {
            // Made before looking, so that it hears of what happens in between.
            let settled = self.settled.notified();
            if condition(&self.window()) {
                return;
            }
            settled.await;
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

    /// Whether every subscription is granted on a live connection.
    pub(crate) fn is_subscribed(&self) -> bool {
        *self.subscribed.borrow()
    }

    /// Whether the store takes events.
    pub(crate) fn is_streaming(&self) -> bool {
        *self.streaming.borrow()
    }

    /// Waits until the store takes events and the window has room for more.
    pub(crate) async fn is_flowing(&self) {
        let mut streaming = self.streaming.subscribe();
        loop {
            self.has_room().await;
            if *streaming.borrow_and_update() {
                return;
            }
            // The sender lives as long as this borrow of it.
            let _changed = streaming.changed().await;
        }
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
