//! Just enough MQTT 3.1.1, written out by hand: a load generator shares the machine with what it
//! measures, and no client library publishes as cheaply.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// How long the broker may take to let us in.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// Where the broker is, and who we are there.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// `host:port`.
    pub(super) address: String,
    pub(super) credentials: Option<(String, String)>,
}

/// What the broker sends, as far as it concerns us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It has our message with this packet id.
    Acknowledged(u16),
    /// Somebody's message, and the packet id under which it wants to be acknowledged.
    Message(Option<u16>),
    Other,
}

/// What the broker says.
#[derive(Debug)]
pub(super) struct Listener {
    read: BufReader<OwnedReadHalf>,
    body: Vec<u8>,
}

/// Logs in, without a session.
pub(super) async fn connect(
    login: &Login,
    client_id: &str,
) -> anyhow::Result<(Listener, OwnedWriteHalf)> {
    let connected = timeout(PATIENCE, shake_hands(login, client_id)).await;
    let no_answer = || format!("the broker at {} does not answer", login.address);
    connected.with_context(no_answer)?
}

async fn shake_hands(login: &Login, client_id: &str) -> anyhow::Result<(Listener, OwnedWriteHalf)> {
    let stream = TcpStream::connect(&login.address).await;
    let stream =
        stream.with_context(|| format!("cannot connect to the broker at {}", login.address))?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut listener = Listener { read: BufReader::with_capacity(1 << 16, read), body: Vec::new() };
    write.write_all(&connect_packet(login, client_id)).await?;
    ensure!(
        listener.packet().await? & 0xf0 == CONNACK && listener.body.get(1) == Some(&0),
        "the broker at {} does not let us in: see user name and password",
        login.address
    );
    Ok((listener, write))
}

fn connect_packet(login: &Login, client_id: &str) -> Vec<u8> {
    /// A clean session; no keep-alive.
    const CLEAN: u8 = 0b10;
    const WITH_CREDENTIALS: u8 = 0b1100_0000;
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4];
    body.extend([CLEAN | login.credentials.as_ref().map_or(0, |_| WITH_CREDENTIALS), 0, 0]);
    put_text(&mut body, client_id);
    if let Some((user, password)) = &login.credentials {
        put_text(&mut body, user);
        put_text(&mut body, password);
    }
    let mut packet = Vec::new();
    put_packet(&mut packet, CONNECT, &[&body]);
    packet
}

/// Adds a message, at `QoS` 1 if it has a packet id, at `QoS` 0 if not.
pub(super) fn put_publish(packets: &mut Vec<u8>, topic: &str, payload: &[u8], id: Option<u16>) {
    let length = u16::try_from(topic.len()).unwrap_or(u16::MAX).to_be_bytes();
    match id {
        Some(id) => {
            let id = id.to_be_bytes();
            put_packet(packets, PUBLISH | 0b10, &[&length, topic.as_bytes(), &id, payload]);
        }
        None => put_packet(packets, PUBLISH, &[&length, topic.as_bytes(), payload]),
    }
}

/// Adds the acknowledgement of somebody's message.
pub(super) fn put_puback(packets: &mut Vec<u8>, id: u16) {
    put_packet(packets, PUBACK, &[&id.to_be_bytes()]);
}

fn put_packet(packets: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    packets.push(kind);
    let mut rest: usize = parts.iter().map(|part| part.len()).sum();
    while rest >= 128 {
        packets.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
        rest /= 128;
    }
    packets.push(u8::try_from(rest).unwrap_or_default());
    for part in parts {
        packets.extend_from_slice(part);
    }
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(text.as_bytes());
}

impl Listener {
    /// Subscribes at `QoS` 1.
    pub(super) async fn subscribe(
        &mut self,
        write: &mut OwnedWriteHalf,
        topic: &str,
    ) -> anyhow::Result<()> {
        let mut body = vec![0, 1];
        put_text(&mut body, topic);
        body.push(1);
        let mut packet = Vec::new();
        put_packet(&mut packet, SUBSCRIBE, &[&body]);
        write.write_all(&packet).await?;
        let kind = self.packet().await?;
        let is_granted = kind == SUBACK && self.body.last() == Some(&1);
        ensure!(is_granted, "the broker does not let us subscribe to {topic}");
        Ok(())
    }

    /// Waits for the next packet.
    pub(super) async fn hear(&mut self) -> anyhow::Result<Heard> {
        let kind = self.packet().await?;
        heard(kind, &self.body).context("the broker sends nonsense")
    }

    /// Whether there is more to hear at once.
    pub(super) fn has_more(&self) -> bool {
        !self.read.buffer().is_empty()
    }

    async fn packet(&mut self) -> anyhow::Result<u8> {
        let kind = self.read.read_u8().await.context("the broker ended the connection")?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.read.read_u8().await?;
            length |= usize::from(byte & 127) << shift;
            if byte < 128 {
                self.body.resize(length, 0);
                self.read.read_exact(&mut self.body).await?;
                return Ok(kind);
            }
        }
        bail!("the broker sends a packet without an end")
    }
}

fn heard(kind: u8, body: &[u8]) -> Option<Heard> {
    let number = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match kind & 0xf0 {
        PUBACK => Some(Heard::Acknowledged(number(0)?)),
        PUBLISH if kind & 0b110 == 0 => Some(Heard::Message(None)),
        PUBLISH => Some(Heard::Message(Some(number(2 + usize::from(number(0)?))?))),
        _ => Some(Heard::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_and_heard_by_the_specification() {
        let mut packets = Vec::new();
        put_publish(&mut packets, "a/b", b"{}", Some(258));
        put_publish(&mut packets, "a/b", b"{}", None);
        let expected = [&b"\x32\x09\0\x03a/b\x01\x02{}"[..], b"\x30\x07\0\x03a/b{}"].concat();
        assert_eq!(packets, expected);
        assert_eq!(heard(0x32, &expected[2..11]), Some(Heard::Message(Some(258))));
        assert_eq!(heard(0x30, &expected[13..]), Some(Heard::Message(None)));
        assert_eq!(heard(0x40, &[1, 2]), Some(Heard::Acknowledged(258)));
        assert_eq!(heard(0x40, &[1]), None);
    }

    #[test]
    fn long_packets_have_long_lengths() {
        let mut packets = Vec::new();
        put_publish(&mut packets, "t", &[b'x'; 400], None);
        assert_eq!(packets.get(..3), Some(&[0x30, 0x93, 0x03][..]), "403 = 3 * 128 + 19");
    }
}
