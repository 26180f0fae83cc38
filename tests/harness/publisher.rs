//! A device's MQTT connection, written out by hand: which message was acknowledged must be known
//! for certain, over any number of broken connections.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::Mosquitto;

const PUBACK: u8 = 0x40;
/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it says.
#[derive(Debug)]
pub(crate) struct Speaker(OwnedWriteHalf);

/// What it hears.
#[derive(Debug)]
pub(crate) struct Listener(BufReader<OwnedReadHalf>);

/// A device that sends one message at a time, whatever it is.
#[derive(Debug)]
pub struct RawDevice(Speaker, Listener);

impl RawDevice {
    /// Connects to the broker on `port`.
    pub async fn connect(port: u16) -> anyhow::Result<Self> {
        let (speaker, listener) = connect(port, "raw").await?;
        Ok(Self(speaker, listener))
    }

    /// The same with a last will, which the broker publishes if it is dropped.
    pub async fn connect_with_will(port: u16, topic: &str, will: &str) -> anyhow::Result<Self> {
        let connected = timeout(PATIENCE, handshake(port, "mortal", Some((topic, will)))).await;
        let (speaker, listener) = connected.context("the broker does not answer")??;
        Ok(Self(speaker, listener))
    }

    /// Publishes at `QoS` 1 and waits for the acknowledgement.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        let Self(speaker, listener) = self;
        speaker.send(&publish(topic, payload, Some(1))).await?;
        timeout(PATIENCE, listener.acknowledged()).await.context("no acknowledgement")?.map(drop)
    }
}

/// Connects with MQTT 3.1.1, without a session, as the devices' user.
pub(crate) async fn connect(port: u16, client_id: &str) -> anyhow::Result<(Speaker, Listener)> {
    timeout(PATIENCE, handshake(port, client_id, None))
        .await
        .context("the broker does not answer")?
}

async fn handshake(
    port: u16,
    client_id: &str,
    will: Option<(&str, &str)>,
) -> anyhow::Result<(Speaker, Listener)> {
    const PROTOCOL: [u8; 7] = [0, 4, b'M', b'Q', b'T', b'T', 4];
    /// With a name and a password; and a will at `QoS` 1.
    const FLAGS: u8 = 0b1100_0010;
    const WILL: u8 = 0b0000_1100;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut body = PROTOCOL.to_vec();
    body.extend([FLAGS | if will.is_some() { WILL } else { 0 }, 0, 0]);
    let (topic, message) = will.unzip();
    let texts = [Some(client_id), topic, message];
    let who = [Mosquitto::DEVICE, Mosquitto::PASSWORD];
    for text in texts.into_iter().flatten().chain(who) {
        put_text(&mut body, text);
    }
    write.write_all(&packet(0x10, &body)).await?;
    let mut listener = Listener(BufReader::new(read));
    let connack = listener.packet().await?;
    ensure!(matches!(connack, (0x20, [_, 0, ..])), "the broker refuses us: {connack:?}");
    Ok((Speaker(write), listener))
}

impl Speaker {
    /// Publishes what [`publish`] has made.
    pub(crate) async fn send(&mut self, packets: &[u8]) -> anyhow::Result<()> {
        Ok(self.0.write_all(packets).await?)
    }
}

impl Listener {
    /// Waits for the next acknowledgement; answers which packet it is of.
    pub(crate) async fn acknowledged(&mut self) -> anyhow::Result<u16> {
        match self.packet().await? {
            (PUBACK, [high, low, ..]) => Ok(u16::from_be_bytes([high, low])),
            other => bail!("the broker sends {other:?}"),
        }
    }

    /// Its type and the beginning of its body: none that comes is longer.
    async fn packet(&mut self) -> anyhow::Result<(u8, [u8; 4])> {
        let (kind, length) = (self.0.read_u8().await?, self.0.read_u8().await?);
        let mut body = [0; 4];
        let body_read = body.get_mut(..length.into()).context("a packet nobody asked for")?;
        self.0.read_exact(body_read).await?;
        Ok((kind, body))
    }
}

/// A message, at `QoS` 1 if it has a packet id, at `QoS` 0 if not.
pub(crate) fn publish(topic: &str, payload: &[u8], id: Option<u16>) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len() + topic.len() + 4);
    put_text(&mut body, topic);
    body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    body.extend(payload);
    packet(if id.is_some() { 0x32 } else { 0x30 }, &body)
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    body.extend(length.to_be_bytes());
    body.extend(text.as_bytes());
}

/// A packet of a type with a body.
fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut rest) = (vec![kind], body.len());
    while rest >= 128 {
        packet.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
        rest /= 128;
    }
    packet.push(u8::try_from(rest).unwrap_or_default());
    packet.extend(body);
    packet
}
