//! Virtual plants that publish like real ones: some as the specification has it, some like the
//! firmware (uptime, `QoS` 0), some like the Python simulator.

mod plant;
mod publisher;

use std::{future::Future, time::Duration};

use clap::Args;
use service_kit::duration;
use telemetry_model::{Clock, SystemClock};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::{plant::Plant, publisher::Publisher};

/// What to simulate, and where.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// How many plants.
    #[arg(long, default_value_t = 5)]
    devices: u32,
    /// How often each publishes.
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    interval: Duration,
    /// The broker.
    #[arg(long, default_value = "mqtt://localhost:1883")]
    broker: String,
    /// User name at the broker.
    #[arg(long, requires = "password")]
    username: Option<String>,
    /// Password at the broker.
    #[arg(long, env = "MQTT_DEVICE_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

impl SimulateArgs {
    pub(crate) fn check(self) -> anyhow::Result<Simulation> {
        anyhow::ensure!(!self.interval.is_zero(), "--interval must be at least 1s");
        let credentials = self.username.zip(self.password);
        let SimulateArgs { devices, interval, broker, .. } = self;
        Ok(Simulation { devices, interval, broker, credentials })
    }
}

/// A simulation.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// How many plants.
    pub devices: u32,
    /// How often each publishes; not zero.
    pub interval: Duration,
    /// The broker's URL.
    pub broker: String,
    /// User name and password at the broker.
    pub credentials: Option<(String, String)>,
}

/// Publishes until told to stop, or until the broker is gone for good.
pub async fn run(
    simulation: Simulation,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut publisher = Publisher::connect(&simulation.broker, simulation.credentials).await?;
    let began = Instant::now();
    let plants: Vec<_> = (1..=simulation.devices).map(Plant::new).collect();
    let publish = async {
        let mut tick = interval(simulation.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let (now, uptime) = (SystemClock.now(), began.elapsed());
            for plant in &plants {
                for message in plant.messages(now, uptime) {
                    publisher.publish(message).await?;
                }
            }
        }
    };
    tokio::select! {
        ended = publish => ended,
        () = stop => Ok(()),
    }
}
