//! The embedded MQTT broker. The only file of this crate that knows it.
//!
//! It is for development: it forgets at its end, and a message of `QoS` 0 that it has not yet sent
//! when the bridge leaves is lost.

use anyhow::Context;
use mqtt5::broker::{
    MqttBroker,
    config::{BrokerConfig, StorageBackend, StorageConfig},
};
use tokio_util::sync::CancellationToken;

/// Messages kept for a client that is away.
const MAX_QUEUED: usize = 100_000;

/// A broker that has its port.
pub(crate) struct Broker {
    broker: MqttBroker,
    port: u16,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Broker {
    /// Opens the port, on this machine only; 0 chooses one.
    pub(crate) async fn bind(port: u16) -> anyhow::Result<Self> {
        let storage = StorageConfig {
            backend: StorageBackend::Memory,
            max_queued_messages_per_client: MAX_QUEUED,
            ..StorageConfig::default()
        };
        let config = BrokerConfig::default()
            .with_bind_addresses(vec![([127, 0, 0, 1], port).into()])
            .with_storage(storage);
        let broker = MqttBroker::with_config(config).await.context("cannot start the broker")?;
        let port = broker.local_addr().context("the broker has no address")?.port();
        Ok(Self { broker, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Serves until told to stop.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> anyhow::Result<()> {
        let shutdown = self.broker.shutdown_handle();
        let serving = self.broker.run();
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended.context("the broker failed"),
            () = stopping.cancelled() => shutdown.shutdown(),
        }
        serving.await.context("the broker failed")
    }
}
