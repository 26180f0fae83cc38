//! The standard health service, for a process that is either serving or not, and a client of it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
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

/// The name that is `SERVING` as long as the process answers at all, whatever it depends on: a
/// restart would not mend that.
pub const LIVENESS: &str = "liveness";

/// How long a process may take to say how it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

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

/// Asks the process that listens on `address` of this host whether it serves.
pub(crate) async fn check(address: SocketAddr) -> anyhow::Result<()> {
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(ANSWER_WITHIN)
        .timeout(ANSWER_WITHIN);
    let channel = endpoint.connect().await.with_context(|| format!("nobody at {address}"))?;
    let request = HealthCheckRequest { service: String::new() };
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

        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", address.port()));
        let mut client = HealthClient::new(channel.unwrap().connect_lazy());
        for serving in [false, true, false] {
            health.set(serving).await;
            let error = check(address).await.map_err(|error| format!("{error:#}"));
            assert_eq!(error.is_ok(), serving, "{error:?}");
            assert!(serving || error.unwrap_err().starts_with("NOT_SERVING at 127.0.0.1:"));
            let request = HealthCheckRequest { service: LIVENESS.to_owned() };
            let alive = client.check(request).await.unwrap().into_inner();
            assert_eq!(alive.status(), Answer::Serving);
        }
        drop(client);
        lifecycle.stop();
        assert!(lifecycle.drained().await);
        let error = format!("{:#}", check(address).await.unwrap_err());
        assert!(error.starts_with("nobody at 127.0.0.1:"), "{error}");
    }
}
