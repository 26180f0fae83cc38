//! The way to another service: one gRPC channel that finds out when the other side is gone, and that
//! takes new certificates and tokens without a restart.

use std::{
    error::Error as _,
    fmt, fs,
    path::PathBuf,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::{FutureExt, future::BoxFuture};
use http::{Uri, uri::Scheme};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Endpoint},
};
use tower::Service;

use crate::{
    auth::status::unusable_token,
    tls::{ClientFiles, Trust},
};

/// A channel that shows a token with every call, if there is one.
pub type Channel = InterceptedService<transport::Channel, Bearer>;

/// With what a client shows the store who it is, and how it knows the store.
#[derive(Args, Clone, Debug, Default)]
pub struct AccessSettings {
    /// PEM file of the authorities to trust with https [default: the public ones]. The files of TLS
    /// are read for each connection.
    #[arg(long, global = true, env = "STORE_CA_CERT")]
    pub store_ca_cert: Option<PathBuf>,
    /// PEM file of our certificate, if it shall stand for a token.
    #[arg(long, global = true, env = "STORE_CLIENT_CERT")]
    pub store_client_cert: Option<PathBuf>,
    /// PEM file of our certificate's key.
    #[arg(long, global = true, env = "STORE_CLIENT_KEY")]
    pub store_client_key: Option<PathBuf>,
    /// Token to show with every call.
    #[arg(long, global = true, env = "STORE_TOKEN", hide_env_values = true)]
    pub store_token: Option<SecretString>,
    /// File that holds the token. Read for each call.
    #[arg(long, global = true, env = "STORE_TOKEN_FILE")]
    pub store_token_file: Option<PathBuf>,
}

/// A channel to `url` that connects when it is first used and again whenever it broke.
pub fn connect(url: &str, access: &AccessSettings) -> anyhow::Result<Channel> {
    let uri: Uri = url.parse().context("it is not a URL")?;
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    let files = access.files()?;
    let tls = if is_https {
        // Unusable files are found before anything starts.
        files.read()?;
        Some(files)
    } else {
        ensure!(
            access.store_ca_cert.is_none() && files.identity.is_none(),
            "STORE_CA_CERT and STORE_CLIENT_CERT are of use with an https URL only"
        );
        None
    };
    let bearer = access.bearer()?;
    let host = uri.host().unwrap_or_default().to_owned();
    let is_here = ["localhost", "127.0.0.1", "[::1]"].contains(&host.as_str());
    if bearer.is_some() && !is_https && !is_here {
        tracing::warn!(host, "the token goes to the store in the clear: use an https URL");
    }
    // The connector speaks TLS, which must not be asked of the channel too.
    let mut plain = uri.clone().into_parts();
    plain.scheme = Some(Scheme::HTTP);
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let connector = Connector { host, port, tls };
    let endpoint = Endpoint::from(Uri::from_parts(plain)?)
        .origin(uri)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(InterceptedService::new(endpoint.connect_with_connector_lazy(connector), bearer))
}

/// What a status says, with the cause of it if that is on our side.
pub fn reason(status: &Status) -> String {
    let mut cause = status.source();
    let mut reason = status.message().to_owned();
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    reason
}

impl AccessSettings {
    fn files(&self) -> anyhow::Result<ClientFiles> {
        let identity = match (&self.store_client_cert, &self.store_client_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            _ => bail!("STORE_CLIENT_CERT and STORE_CLIENT_KEY go together: set both or neither"),
        };
        let trust = self.store_ca_cert.clone().map_or(Trust::Public, Trust::Authorities);
        Ok(ClientFiles { trust, identity })
    }

    fn bearer(&self) -> anyhow::Result<Bearer> {
        let bearer = match (&self.store_token, &self.store_token_file) {
            (Some(_), Some(_)) => {
                bail!("STORE_TOKEN and STORE_TOKEN_FILE are both set: keep one of them")
            }
            (Some(token), None) if token.expose_secret().is_empty() => Bearer::Nothing,
            (Some(token), None) => Bearer::Token(token.clone()),
            (None, Some(file)) => Bearer::File(file.clone()),
            (None, None) => Bearer::Nothing,
        };
        bearer.header().map_err(anyhow::Error::msg)?;
        Ok(bearer)
    }
}

/// Shows a token with every call.
#[derive(Clone)]
pub enum Bearer {
    /// There is none.
    Nothing,
    /// This one.
    Token(SecretString),
    /// What is in a file at the time.
    File(PathBuf),
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

impl Bearer {
    fn is_some(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    fn header(&self) -> Result<Option<MetadataValue<tonic::metadata::Ascii>>, String> {
        let token = match self {
            Self::Nothing => return Ok(None),
            Self::Token(token) => token.clone(),
            Self::File(path) => fs::read_to_string(path)
                .map_err(|error| {
                    format!("STORE_TOKEN_FILE: cannot read {}: {error}", path.display())
                })?
                .into(),
        };
        let header = format!("Bearer {}", token.expose_secret().trim());
        let mut header: MetadataValue<_> =
            header.parse().map_err(|_| "STORE_TOKEN holds characters that no token has")?;
        // It is neither printed nor compressed.
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = self.header().map_err(unusable_token)? {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

/// Makes the connections of a channel.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<ClientFiles>,
}

type Stream = TokioIo<Either<TcpStream, TlsStream<TcpStream>>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    async fn connect(self) -> anyhow::Result<Stream> {
        let host = self.host.trim_matches(['[', ']']).to_owned();
        let stream = TcpStream::connect((host.as_str(), self.port)).await?;
        // Acknowledgements and events are small and must not wait for each other.
        stream.set_nodelay(true)?;
        let Some(files) = &self.tls else { return Ok(TokioIo::new(Either::Left(stream))) };
        let connector = TlsConnector::from(Arc::new(files.read()?));
        let stream = connector.connect(ServerName::try_from(host)?, stream).await?;
        Ok(TokioIo::new(Either::Right(stream)))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connected = self.clone().connect();
        async { connected.await.map_err(|error| format!("{error:#}").into()) }.boxed()
    }
}
