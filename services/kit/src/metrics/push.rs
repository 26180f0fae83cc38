//! The same metrics, pushed as OTLP: for those who do not come and ask.
//!
//! Set up by the variables of OpenTelemetry, as in [`crate::trace`], and `OTEL_METRIC_EXPORT_INTERVAL`
//! (milliseconds, 60000 if not given). Names and labels are those of the page.

use std::{convert::Infallible, env, sync::Arc, time::Duration};

use anyhow::Context;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    Page, Source,
    page::{self, Labels, Points},
};
use crate::trace;

/// How long the last push may take.
const LAST_PUSH: Duration = Duration::from_secs(1);

/// What pushes the metrics of a process.
#[derive(Debug)]
pub struct Push {
    client: MetricsServiceClient<Channel>,
    headers: Headers,
    resource: Resource,
    every: Duration,
    timeout: Duration,
    began: u64,
    /// Whether the last push failed: then this is not said again.
    fails: bool,
}

/// Names and values, some of which are secret.
struct Headers(MetadataMap);

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Headers(..)")
    }
}

impl Push {
    /// What the variables ask for, if anything. Connects when it first pushes.
    pub fn new() -> anyhow::Result<Option<Self>> {
        if !trace::wants("METRICS") {
            return Ok(None);
        }
        let endpoint = variable("ENDPOINT").unwrap_or_default();
        let endpoint = endpoint.trim();
        let url =
            if endpoint.contains("://") { endpoint.into() } else { format!("https://{endpoint}") };
        let mut endpoint = Endpoint::from_shared(url.clone()).context("cannot use the URL")?;
        if url.starts_with("https://") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_webpki_roots())?;
        }
        let every = env::var("OTEL_METRIC_EXPORT_INTERVAL").ok();
        Ok(Some(Self {
            client: MetricsServiceClient::new(endpoint.connect_lazy()),
            headers: Headers(headers(&variable("HEADERS").unwrap_or_default())?),
            resource: (&trace::resource()).into(),
            every: millis(every, "OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
            timeout: millis(variable("TIMEOUT"), "OTEL_EXPORTER_OTLP_TIMEOUT", 10_000)?,
            began: now(),
            fails: false,
        }))
    }

    /// Pushes now and then until told to stop, and then once more.
    pub async fn run(
        mut self,
        source: Arc<impl Source>,
        stopping: CancellationToken,
    ) -> Result<(), Infallible> {
        while stopping.run_until_cancelled(sleep(self.every)).await.is_some() {
            let within = self.timeout;
            stopping.run_until_cancelled(self.push(source.as_ref(), within)).await;
        }
        self.push(source.as_ref(), LAST_PUSH).await;
        Ok(())
    }

    async fn push(&mut self, source: &impl Source, within: Duration) {
        let pushed = timeout(within, async {
            let mut request = Request::new(self.request(source.page().await));
            *request.metadata_mut() = self.headers.0.clone();
            self.client.export(request).await
        });
        let error = match pushed.await {
            Ok(Ok(_)) => {
                self.fails = false;
                return;
            }
            Ok(Err(status)) => crate::channel::reason(&status),
            Err(_) => "no answer in time".to_owned(),
        };
        if !std::mem::replace(&mut self.fails, true) {
            tracing::warn!(error, "cannot push metrics (OTEL_EXPORTER_OTLP_ENDPOINT)");
        }
    }

    fn request(&self, page: Page) -> ExportMetricsServiceRequest {
        let (began, now) = (self.began, now());
        let metrics = page.metrics.into_iter().map(|metric| wire(metric, began, now)).collect();
        let scope = InstrumentationScope { name: "telemetry".into(), ..Default::default() };
        let metrics = ScopeMetrics { scope: Some(scope), metrics, ..Default::default() };
        let resource = Some(self.resource.clone());
        let all = ResourceMetrics { resource, scope_metrics: vec![metrics], ..Default::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![all] }
    }
}

/// A variable for metrics, or else the one for all signals.
fn variable(what: &str) -> Option<String> {
    let own = env::var(format!("OTEL_EXPORTER_OTLP_METRICS_{what}")).ok();
    own.or_else(|| env::var(format!("OTEL_EXPORTER_OTLP_{what}")).ok())
}

fn millis(text: Option<String>, variable: &str, default: u64) -> anyhow::Result<Duration> {
    let millis = text.map(|text| text.trim().parse()).transpose();
    let millis = millis.with_context(|| format!("{variable}: must be milliseconds"))?;
    Ok(Duration::from_millis(millis.unwrap_or(default).max(1)))
}

/// `name=value` pairs separated by commas, the values as in a URL.
fn headers(text: &str) -> anyhow::Result<MetadataMap> {
    let mut headers = http::HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        // What is wrong is not shown, as it may be a secret.
        let wrong = "OTEL_EXPORTER_OTLP_HEADERS: must be name=value pairs";
        let (name, value) = pair.split_once('=').context(wrong)?;
        let name: http::HeaderName = name.trim().parse().ok().context(wrong)?;
        let value: Vec<u8> = percent_encoding::percent_decode_str(value.trim()).collect();
        headers.append(name, http::HeaderValue::from_bytes(&value).ok().context(wrong)?);
    }
    Ok(MetadataMap::from_headers(headers))
}

#[expect(clippy::disallowed_methods, reason = "nothing but a label for others")]
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn wire(metric: page::Metric, began: u64, now: u64) -> Metric {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let numbers = |points: Vec<(Labels, u64)>, began| {
        let number = |(labels, value)| NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: began,
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
            ..Default::default()
        };
        points.into_iter().map(number).collect()
    };
    let data = match metric.points {
        Points::Gauge(points) => Data::Gauge(Gauge { data_points: numbers(points, 0) }),
        Points::Counter(points) => Data::Sum(Sum {
            data_points: numbers(points, began),
            aggregation_temporality,
            is_monotonic: true,
        }),
        Points::Histogram(points) => {
            let point = |(labels, bounds, observed): (_, &[f64], _)| HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: began,
                time_unix_nano: now,
                ..buckets(bounds, &observed)
            };
            let data_points = points.into_iter().map(point).collect();
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        }
    };
    Metric { name: metric.name, description: metric.help, data: Some(data), ..Default::default() }
}

/// What lies between each bound and the one before, which the page counts from the first one on.
fn buckets(bounds: &[f64], observed: &page::Observed) -> HistogramDataPoint {
    let within = observed.within.iter().chain([&observed.count]);
    let before = [&0].into_iter().chain(&observed.within);
    HistogramDataPoint {
        count: observed.count,
        sum: Some(observed.sum),
        bucket_counts: within.zip(before).map(|(upto, before)| upto - before).collect(),
        explicit_bounds: bounds.to_vec(),
        ..Default::default()
    }
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    let attribute = |(key, text): (&str, String)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(text)) }),
        ..Default::default()
    };
    labels.into_iter().map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_specification_has_them() {
        let read = headers("authorization=Bearer%20x, x-a=1").unwrap().into_headers();
        assert_eq!(
            (&read["authorization"], &read["x-a"]),
            (&"Bearer x".parse().unwrap(), &"1".parse().unwrap())
        );
        let error = headers("sesame").unwrap_err();
        assert!(!format!("{error:#}").contains("sesame"));
    }

    #[test]
    fn buckets_add_up() {
        let histogram = crate::metrics::Histogram::new(&[1.0, 10.0]);
        for value in [0.5, 1.0, 5.0, 50.0] {
            histogram.observe(value);
        }
        let mut page = Page::default();
        page.histogram("a_seconds", "How long.", &histogram);
        let metric = wire(page.metrics.remove(0), 1, 2);
        let Some(Data::Histogram(Histogram { data_points, .. })) = metric.data else {
            panic!("no histogram")
        };
        assert_eq!(data_points[0].bucket_counts, [2, 1, 1]);
        assert_eq!((data_points[0].count, data_points[0].sum), (4, Some(56.5)));
    }
}
