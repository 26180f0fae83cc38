//! Metrics: an HTTP port on which Prometheus may ask for what a process counts, and OTLP, by which
//! it is pushed.
//!
//! Nothing is collected beside what the process knows anyway: its [`Source`] writes the page anew
//! whenever somebody asks for it, and for each push.

mod page;
mod push;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use futures::{StreamExt, stream::FuturesUnordered};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    page::{Histogram, Page},
    push::Push,
};

/// How long one asker may take, from connecting to having read the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most at once. Others wait until one is done.
const MAX_CONNECTIONS: usize = 16;
/// How long to wait when the system has no connection to spare.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The text format of Prometheus.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where to serve metrics.
#[derive(Args, Clone, Debug)]
pub struct MetricsSettings {
    /// Address to serve metrics on for Prometheus, such as 127.0.0.1:9090, under the path /metrics
    /// [default: off].
    #[arg(long, global = true, env = "METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
}

/// What has metrics.
pub trait Source: Send + Sync + 'static {
    /// All of them, as they are now.
    fn page(&self) -> impl Future<Output = Page> + Send;
}

/// The open port.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// Opens the port, if there shall be one.
    pub async fn bind(settings: &MetricsSettings) -> anyhow::Result<Option<Self>> {
        let Some(address) = settings.metrics_listen else { return Ok(None) };
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (METRICS_LISTEN)"))?;
        Ok(Some(Self { listener }))
    }

    /// The address, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop, at once then: whoever waits for a page will ask again.
    pub async fn run(
        self,
        source: Arc<impl Source>,
        stopping: CancellationToken,
    ) -> io::Result<()> {
        tracing::info!(address = %self.local_addr()?, "serving metrics");
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                connection = accept(&self.listener), if open.len() < MAX_CONNECTIONS => {
                    open.push(timeout(DEADLINE, serve(connection, source.as_ref())));
                }
                Some(_ended) = open.next() => {}
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => return connection,
            Err(error) => tracing::warn!(%error, "cannot accept a connection for metrics"),
        }
        sleep(ACCEPT_AGAIN).await;
    }
}

/// Answers one request.
async fn serve(connection: TcpStream, source: &impl Source) {
    let answer = service_fn(async |request| answer(&request, source).await);
    let mut http = http1::Builder::new();
    let served = http.keep_alive(false).serve_connection(TokioIo::new(connection), answer);
    if let Err(error) = served.await {
        tracing::debug!(%error, "metrics were not sent");
    }
}

async fn answer(
    request: &Request<Incoming>,
    source: &impl Source,
) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let content_type = header::HeaderValue::from_static(CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            *response.body_mut() = source.page().await.into_text();
        }
        (_, "/metrics") => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            "see /metrics\n".clone_into(response.body_mut());
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct One;

    impl Source for One {
        async fn page(&self) -> Page {
            let mut page = Page::default();
            page.gauge("up", "Up.", 1);
            page
        }
    }

    fn on(address: SocketAddr) -> MetricsSettings {
        MetricsSettings { metrics_listen: Some(address) }
    }

    async fn ask(address: SocketAddr, line: &str) -> String {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_is_there_and_nothing_else() {
        let endpoint = Endpoint::bind(&on(([127, 0, 0, 1], 0).into())).await.unwrap().unwrap();
        let address = endpoint.local_addr().unwrap();
        let lifecycle = crate::lifecycle::Lifecycle::new();
        lifecycle.spawn("metrics", endpoint.run(Arc::new(One), lifecycle.token()));
        let _silent = TcpStream::connect(address).await.unwrap();
        let page = ask(address, "GET /metrics").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(
            page.contains(CONTENT_TYPE)
                && page.ends_with("\r\n\r\n# HELP up Up.\n# TYPE up gauge\nup 1\n"),
            "{page}"
        );
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405 "));
        lifecycle.stop();
        assert!(lifecycle.drained().await);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_said_by_name_and_none_is_opened_unasked() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let settings = on(taken.local_addr().unwrap());
        let error = Endpoint::bind(&settings).await.unwrap_err();
        assert!(format!("{error:#}").contains("METRICS_LISTEN"), "{error:#}");
        let off = MetricsSettings { metrics_listen: None };
        assert!(Endpoint::bind(&off).await.unwrap().is_none());
    }
}
