//! What each method asks of its callers, and with which devices each caller may deal.

use std::sync::Arc;

use service_kit::auth::{Identity, Rule, Scope};
use telemetry_model::DeviceId;
use tonic::Request;

use crate::error::{Error, Result};

/// What a method, by its path, asks of its callers. What is not known takes the most.
pub(crate) fn rule(path: &str) -> Rule {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match (service, method) {
        (
            "grpc.health.v1.Health"
            | "grpc.reflection.v1.ServerReflection"
            | "grpc.reflection.v1alpha.ServerReflection",
            _,
        ) => Rule::Open,
        ("telemetry.v1.IngestService", _) => Rule::Needs(Scope::Ingest),
        ("telemetry.v1.QueryService" | "telemetry.v1.WatchService", _)
        | ("telemetry.v1.DiagnosticsService", "GetLedger" | "ListQuarantine" | "ExplainDevice") => {
            Rule::Needs(Scope::Read)
        }
        _ => Rule::Needs(Scope::Admin),
    }
}

/// The devices with which a caller may deal.
#[derive(Clone, Debug)]
pub(super) struct Devices(Option<Arc<Identity>>);

impl Devices {
    /// Those of whoever made this call; none if nobody looked who it was.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self(request.extensions().get().cloned())
    }

    /// What the caller is called; nothing if nobody looked who it was.
    pub(super) fn caller(&self) -> &str {
        self.0.as_ref().map_or("", |identity| identity.name())
    }

    /// Whether this one is among them.
    pub(super) fn allow(&self, device: &DeviceId) -> bool {
        self.0.as_ref().is_some_and(|identity| {
            let begins = |prefix: &String| device.as_str().starts_with(prefix.as_str());
            identity.devices().is_none_or(|prefixes| prefixes.iter().any(begins))
        })
    }

    /// Fails unless this one is among them.
    pub(super) fn check(&self, device: &DeviceId) -> Result<()> {
        if self.allow(device) { Ok(()) } else { Err(Error::NotPermitted(device.clone())) }
    }

    /// With what the ids of all of them begin; nothing if it may be anything.
    pub(super) fn prefixes(&self) -> Option<Vec<String>> {
        match &self.0 {
            Some(identity) => identity.devices().map(<[String]>::to_vec),
            None => Some(Vec::new()),
        }
    }

    /// With what the ids of those among them begin whose ids begin with `prefix`. Fails if none may.
    pub(super) fn within(&self, prefix: &str) -> Result<Vec<String>> {
        let Some(own) = self.prefixes() else { return Ok(vec![prefix.to_owned()]) };
        let narrower = own.into_iter().filter_map(|own| {
            if own.starts_with(prefix) {
                return Some(own);
            }
            prefix.starts_with(&own).then(|| prefix.to_owned())
        });
        let within: Vec<_> = narrower.collect();
        if within.is_empty() { Err(Error::DeviceNotNamed) } else { Ok(within) }
    }

    /// Fails unless all devices are among them.
    pub(super) fn check_all(&self) -> Result<()> {
        if self.prefixes().is_none() { Ok(()) } else { Err(Error::DeviceNotNamed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_scope_and_an_unknown_one_the_most() {
        for (path, needed) in [
            ("/telemetry.v1.IngestService/Ingest", Some(Scope::Ingest)),
            ("/telemetry.v1.QueryService/ListDevices", Some(Scope::Read)),
            ("/telemetry.v1.WatchService/WatchDevices", Some(Scope::Read)),
            ("/telemetry.v1.DiagnosticsService/GetLedger", Some(Scope::Read)),
            ("/telemetry.v1.DiagnosticsService/ReplayQuarantine", Some(Scope::Admin)),
            ("/telemetry.v1.AdminService/DeleteDevice", Some(Scope::Admin)),
            ("/telemetry.v1.QueryServiceX/ListDevices", Some(Scope::Admin)),
            ("//telemetry.v1.Other/X", Some(Scope::Admin)),
            ("", Some(Scope::Admin)),
            ("/grpc.health.v1.Health/Check", None),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None),
        ] {
            let expected = needed.map_or(Rule::Open, Rule::Needs);
            assert_eq!(rule(path), expected, "{path}");
        }
    }

    #[test]
    fn a_call_that_nobody_looked_at_deals_with_no_device() {
        let fern = DeviceId::parse("fern-1").unwrap();
        let mut request = Request::new(());
        assert!(!Devices::of(&request).allow(&fern));
        assert!(Devices::of(&request).check_all().is_err());
        request.extensions_mut().insert(Arc::new(Identity::anyone()));
        assert!(Devices::of(&request).allow(&fern) && Devices::of(&request).check_all().is_ok());
    }
}
