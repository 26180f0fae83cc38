//! The whole system in one process, over real sockets: broker, store on SQLite, bridge.
//!
//! For development and for a first look. It is the real store and the real bridge; only the
//! broker is an embedded one, without passwords, and only this machine can reach it.

mod broker;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use mqtt_bridge::Bridge;
use service_kit::{lifecycle::Lifecycle, observe::LogSettings};
use telemetry_cli::simulate::{self, Simulation};
use telemetry_store::Server;

use crate::broker::Broker;

/// Run the whole system in one process.
#[derive(Clone, Debug, Parser)]
#[command(name = "dev-stack", version)]
pub struct Options {
    /// Folder that keeps the data between runs.
    #[arg(long, default_value = "data")]
    pub data: PathBuf,
    /// Add this many virtual plants.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub simulate: u32,
    /// Port of the MQTT broker.
    #[arg(long, default_value_t = 1883)]
    pub mqtt_port: u16,
    /// Port of the store's gRPC API.
    #[arg(long, default_value_t = 50051)]
    pub store_port: u16,
    /// Logs.
    #[command(flatten)]
    pub log: LogSettings,
}

/// A system that has its ports.
#[derive(Debug)]
pub struct Stack {
    broker: Broker,
    store: Server,
    bridge: Bridge,
    simulate: u32,
}

impl Stack {
    /// Opens the data and every port.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let Options { data, simulate, mqtt_port, store_port, .. } = options;
        std::fs::create_dir_all(&data)
            .with_context(|| format!("cannot make the folder {} (--data)", data.display()))?;
        for (port, flag) in [(mqtt_port, "--mqtt-port"), (store_port, "--store-port")] {
            check_free(port, flag).await?;
        }
        let broker = Broker::bind(mqtt_port).await?;
        let database = format!("sqlite://{}", data.join("telemetry.db").display());
        let store_listen = format!("127.0.0.1:{store_port}");
        let mut store = telemetry_store::Cli::try_parse_from([
            "telemetry-store",
            "--database-url",
            &database,
            "--listen",
            &store_listen,
        ])?;
        // METRICS_LISTEN is one port, and there are two of them.
        store.settings.metrics.metrics_listen = None;
        let store = Server::bind(store.settings).await?;
        let mqtt_port = broker.port().to_string();
        let store_url = format!("http://{}", store.local_addr());
        let mut bridge = mqtt_bridge::Cli::try_parse_from([
            "mqtt-bridge",
            "--mqtt-host",
            "127.0.0.1",
            "--mqtt-port",
            &mqtt_port,
            "--mqtt-backend-password",
            "",
            "--mqtt-client-id",
            "dev-stack",
            "--store-url",
            &store_url,
            "--listen",
            "127.0.0.1:0",
        ])?;
        bridge.settings.metrics.metrics_listen = None;
        let bridge = Bridge::bind(bridge.settings).await?;
        Ok(Self { broker, store, bridge, simulate })
    }

    /// Where the broker listens.
    pub fn mqtt_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.broker.port()))
    }

    /// Where the store serves.
    pub fn store_address(&self) -> SocketAddr {
        self.store.local_addr()
    }

    /// Says on standard output what to try.
    #[expect(clippy::print_stdout, reason = "speaks to the person who started it")]
    pub fn introduce(&self) {
        let (mqtt, store) = (self.broker.port(), self.store.local_addr());
        println!(
            "
MQTT on 127.0.0.1:{mqtt}, gRPC on {store}. Ctrl-C stops. Try, in another terminal:

  cargo telemetry --store http://{store} watch fern-1
  grpcurl -plaintext -d '{{\"device_id\":\"fern-1\"}}' {store} telemetry.v1.WatchService/WatchDevice

  mosquitto_pub -p {mqtt} -q 1 -t devices/fern-1/telemetry -m '{{\"soil_moisture\":45.2}}'

  cargo telemetry --store http://{store} readings fern-1
  grpcurl -plaintext -d '{{\"device_id\":\"fern-1\"}}' {store} telemetry.v1.QueryService/ListReadings
"
        );
    }

    /// Runs until told to stop: first the bridge, then the store, then the broker.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let mqtt = self.mqtt_address();
        let (brokering, storing) = (Lifecycle::new(), Lifecycle::new());
        let (broker, store) = (self.broker, self.store);
        brokering.spawn("broker", broker.run(brokering.token()));
        let serving = storing.clone();
        storing.spawn("store", async move { Box::pin(store.run(serving)).await });
        if self.simulate > 0 {
            let simulation = Simulation {
                devices: self.simulate,
                interval: Duration::from_secs(5),
                broker: format!("mqtt://{mqtt}"),
                credentials: None,
            };
            let stop = lifecycle.token().cancelled_owned();
            lifecycle.spawn("simulator", simulate::run(simulation, stop));
        }
        let either = async {
            tokio::select! {
                () = storing.stopping() => {}
                () = brokering.stopping() => {}
            }
            lifecycle.stop();
            std::future::pending::<()>().await;
        };
        let bridged = tokio::select! {
            bridged = self.bridge.run(lifecycle.clone()) => bridged,
            () = either => Ok(()),
        };
        storing.stop();
        let stored = storing.drained().await;
        brokering.stop();
        let brokered = brokering.drained().await;
        anyhow::ensure!(stored && brokered, "a part of the stack failed");
        bridged
    }
}

/// Finds out early, and says what to do.
async fn check_free(port: u16, flag: &str) -> anyhow::Result<()> {
    tokio::net::TcpListener::bind(("127.0.0.1", port)).await.map(drop).with_context(|| {
        format!("port {port} is taken: stop what listens there, or choose another with {flag}")
    })
}
