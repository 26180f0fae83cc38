//! The traced messages of a batch: a span for each, from when the batch is full until it is committed.

use service_kit::trace::{self, Span};
use telemetry_model::{Submission, TraceParent};
use tracing::Instrument;

use crate::error::{Error, Result};

/// Those of one batch; none in most.
pub(super) struct Spans(Vec<Span>);

impl Spans {
    /// Begins them, and lets whoever watches go on from there.
    pub(super) fn begin(batch: &mut [Submission], messages: usize) -> Self {
        let mut spans = Vec::new();
        if !trace::is_on() {
            return Self(spans);
        }
        let all = batch.iter_mut().flat_map(|submission| &mut submission.messages);
        for event in all.filter_map(|message| message.event.as_mut()) {
            let parent = event.trace.as_ref().map(TraceParent::as_str);
            let Some(mut span) = trace::follow("store append", trace::Kind::Consumer, parent)
            else {
                continue;
            };
            span.set("telemetry.batch.messages", i64::try_from(messages).unwrap_or(i64::MAX));
            event.trace = TraceParent::parse(&span.context()).ok();
            spans.push(span);
        }
        Self(spans)
    }

    /// Does the work of the batch within them: what it logs bears the first one's name.
    pub(super) async fn around<T>(mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(first) = self.0.first() else { return work.await };
        let result = work.instrument(first.log()).await;
        if let Err(error) = &result {
            self.0.iter_mut().for_each(|span| span.fail(class(error)));
        }
        result
    }
}

/// What kind of failure it was. What a database says may hold what is nobody else's business.
fn class(error: &Error) -> &'static str {
    match error {
        Error::Unavailable(_) => "the database is away",
        Error::Unstorable(_) => "the database refuses it",
        _ => "it was not stored",
    }
}
