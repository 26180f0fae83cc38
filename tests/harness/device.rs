//! A device, as far as the broker can tell: `mosquitto_pub`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{Mosquitto, Process, mosquitto::tool};

/// Something that publishes.
#[derive(Clone, Debug)]
pub struct Device {
    port: u16,
}

impl Device {
    /// A device of a broker.
    pub fn of(broker: &Mosquitto) -> Self {
        Self { port: broker.port() }
    }

    /// Publishes one message; with `QoS` 1 the broker has acknowledged it on return.
    pub fn publish(&self, topic: &str, qos: u8, payload: &[u8]) -> anyhow::Result<()> {
        self.send(topic, qos, if payload.is_empty() { "-n" } else { "-s" }, payload)
    }

    /// Publishes a message that the broker keeps for those who subscribe later.
    pub fn publish_retained(&self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        self.run(&["-q", "1", "-t", topic, "-r", "-s"], payload)
    }

    /// Publishes one message at `QoS` 1 with a user property.
    pub fn publish_with(
        &self,
        topic: &str,
        (key, value): (&str, &str),
        payload: &[u8],
    ) -> anyhow::Result<()> {
        self.run(
            &["-q", "1", "-t", topic, "-D", "publish", "user-property", key, value, "-s"],
            payload,
        )
    }

    /// Publishes each line of `lines` as a message.
    pub fn publish_lines(&self, topic: &str, qos: u8, lines: &str) -> anyhow::Result<()> {
        self.send(topic, qos, "-l", lines.as_bytes())
    }

    /// Connects under the name and id of a bridge, for as long as the process lives.
    pub fn pose_as_bridge(broker: &Mosquitto, client_id: &str) -> anyhow::Result<Process> {
        let mut command = Command::new(tool("mosquitto_sub")?);
        command.args(["-V", "5", "-h", "127.0.0.1", "-p", &broker.port().to_string(), "-c"]);
        command.args(["-x", "60", "-i", client_id, "-q", "1", "-t", "devices/+/telemetry"]);
        command.args(["-u", Mosquitto::BRIDGE, "-P", Mosquitto::PASSWORD]);
        Process::spawn("mosquitto_sub", command)
    }

    fn send(&self, topic: &str, qos: u8, mode: &str, input: &[u8]) -> anyhow::Result<()> {
        self.run(&["-q", &qos.to_string(), "-t", topic, mode], input)
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> anyhow::Result<()> {
        let mut child = Command::new(tool("mosquitto_pub")?)
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-u", Mosquitto::DEVICE, "-P", Mosquitto::PASSWORD])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input)?;
        ensure!(child.wait()?.success(), "mosquitto_pub failed");
        Ok(())
    }
}
