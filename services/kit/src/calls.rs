//! Counts the calls of a gRPC server: how many, how they ended, how long they took. What one logs
//! bears its trace, if whoever calls traces it (a `traceparent` among its metadata).

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::{
    metrics::{Histogram, Page},
    trace::{self, Kind},
};

/// Bounds of how long calls take. Streams last as long as somebody listens.
const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// What stands for methods that nobody has heard of: there may be no end of them.
const OTHER: &str = "other";

/// The counts. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Calls(Arc<BTreeMap<String, Method>>);

/// Those of one method.
#[derive(Debug)]
struct Method {
    open: AtomicU64,
    seconds: Histogram,
    ended: Mutex<BTreeMap<i32, u64>>,
}

impl Calls {
    /// Counts of these methods, named `package.Service/Method`, and of all others together.
    pub fn new(methods: impl IntoIterator<Item = String>) -> Self {
        let empty = || Method {
            open: AtomicU64::default(),
            seconds: Histogram::new(SECONDS),
            ended: Mutex::default(),
        };
        let names = methods.into_iter().chain([OTHER.to_owned()]);
        Self(Arc::new(names.map(|name| (name, empty())).collect()))
    }

    /// Writes them down, under names that begin with `prefix`.
    pub fn write(&self, page: &mut Page, prefix: &str) {
        let mut ended = Vec::new();
        for (name, method) in self.0.iter() {
            let counts = method.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let code = |code: &i32| format!("{:?}", Code::from(*code));
            ended.extend(counts.iter().map(|(c, count)| ([name.clone(), code(c)], *count)));
        }
        let of = self.0.iter();
        page.counters_by(
            &format!("{prefix}_calls_total"),
            "Calls that have ended.",
            ["method", "code"],
            ended,
        );
        page.gauges(
            &format!("{prefix}_calls_open"),
            "Calls and streams under way.",
            "method",
            of.clone().map(|(name, method)| (name, method.open.load(Ordering::Relaxed))),
        );
        page.histograms(
            &format!("{prefix}_call_seconds"),
            "How long calls took; streams, until they ended.",
            "method",
            of.map(|(name, method)| (name, &method.seconds)),
        );
    }

    /// A call to a method, by its path, that begins now.
    fn begin(&self, path: &str) -> Call {
        let name = path.strip_prefix('/').filter(|name| self.0.contains_key(*name));
        let name = name.unwrap_or(OTHER).to_owned();
        if let Some(method) = self.0.get(&name) {
            method.open.fetch_add(1, Ordering::Relaxed);
        }
        Call { calls: self.clone(), name, began: Instant::now(), code: Code::Cancelled }
    }
}

/// A call under way. Whoever drops it without an answer to its end has lost interest.
#[derive(Debug)]
struct Call {
    calls: Calls,
    name: String,
    began: Instant,
    code: Code,
}

impl Call {
    /// Takes note of how it ended, if these headers or trailers say so.
    fn ends(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.code = status.code();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(method) = self.calls.0.get(&self.name) else { return };
        method.open.fetch_sub(1, Ordering::Relaxed);
        method.seconds.observe(self.began.elapsed().as_secs_f64());
        let mut ended = method.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.entry(self.code.into()).or_default() += 1;
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: self.clone(), inner }
    }
}

/// What is counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    calls: Calls,
    inner: S,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = self.calls.begin(request.uri().path());
        let parent = request.headers().get("traceparent").and_then(|text| text.to_str().ok());
        let span =
            parent.and_then(|parent| trace::begin(call.name.clone(), Kind::Server, Some(parent)));
        let log = span.as_ref().map_or_else(tracing::Span::none, trace::Span::log);
        let answer = log.in_scope(|| self.inner.call(request));
        let counted = async move {
            let response = answer.await?;
            drop(span);
            call.ends(response.headers());
            Ok(response.map(|body| Body::new(Answer { body, call })))
        };
        Box::pin(counted.instrument(log))
    }
}

/// The rest of an answer.
struct Answer {
    body: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.ends(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn calls_are_counted_by_how_they_end_and_unknown_methods_together() {
        let calls = Calls::new(["a.B/C".to_owned()]);
        let mut service = calls.layer(service_fn(async |request: Request<Body>| {
            let is_good = request.uri().path() == "/a.B/C";
            let code = if is_good { "0" } else { "12" };
            let response = Response::builder().header("grpc-status", code).body(Body::empty());
            Ok::<_, Infallible>(response.unwrap())
        }));
        for path in ["/a.B/C", "/x/1", "/x/2"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            drop(service.call(request).await.unwrap());
        }
        let request = Request::builder().uri("/a.B/C").body(Body::empty()).unwrap();
        let under_way = service.call(request);
        let text = |calls: &Calls| {
            let mut page = Page::default();
            calls.write(&mut page, "x");
            page.into_text()
        };
        let now = text(&calls);
        for line in [
            r#"x_calls_total{method="a.B/C",code="Ok"} 1"#,
            r#"x_calls_total{method="other",code="Unimplemented"} 2"#,
            r#"x_calls_open{method="a.B/C"} 1"#,
            r#"x_call_seconds_count{method="other"} 2"#,
        ] {
            assert!(now.contains(line), "{line}:\n{now}");
        }
        drop(under_way);
        let now = text(&calls);
        assert!(now.contains(r#"x_calls_total{method="a.B/C",code="Cancelled"} 1"#), "{now}");
    }
}
