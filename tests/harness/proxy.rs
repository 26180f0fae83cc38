//! A TCP proxy between two parties of the system, which fails when it is told to.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::Instant,
};

/// What a link does with what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carries it.
    Pass,
    /// Ends every connection in good order, and each new one at once.
    Cut,
    /// Ends every connection with a reset, and each new one at once.
    Reset,
    /// Accepts connections, keeps all open and carries nothing: a link that is half open. What was
    /// sent meanwhile is carried once it passes again.
    Stall,
    /// Carries what goes to the server, and loses what comes back.
    Swallow,
    /// Carries what comes from the server, and loses what goes to it.
    Deafen,
}

/// A link to a server on this machine. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    accepted: Arc<Mutex<Vec<Instant>>>,
    swallowed: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    target: u16,
    /// Connections before this one carry nothing any more.
    dead_before: usize,
    /// Connections before this one have been ended, however briefly the link was broken.
    ended_before: usize,
    ended_by: Mode,
}

impl Proxy {
    /// A link to the server on `target`, which need not listen yet.
    pub async fn to(target: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let state = watch::Sender::new(State {
            mode: Mode::Pass,
            target,
            dead_before: 0,
            ended_before: 0,
            ended_by: Mode::Cut,
        });
        let (accepted, swallowed) = (Arc::<Mutex<Vec<_>>>::default(), Arc::default());
        let link = Link { number: 0, state: state.subscribe(), swallowed: Arc::clone(&swallowed) };
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, link, Arc::clone(&accepted)));
        Ok(Self { port, state, accepted, swallowed, _accepting: accepting })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it does this.
    pub fn set(&self, mode: Mode) {
        let accepted = self.accepted();
        self.state.send_modify(|state| {
            state.mode = mode;
            if matches!(mode, Mode::Cut | Mode::Reset) {
                (state.ended_before, state.ended_by) = (accepted, mode);
            }
        });
    }

    /// The connections that there are stay open and never carry a byte again, as when a firewall
    /// has forgotten them; new ones pass.
    pub fn forget(&self) {
        let dead_before = self.accepted();
        self.state.send_modify(|state| {
            (state.mode, state.dead_before) = (Mode::Pass, dead_before);
        });
    }

    /// Ends every connection; new ones lead to another server.
    pub fn lead_to(&self, target: u16) {
        self.set(Mode::Cut);
        self.state.send_modify(|state| (state.mode, state.target) = (Mode::Pass, target));
    }

    /// How many connections were tried so far.
    pub fn accepted(&self) -> usize {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How long each attempt came after the one before it, of those after the first so many.
    pub fn waits_after(&self, attempts: usize) -> Vec<Duration> {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let after = accepted.get(attempts..).unwrap_or_default();
        after.iter().zip(after.iter().skip(1)).map(|(one, next)| *next - *one).collect()
    }

    /// How many bytes it has lost so far.
    pub fn swallowed(&self) -> usize {
        self.swallowed.load(Ordering::SeqCst)
    }
}

/// What a connection knows.
#[derive(Clone)]
struct Link {
    number: usize,
    state: watch::Receiver<State>,
    swallowed: Arc<AtomicUsize>,
}

impl Link {
    /// Waits until something may be carried; answers how.
    async fn carries(&mut self) -> Mode {
        let number = self.number;
        let carries = |state: &State| state.mode != Mode::Stall && number >= state.dead_before;
        self.state.wait_for(carries).await.map_or(Mode::Cut, |state| state.mode)
    }

    /// Waits until connections are ended; answers how.
    async fn breaks(mut self) -> Mode {
        let number = self.number;
        let breaks = |state: &State| {
            matches!(state.mode, Mode::Cut | Mode::Reset) || number < state.ended_before
        };
        self.state.wait_for(breaks).await.map_or(Mode::Cut, |state| state.ended_by)
    }
}

async fn accept(listener: TcpListener, mut link: Link, accepted: Arc<Mutex<Vec<Instant>>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        {
            let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
            link.number = accepted.len();
            accepted.push(Instant::now());
        }
        connections.spawn(connection(client, link.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, from its beginning to its end.
async fn connection(mut client: TcpStream, link: Link) {
    let server = tokio::select! {
        mode = link.clone().breaks() => return end(&[client], mode),
        server = connect(link.clone()) => server,
    };
    // The client shall see what it would see of a server that does not listen.
    let Ok(mut server) = server else { return end(&[client], Mode::Reset) };
    let mode = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let up = carry(from_client, to_server, link.clone(), Mode::Deafen);
        let down = carry(from_server, to_client, link.clone(), Mode::Swallow);
        tokio::select! {
            mode = link.breaks() => mode,
            carried = async { tokio::try_join!(up, down) } => {
                if carried.is_ok() { Mode::Cut } else { Mode::Reset }
            }
        }
    };
    end(&[client, server], mode);
}

async fn connect(mut link: Link) -> io::Result<TcpStream> {
    link.carries().await;
    let target = link.state.borrow().target;
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// One direction, until its sender says that nothing more comes.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut link: Link,
    lost_in: Mode,
) -> io::Result<()> {
    to.as_ref().set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        let mode = link.carries().await;
        if mode == lost_in {
            link.swallowed.fetch_add(read, Ordering::SeqCst);
        } else if read > 0 {
            to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        }
        if read == 0 {
            return to.shutdown().await;
        }
    }
}

fn end(sockets: &[TcpStream], mode: Mode) {
    if mode == Mode::Reset {
        for socket in sockets {
            drop(socket.set_zero_linger());
        }
    }
}
