//! A real receiver of OTLP over gRPC, which keeps what it gets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::ensure;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::eventually;

/// The receiver. It ends when it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    got: Arc<Got>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Got {
    spans: Mutex<Vec<(String, Span)>>,
    metrics: Mutex<Vec<(String, Metric)>>,
    /// Everything, in words.
    text: Mutex<String>,
}

impl OtlpReceiver {
    /// Starts it on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let got = Arc::<Got>::default();
        let router = Server::builder()
            .add_service(TraceServiceServer::from_arc(Arc::clone(&got)))
            .add_service(MetricsServiceServer::from_arc(Arc::clone(&got)));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served = router.serve_with_incoming(TcpListenerStream::new(listener)).await;
            drop(served);
        });
        Ok(Self { address, got, _serving: serving })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans that came, with the names of the services that they came from.
    pub fn spans(&self) -> Vec<(String, Span)> {
        self.got.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The metrics that came, likewise.
    pub fn metrics(&self) -> Vec<(String, Metric)> {
        self.got.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that came, in words.
    pub fn text(&self) -> String {
        self.got.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a span of this name.
    pub async fn span_named(&self, name: &str) -> anyhow::Result<()> {
        eventually(&format!("{name:?} was sent"), async || {
            ensure!(self.spans().iter().any(|(_, span)| span.name == name), "{:?}", self.spans());
            Ok(())
        })
        .await
    }

    /// Waits for a service's span of this name, after the span with this id.
    pub async fn span(&self, service: &str, name: &str, parent: &[u8]) -> anyhow::Result<Span> {
        eventually(&format!("{service} has sent {name:?}"), async || {
            let spans = self.spans();
            let found = spans.iter().find(|(by, span)| {
                by == service && span.name == name && span.parent_span_id == parent
            });
            ensure!(found.is_some(), "{spans:?}");
            Ok(found.map(|(_, span)| span.clone()).unwrap_or_default())
        })
        .await
    }
}

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(&request);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.into_inner().resource_spans {
            let service = service(group.resource.as_ref());
            let own = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(own.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Got {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(&request);
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.into_inner().resource_metrics {
            let service = service(group.resource.as_ref());
            let own = group.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            metrics.extend(own.map(|metric| (service.clone(), metric)));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Got {
    fn keep<T: std::fmt::Debug>(&self, request: &Request<T>) {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(&format!("{:?}\n", request.get_ref()));
    }
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    text_of(attributes, "service.name").unwrap_or_default()
}

/// The text under a key.
pub fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    match value.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}
