//! The options that several benches have.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use service_kit::duration;

use super::{load::Load, mqtt::Login, publish::Plan};

/// Where to publish.
#[derive(Args, Clone, Debug)]
pub(super) struct LoginArgs {
    /// The broker.
    #[arg(long, default_value = "mqtt://localhost:1883")]
    broker: String,
    /// User name at the broker, with the right to publish for any device.
    #[arg(long, requires = "password")]
    username: Option<String>,
    /// Password at the broker.
    #[arg(long, env = "MQTT_DEVICE_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

impl LoginArgs {
    pub(super) fn login(&self) -> Login {
        Login {
            address: self.broker.trim_start_matches("mqtt://").to_owned(),
            credentials: self.username.clone().zip(self.password.clone()),
        }
    }
}

/// What to publish.
#[derive(Args, Clone, Debug)]
pub(super) struct LoadArgs {
    /// How many devices.
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// How many readings in each message.
    #[arg(long, default_value_t = 4)]
    readings: usize,
    /// 1, or 0: such a message may get lost, which is then counted but no failure.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// How many connections publish.
    #[arg(long, default_value_t = 4)]
    connections: u64,
    /// Messages of a connection that the broker has not acknowledged, at most.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    in_flight: u32,
    /// Messages a second, of all connections. Left out: flat out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Messages that are published but not yet stored, at most: how much the broker has to hold.
    #[arg(long, default_value_t = 50_000)]
    ahead: u64,
    /// For how long.
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    duration: Duration,
    /// How many messages, if that is reached earlier.
    #[arg(long)]
    messages: Option<u64>,
}

impl LoadArgs {
    pub(super) fn check(&self) -> anyhow::Result<(Load, Plan)> {
        let Self { devices, connections, .. } = *self;
        ensure!((1..1_000_000).contains(&devices), "--devices must be 1 to 999999");
        ensure!((1..=devices).contains(&connections), "--connections must be 1 to --devices");
        ensure!((1..=256).contains(&self.readings), "--readings must be 1 to 256");
        let plan = Plan {
            qos: self.qos,
            connections,
            in_flight: self.in_flight,
            rate: self.rate,
            ahead: self.ahead.max(1),
            duration: self.duration,
            messages: self.messages.unwrap_or(u64::MAX),
        };
        Ok((Load::new(devices, self.readings), plan))
    }
}
