//! One connection, which ends when it is pushed out or does not begin with HTTP/2.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::transport::server::Connected;
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

use super::DEADLINE;

/// What every HTTP/2 connection begins with, in bytes: the preface and the head of a frame.
const BEGINNING_BYTES: usize = 24 + 9;

/// Whether a connection is a stranger's.
#[derive(Debug, Default)]
pub(super) struct Standing {
    is_known: AtomicBool,
    out: CancellationToken,
}

impl Standing {
    pub(super) fn is_stranger(&self) -> bool {
        !self.is_known.load(Ordering::Relaxed)
    }

    pub(super) fn push_out(&self) {
        self.out.cancel();
    }

    pub(super) fn out(&self) -> CancellationToken {
        self.out.clone()
    }
}

/// What a client's certificate says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its names: of URIs and hosts, or the common name if it has none of these.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

impl Certificate {
    /// Reads a certificate that has been found good.
    fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternatives = certificate.subject_alternative_name().ok()?;
        let alternatives = alternatives.iter().flat_map(|names| &names.value.general_names);
        let mut names: Vec<_> = alternatives
            .filter_map(|name| match name {
                GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            let common = certificate.subject().iter_common_name();
            names.extend(common.filter_map(|name| name.as_str().ok()).map(str::to_owned));
        }
        let expires = certificate.validity().not_after.timestamp();
        Some(Self { names, expires: u64::try_from(expires).unwrap_or(0) })
    }
}

/// Who is at the other end of a connection: in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where.
    pub address: Option<SocketAddr>,
    certificate: Option<Arc<Certificate>>,
    standing: Arc<Standing>,
}

impl Peer {
    /// The certificate that it showed, if it did; an authority of ours has signed it.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// Notes that a call was admitted, so that it is no stranger any more.
    pub(crate) fn is_known(&self) {
        self.standing.is_known.store(true, Ordering::Relaxed);
    }
}

/// A connection.
pub struct Connection {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    peer: Peer,
    /// Why it may end, while it is a stranger's or has just begun.
    pushed_out: Option<BoxFuture<'static, ()>>,
    late: Option<BoxFuture<'static, ()>>,
    read_bytes: usize,
    _place: OwnedSemaphorePermit,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        stream: Either<TcpStream, TlsStream<TcpStream>>,
        place: OwnedSemaphorePermit,
        address: SocketAddr,
        standing: Arc<Standing>,
    ) -> Self {
        let certificates = match &stream {
            Either::Left(_) => None,
            Either::Right(stream) => stream.get_ref().1.peer_certificates(),
        };
        let certificate = certificates.and_then(|chain| Certificate::parse(chain.first()?));
        let out = standing.out();
        Self {
            stream,
            peer: Peer { address: Some(address), certificate: certificate.map(Arc::new), standing },
            pushed_out: Some(async move { out.cancelled().await }.boxed()),
            late: Some(sleep(DEADLINE).boxed()),
            read_bytes: 0,
            _place: place,
        }
    }

    /// Fails if it has to end.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.peer.standing.is_stranger() {
            self.pushed_out = None;
        }
        for (end, kind) in [
            (&mut self.pushed_out, io::ErrorKind::ConnectionAborted),
            (&mut self.late, io::ErrorKind::TimedOut),
        ] {
            if end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
                // A future that is done must not be asked again.
                *end = Some(futures::future::ready(()).boxed());
                return Err(kind.into());
            }
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pushed_out.is_some() || self.late.is_some() {
            self.check(cx)?;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.late.is_some() {
            self.read_bytes += buf.filled().len() - before;
            if self.read_bytes >= BEGINNING_BYTES {
                self.late = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
