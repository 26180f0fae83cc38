//! A broker that treats its clients badly, in ways that Mosquitto cannot be made to.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What it does to those who connect, all of whom it accepts at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// It refuses every subscription, with this code.
    Refuse(u8),
    /// It refuses the last of three.
    RefuseLast,
    /// It hangs up at once.
    Kick,
    /// It sends a message that is larger than its client takes.
    Oversize,
    /// It sends so many messages at `QoS` 0 when its client has closed its direction, and only then
    /// hangs up. They are numbered, and of the device `fern-1`.
    LastWords(u8),
}

/// It speaks just enough MQTT 5 for that.
#[derive(Debug)]
pub struct RefusingBroker {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl RefusingBroker {
    /// Starts one, for as long as the test process lives.
    pub fn start(manners: Manners) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                // A client that hangs up is none of our business.
                drop(serve(stream, manners));
            }
        });
        Ok(Self { port, connections })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, manners: Manners) -> std::io::Result<()> {
    const CONNECT: u8 = 1;
    const SUBSCRIBE: u8 = 8;
    const PING: u8 = 12;
    loop {
        let mut header = [0; 2];
        if let Err(ended) = stream.read_exact(&mut header) {
            if let Manners::LastWords(count) = manners {
                let packets: Vec<u8> = (0..count).flat_map(last_word).collect();
                stream.write_all(&packets)?;
            }
            return Err(ended);
        }
        // All packets of this conversation are shorter than 128 bytes, or one that matters less.
        let mut body = vec![0; usize::from(header[1] & 0x7f)];
        stream.read_exact(&mut body)?;
        match (header[0] >> 4, body.as_slice(), manners) {
            (CONNECT, _, manners) => {
                stream.write_all(&[0x20, 3, 0, 0, 0])?;
                if manners == Manners::Kick {
                    return Ok(());
                }
            }
            (PING, ..) => stream.write_all(&[0xd0, 0])?,
            // The length is that of a PUBLISH of 256 MiB.
            (SUBSCRIBE, _, Manners::Oversize) => {
                stream.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f])?;
            }
            (SUBSCRIBE, [high, low, ..], manners) => {
                let codes = match manners {
                    Manners::Refuse(code) => [code; 3],
                    Manners::RefuseLast => [1, 1, 0x87],
                    _ => [1; 3],
                };
                stream.write_all(&[&[0x90, 6, *high, *low, 0][..], &codes].concat())?;
            }
            _ => {}
        }
    }
}

/// A PUBLISH of MQTT 5 without properties.
fn last_word(n: u8) -> Vec<u8> {
    const TOPIC: &[u8] = b"devices/fern-1/telemetry";
    let text = format!("{{\"n\":{n}}}");
    let length = |bytes: usize| u8::try_from(bytes).unwrap_or_default();
    let header = [0x30, length(TOPIC.len() + text.len() + 3), 0, length(TOPIC.len())];
    [&header, TOPIC, &[0], text.as_bytes()].concat()
}
