//! The connections of a gRPC server, with TLS or without, so that nobody can take all of them.
//!
//! A connection whose first call has not been admitted yet is a stranger. When there are as many
//! connections as may be, the oldest stranger goes; so whoever opens thousands of them and says
//! nothing only pushes out his own. What is said first must be said soon.

mod connection;

use std::{
    collections::VecDeque,
    future::ready,
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream,
    stream::{BoxStream, FuturesUnordered},
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use self::connection::Standing;
pub use self::connection::{Certificate, Connection, Peer};

/// How long a handshake may take, and then the beginning of HTTP/2.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait when the system has no connection to spare.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How much callers may take up.
#[derive(Args, Clone, Debug)]
pub struct LimitSettings {
    /// The most connections at once. Beyond, those go that have not made a call yet.
    #[arg(long, global = true, env = "MAX_CONNECTIONS", default_value_t = 10_000)]
    pub max_connections: usize,
    /// The most calls and streams that one identity may have open at once.
    #[arg(long, global = true, env = "MAX_STREAMS_PER_IDENTITY", default_value_t = 10_000)]
    pub max_streams_per_identity: usize,
}

/// What is counted of connections.
#[derive(Debug, Default)]
pub struct Counts {
    /// Accepted.
    pub accepted: AtomicU64,
    /// Closed because TLS did not come about.
    pub failed_handshakes: AtomicU64,
    /// Closed to make room, before a call was admitted on them.
    pub pushed_out: AtomicU64,
}

/// A port on which connections come in.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    room: Arc<Semaphore>,
    strangers: VecDeque<Weak<Standing>>,
    /// Connections that are being made.
    beginning: FuturesUnordered<BoxFuture<'static, Option<Connection>>>,
    counts: Arc<Counts>,
}

impl Incoming {
    /// Connections of a port, at most so many.
    pub fn new(
        listener: TcpListener,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
        most: usize,
    ) -> Self {
        let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            listener,
            tls,
            room,
            strangers: VecDeque::new(),
            beginning: FuturesUnordered::new(),
            counts: Arc::default(),
        }
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The connections, once each has been made.
    pub fn into_stream(self) -> BoxStream<'static, io::Result<Connection>> {
        stream::unfold(self, async |mut incoming| {
            let connection = incoming.next().await;
            Some((Ok(connection), incoming))
        })
        .boxed()
    }

    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(begun) = self.beginning.next() => if let Some(connection) = begun {
                    return connection;
                },
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => self.begin(stream, address),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        self.push_out();
                        sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
    }

    /// Begins a connection, if there is room or can be made.
    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        let room = Arc::clone(&self.room);
        let place = match Arc::clone(&room).try_acquire_owned() {
            Ok(place) => ready(Some(place)).left_future(),
            Err(_) if self.push_out() => async { room.acquire_owned().await.ok() }.right_future(),
            Err(_) => {
                tracing::warn!(from = %address, "too many connections, closing a new one");
                return;
            }
        };
        let standing = Arc::new(Standing::default());
        self.remember(&standing);
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.borrow())));
        let counts = Arc::clone(&self.counts);
        let out = standing.out();
        let made = async move {
            let made = timeout(DEADLINE, make(stream, place, tls, address, standing));
            match made.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connection) => Some(connection),
                Err(error) => {
                    counts.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(from = %address, %error, "a connection did not come about");
                    None
                }
            }
        };
        self.beginning.push(
            async move {
                tokio::select! {
                    made = made => made,
                    () = out.cancelled() => None,
                }
            }
            .boxed(),
        );
    }

    fn remember(&mut self, standing: &Arc<Standing>) {
        self.strangers.push_back(Arc::downgrade(standing));
        // Looked through when it has doubled, that is, at no cost to speak of for each.
        if self.strangers.len() == self.strangers.capacity() {
            self.strangers.retain(|standing| {
                standing.upgrade().is_some_and(|standing| standing.is_stranger())
            });
        }
    }

    /// Makes the oldest stranger go; false if there is none.
    fn push_out(&mut self) -> bool {
        while let Some(standing) = self.strangers.pop_front() {
            if let Some(standing) = standing.upgrade().filter(|standing| standing.is_stranger()) {
                standing.push_out();
                self.counts.pushed_out.fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }
}

/// Makes a connection of what was accepted.
async fn make(
    stream: TcpStream,
    place: impl Future<Output = Option<OwnedSemaphorePermit>>,
    tls: Option<TlsAcceptor>,
    address: SocketAddr,
    standing: Arc<Standing>,
) -> io::Result<Connection> {
    let place = place.await.ok_or(io::ErrorKind::ConnectionAborted)?;
    // Acknowledgements and events are small and must not wait for each other.
    stream.set_nodelay(true)?;
    let stream = match tls {
        None => Either::Left(stream),
        Some(acceptor) => Either::Right(acceptor.accept(stream).await?),
    };
    Ok(Connection::new(stream, place, address, standing))
}
