//! The standard health service, for a process that is either serving or not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
    server::HealthReporter,
};

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
