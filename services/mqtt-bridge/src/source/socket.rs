//! The TCP connection under the session: it can be told to say no more but hear everything out.
//!
//! A QoS 0 message that the broker has sent is nowhere else any more, so a connection that we end
//! must be read to its end. Shutting down only our direction does that: the broker sees the end of
//! the stream, keeps the session, and closes; until then we go on reading.

use std::{
    io,
    net::{Shutdown, TcpStream as StdStream},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use rumqttc::MqttOptions;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::failure::Unresolved;

/// How long one of the broker's addresses may take to answer before the next is tried.
const ADDRESS: Duration = Duration::from_secs(3);

/// Ends our direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Closer {
    stream: Arc<Mutex<Option<StdStream>>>,
}

impl Closer {
    /// The way out of the connection that will be made with these options.
    pub(super) fn of(options: &mut MqttOptions) -> Self {
        let closer = Self::default();
        let slot = Arc::clone(&closer.stream);
        options.set_socket_connector(move |address, _| {
            let slot = Arc::clone(&slot);
            async move {
                let stream = connect(&address).await?.into_std()?;
                let other = stream.try_clone()?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(other);
                Ok(Socket { stream: TcpStream::from_std(stream)?, unsent: None })
            }
        });
        closer
    }

    /// Says to the broker that nothing more comes.
    pub(super) fn close(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = stream.as_ref().map(|stream| stream.shutdown(Shutdown::Write));
        if let Some(Err(error)) = closed {
            tracing::debug!(%error, "the MQTT connection was closed already");
        }
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
    stream: TcpStream,
    /// Why something could not be written.
    unsent: Option<io::Error>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if read.is_ok() && buf.filled().len() == before {
            return Poll::Ready(self.unsent.take().map_or(Ok(()), Err));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(cx, buf)) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(error) => {
                self.unsent = Some(error);
                Poll::Ready(Ok(buf.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
