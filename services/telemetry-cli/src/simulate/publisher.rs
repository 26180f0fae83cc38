//! The simulator's connection to the broker. The only file of this crate that knows the MQTT client.

use anyhow::Context;
use mqtt5::{ConnectOptions, MqttClient, QoS};

use super::plant::Message;

/// A connection that comes back by itself.
pub(super) struct Publisher {
    client: MqttClient,
}

impl Publisher {
    pub(super) async fn connect(
        broker: &str,
        credentials: Option<(String, String)>,
    ) -> anyhow::Result<Self> {
        let id = format!("telemetry-simulate-{}", std::process::id());
        let mut options = ConnectOptions::new(id);
        if let Some((username, password)) = credentials {
            options = options.with_credentials(username, password);
        }
        let client = MqttClient::with_options(options);
        let connected = client.connect(broker).await;
        connected.with_context(|| format!("cannot connect to the broker at {broker}"))?;
        Ok(Self { client })
    }

    pub(super) async fn publish(&mut self, message: Message) -> anyhow::Result<()> {
        let Message { topic, payload, at_least_once } = message;
        let qos = if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        self.client.publish_qos(topic, payload, qos).await.context("cannot publish")?;
        Ok(())
    }
}
