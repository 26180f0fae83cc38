//! The standard health service, for a process that is either serving or not, and a client of it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, health_check_response::ServingStatus as Answer,
        health_client::HealthClient, health_server::Health as HealthService,
        health_server::HealthServer,
    },
    server::HealthReporter,
};

use crate::{
    channel::Connector,
    tls::{ClientFiles, Trust},
};

/// The name that is `SERVING` as long as the process answers at all, whatever it depends on: a
/// restart would not mend that.
pub const LIVENESS: &str = "liveness";

/// How long a process may take to say how it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Asking a process how it is, instead of being one.
#[derive(Args, Clone, Debug)]
pub struct AskSettings {
    /// Ask the process that runs here, at the address that it listens on, whether it serves; with
    /// `=liveness`, whether it answers at all.
    #[arg(
        long,
        value_name = "SERVICE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    pub health: Option<String>,
}

/// Says whether the process serves, overall (the empty name) and for each service it names.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: &'static [&'static str],
    serving: Arc<AtomicBool>,
}

impl Health {
    /// The health of `services`, `NOT_SERVING` at first, and the gRPC service that answers for it.
    pub async fn new(
        services: &'static [&'static str],
    ) -> (Self, HealthServer<impl HealthService + use<>>) {
        let (reporter, server) = tonic_health::server::health_reporter();
        reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        let health = Self { reporter, services, serving: Arc::default() };
        health.set(false).await;
        (health, server)
    }

    /// Whether it serves.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst)
    }

    /// Sets it to `SERVING` or `NOT_SERVING`.
    pub async fn set(&self, serving: bool) {
        self.serving.store(serving, Ordering::SeqCst);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in self.services.iter().chain(&[""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Asks the process that listens on `address` of this host how a service of it is. With TLS, it must
/// have the given certificate.
pub(crate) async fn check(
    address: SocketAddr,
    service: &str,
    certificate: Option<PathBuf>,
) -> anyhow::Result<()> {
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(ANSWER_WITHIN)
        .timeout(ANSWER_WITHIN);
    let tls = certificate.map(|path| ClientFiles { trust: Trust::Same(path), identity: None });
    let connector = Connector { host: address.ip().to_string(), port: address.port(), tls };
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.with_context(|| format!("nobody at {address}"))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await?.into_inner();
    ensure!(answer.status() == Answer::Serving, "{} at {address}", answer.status().as_str_name());
    Ok(())
}

/// Where a listener on this address is reached: one that listens everywhere, here.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tonic::transport::{Server, server::TcpIncoming};

    use super::*;

    #[tokio::test]
    async fn a_process_is_alive_before_and_after_it_serves_and_says_so_when_asked() {
        let listener = TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, service) = Health::new(&["some"]).await;
        let lifecycle = crate::lifecycle::Lifecycle::new();
        let server = Server::builder().add_service(service);
        let stopping = lifecycle.token().cancelled_owned();
        let incoming = TcpIncoming::from(listener);
        lifecycle.spawn("health", server.serve_with_incoming_shutdown(incoming, stopping));

        for serving in [false, true, false] {
            health.set(serving).await;
            let error = check(address, "", None).await.map_err(|error| format!("{error:#}"));
            assert_eq!(error.is_ok(), serving, "{error:?}");
            assert!(serving || error.unwrap_err().starts_with("NOT_SERVING at 127.0.0.1:"));
            check(address, LIVENESS, None).await.unwrap();
        }
        lifecycle.stop();
        assert!(lifecycle.drained().await);
        let error = format!("{:#}", check(address, "", None).await.unwrap_err());
        assert!(error.starts_with("nobody at 127.0.0.1:"), "{error}");
    }
}
