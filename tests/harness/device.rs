//! A device, as far as the broker can tell: `mosquitto_pub`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{Mosquitto, mosquitto::tool};

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

    /// Publishes each line of `lines` as a message.
    pub fn publish_lines(&self, topic: &str, qos: u8, lines: &str) -> anyhow::Result<()> {
        self.send(topic, qos, "-l", lines.as_bytes())
    }

    fn send(&self, topic: &str, qos: u8, mode: &str, input: &[u8]) -> anyhow::Result<()> {
        let (port, qos) = (self.port.to_string(), qos.to_string());
        let mut child = Command::new(tool("mosquitto_pub")?)
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &port, "-q", &qos, "-t", topic, mode])
            .args(["-u", Mosquitto::DEVICE, "-P", Mosquitto::PASSWORD])
            .stdin(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input)?;
        ensure!(child.wait()?.success(), "mosquitto_pub failed");
        Ok(())
    }
}
