//! Traces: the spans of what somebody chose to follow, sent as OTLP.
//!
//! A span is begun by hand where something happens to one message or call, and only if its trace is
//! recorded: while traces are off, or for what the sampler left out, that is one look and nothing
//! more. What follows on it elsewhere begins with its [`Span::context`], a W3C traceparent.
//!
//! Set up by the variables of OpenTelemetry (`OTEL_EXPORTER_OTLP_ENDPOINT`, `_HEADERS`, `_TIMEOUT`,
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and `_ARG`, `OTEL_BSP_…`,
//! `OTEL_SDK_DISABLED`), over gRPC. Off without an endpoint. Spans wait in a bounded queue for a
//! thread that sends them; when it is full, spans are lost, never time.

use std::{env, sync::OnceLock, time::Duration};

use anyhow::Context as _;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState,
        Tracer as _, TracerProvider,
    },
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider},
};

use crate::process::VERSION;

/// The process's tracer, as its log is the process's: none while traces are off.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What a span is to the one before it.
pub type Kind = SpanKind;

/// Something that is happening, and is recorded. It ends when it is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

/// Whether traces are recorded at all.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Begins a span after `parent`, a W3C traceparent, or else a trace, if it is to be recorded.
pub fn begin(
    name: impl Into<std::borrow::Cow<'static, str>>,
    kind: Kind,
    parent: Option<&str>,
) -> Option<Span> {
    let tracer = TRACER.get()?;
    let before = match parent.and_then(remote) {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    };
    let builder = SpanBuilder::from_name(name).with_kind(kind);
    let span = tracer.build_with_context(builder, &before);
    span.is_recording().then_some(Span(span))
}

/// Begins a span after `parent`, if that is there and recorded.
pub fn follow(name: &'static str, kind: Kind, parent: Option<&str>) -> Option<Span> {
    begin(name, kind, Some(parent?))
}

impl Span {
    /// It as a W3C traceparent.
    pub fn context(&self) -> String {
        let context = self.0.span_context();
        let flags = context.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Says that it failed, and why.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.0.set_status(Status::error(reason.into()));
    }

    /// What marks the lines of the log that belong to it.
    pub fn log(&self) -> tracing::Span {
        let context = self.0.span_context();
        let (trace_id, span_id) = (context.trace_id(), context.span_id());
        tracing::error_span!("traced", %trace_id, %span_id)
    }
}

/// What a traceparent of version 00 names.
fn remote(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

/// What sends the process's spans.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sets up what the variables ask for. To be called within the runtime, once.
    pub fn start() -> anyhow::Result<Option<Self>> {
        if !wants("TRACES") {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_tonic().build();
        let exporter = exporter.context("cannot send traces (OTEL_EXPORTER_OTLP_ENDPOINT)")?;
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource());
        let provider = provider.build();
        let is_first = TRACER.set(provider.tracer("telemetry")).is_ok();
        anyhow::ensure!(is_first, "traces were set up before");
        Ok(Some(Self(provider)))
    }

    /// Sends what is left, for at most so long. Blocks.
    pub fn stop(&self, within: Duration) {
        if let Err(error) = self.0.shutdown_with_timeout(within) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Whether a signal, such as `TRACES`, is to be sent by OTLP.
pub(crate) fn wants(signal: &str) -> bool {
    let is = |name: &str, value: &str| {
        env::var(name).is_ok_and(|text| text.trim().eq_ignore_ascii_case(value))
    };
    let has = |name: &str| env::var(name).is_ok_and(|text| !text.trim().is_empty());
    !is("OTEL_SDK_DISABLED", "true")
        && !is(&format!("OTEL_{signal}_EXPORTER"), "none")
        && (has("OTEL_EXPORTER_OTLP_ENDPOINT")
            || has(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")))
}

/// Who we are: as the variables say, and else by the name of the program.
pub(crate) fn resource() -> Resource {
    let given = env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut resource = Resource::builder();
    if env::var_os("OTEL_SERVICE_NAME").is_none() && !given.contains("service.name=") {
        let program = env::current_exe().ok();
        let name = program.as_deref().and_then(|path| path.file_name());
        let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        resource = resource.with_service_name(name);
    }
    if !given.contains("service.instance.id=") {
        let id = RandomIdGenerator::default().new_trace_id().to_string();
        resource = resource.with_attribute(KeyValue::new("service.instance.id", id));
    }
    resource.with_attribute(KeyValue::new("service.version", VERSION.as_str())).build()
}
