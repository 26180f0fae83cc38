//! The way of traced messages to the store: a span for each, from when it is sent until it is settled.

use std::collections::VecDeque;

use service_kit::trace::{self, Span};
use telemetry_proto::v1::IngestEvent;

/// Those under way on a stream, by their sequence numbers, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Spans(VecDeque<(u64, Span)>);

impl Spans {
    /// Begins the span of an event, if it is traced, and lets the store go on from there.
    pub(super) fn begin(&mut self, sequence: u64, event: &mut IngestEvent) {
        if event.trace_parent.is_empty() {
            return;
        }
        let parent = Some(event.trace_parent.as_str());
        if let Some(span) = trace::follow("ingest request", trace::Kind::Producer, parent) {
            event.trace_parent = span.context();
            self.0.push_back((sequence, span));
        }
    }

    /// Ends what is settled.
    pub(super) fn settled(&mut self, through: u64) {
        while self.0.pop_front_if(|(sequence, _)| *sequence <= through).is_some() {}
    }

    /// Ends what is not, as the stream has broken.
    pub(super) fn broke(&mut self) {
        for (_, mut span) in self.0.drain(..) {
            span.fail("the stream to the store has ended");
        }
    }
}
