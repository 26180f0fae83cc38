//! A broker that lets anyone in and refuses every subscription, which Mosquitto's ACL file cannot.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

/// It speaks just enough MQTT 5 to say no.
#[derive(Debug)]
pub struct RefusingBroker {
    port: u16,
}

impl RefusingBroker {
    /// Starts one, for as long as the test process lives.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(false)
    }

    /// Starts one that lets anyone in, and out again at once.
    pub fn start_kicking() -> anyhow::Result<Self> {
        Self::start_with(true)
    }

    fn start_with(kicks: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up is none of our business.
                drop(refuse(stream, kicks));
            }
        });
        Ok(Self { port })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn refuse(mut stream: TcpStream, kicks: bool) -> std::io::Result<()> {
    const CONNECT: u8 = 1;
    const SUBSCRIBE: u8 = 8;
    const NOT_AUTHORIZED: u8 = 0x87;
    loop {
        let mut header = [0; 2];
        stream.read_exact(&mut header)?;
        // All packets of this conversation are shorter than 128 bytes, or one that matters less.
        let mut body = vec![0; usize::from(header[1] & 0x7f)];
        stream.read_exact(&mut body)?;
        match (header[0] >> 4, body.as_slice()) {
            (CONNECT, _) => {
                stream.write_all(&[0x20, 3, 0, 0, 0])?;
                if kicks {
                    return Ok(());
                }
            }
            (SUBSCRIBE, [high, low, ..]) => {
                stream.write_all(&[0x90, 5, *high, *low, 0, NOT_AUTHORIZED, NOT_AUTHORIZED])?;
            }
            _ => {}
        }
    }
}
