//! The connection under the session, with or without TLS: it can be told to hear nothing for a while,
//! and to say no more but hear everything out.
//!
//! A `QoS` 0 message that the broker has sent is nowhere else any more, so a connection that we end
//! must be read to its end. Shutting down only our direction does that: the broker sees the end of
//! the stream, keeps the session, and closes; until then we go on reading.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::task::AtomicWaker;
use rumqttc::{
    MqttOptions,
    tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_util::either::Either;

use super::failure::{Dismissed, Unresolved};

/// The most that is read at a time: what the client may have read when it is told to hear nothing.
pub(super) const MAX_READ_BYTES: usize = 2048;
/// How long one of the broker's addresses may take to answer before the next is tried.
const ADDRESS: Duration = Duration::from_secs(3);

/// How to speak TLS with the broker.
#[derive(Clone)]
pub(super) struct Encryption {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Holds back what comes on a connection, and ends our direction of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Valve {
    told: Arc<Told>,
}

#[derive(Debug, Default)]
struct Told {
    to_hold: AtomicBool,
    to_close: AtomicBool,
    reader: AtomicWaker,
}

impl Valve {
    /// The valve of the connection that will be made with these options.
    pub(super) fn of(options: &mut MqttOptions, encryption: Option<Encryption>) -> Self {
        let valve = Self::default();
        let told = Arc::clone(&valve.told);
        options.set_socket_connector(move |address, _| {
            let (told, encryption) = (Arc::clone(&told), encryption.clone());
            async move {
                let stream = connect(&address).await?;
                let stream = match encryption {
                    None => Either::Left(stream),
                    Some(Encryption { connector, name }) => {
                        Either::Right(connector.connect(name, stream).await?)
                    }
                };
                Ok(Socket { stream, told, is_closed: false, unsent: None, tail: [0; 3] })
            }
        });
        valve
    }

    /// From now on nothing is read, or everything again.
    pub(super) fn hold(&self, is_held: bool) {
        if self.told.to_hold.swap(is_held, Ordering::AcqRel) && !is_held {
            self.told.reader.wake();
        }
    }

    /// Says to the broker that nothing more comes.
    pub(super) fn close(&self) {
        self.told.to_close.store(true, Ordering::Release);
        self.told.reader.wake();
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let unresolved = |error| io::Error::new(io::ErrorKind::NotFound, Unresolved(error));
    let addresses = lookup_host(address).await.map_err(unresolved)?;
    let mut last = unresolved(io::Error::other("the host has no address"));
    for address in addresses {
        match timeout(ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Acknowledgements are small and must not wait for each other.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A connection that reports its end only when everything the broker sent has been read: not being
/// able to write is no reason to stop reading.
struct Socket {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    told: Arc<Told>,
    /// Whether our direction is closed.
    is_closed: bool,
    /// Why something could not be written.
    unsent: Option<io::Error>,
    /// The last bytes read.
    tail: [u8; 3],
}

impl Socket {
    /// The end, and why. A DISCONNECT without properties, which is how Mosquitto says why, is taken
    /// by the client for one that is not complete yet, so it is recognised here.
    fn end(&mut self) -> io::Result<()> {
        match (self.tail, self.unsent.take()) {
            ([0xe0, 1, code @ 0x80..=0xff], _) => Err(io::Error::other(Dismissed(code))),
            (_, Some(unsent)) => Err(unsent),
            (_, None) => Ok(()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.told.reader.register(cx.waker());
        if self.told.to_close.load(Ordering::Acquire) && !self.is_closed {
            // With TLS this says goodbye first: Mosquitto takes an end without it for an error, and
            // messages under way were seen to be lost then.
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.is_closed = true,
                Poll::Ready(Err(error)) => {
                    (self.is_closed, self.unsent) = (true, Some(error));
                }
                Poll::Pending => {}
            }
        }
        if self.told.to_hold.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let mut bytes = [0; MAX_READ_BYTES];
        let room = bytes.get_mut(..buf.remaining().min(MAX_READ_BYTES)).unwrap_or_default();
        let mut bytes = ReadBuf::new(room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut bytes))?;
        let read = bytes.filled();
        if read.is_empty() {
            return Poll::Ready(self.end());
        }
        buf.put_slice(read);
        for byte in read.iter().skip(read.len().saturating_sub(self.tail.len())) {
            self.tail.rotate_left(1);
            self.tail[2] = *byte;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(Ok(written.unwrap_or_else(|error| {
            self.unsent = Some(error);
            buf.len()
        })))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            self.unsent = Some(error);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_held_back_is_not_read_and_what_is_read_is_not_much() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (client, mut server) = (client.unwrap(), server.unwrap().0);
        let valve = Valve::default();
        let (stream, told) = (Either::Left(client), Arc::clone(&valve.told));
        let mut socket = Socket { stream, told, is_closed: false, unsent: None, tail: [0; 3] };
        server.write_all(&[7; 3 * MAX_READ_BYTES]).await.unwrap();
        let Either::Left(stream) = &socket.stream else { return };
        stream.readable().await.unwrap();

        valve.hold(true);
        let mut bytes = [0; 3 * MAX_READ_BYTES];
        {
            let mut reading = Box::pin(socket.read(&mut bytes));
            assert!(poll!(reading.as_mut()).is_pending());
            valve.hold(false);
            let read = reading.await.unwrap();
            assert!((1..=MAX_READ_BYTES).contains(&read), "{read}");
        }
        valve.hold(true);
        socket.write_all(&[1]).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 1, "we can still write");
        valve.hold(false);
        server.shutdown().await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() >= 2 * MAX_READ_BYTES && rest.iter().all(|byte| *byte == 7));
    }
}
