//! Metrics as text, in the format that Prometheus reads.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

/// A page of metrics. Each is written once, with all its values.
#[derive(Clone, Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// A number that only grows while the process lives. Its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.line(name, "", value);
    }

    /// Such numbers, told apart by a label.
    pub fn counters<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.head(name, help, "counter");
        self.labelled(name, label, values);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.line(name, "", value);
    }

    /// Such numbers, told apart by a label.
    pub fn gauges<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.head(name, help, "gauge");
        self.labelled(name, label, values);
    }

    /// How often what was observed lay within which bound.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let Observed { within, count, sum } = histogram.observed();
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.bounds.iter().zip(within) {
            self.line(&bucket, &label("le", bound), count);
        }
        self.line(&bucket, &label("le", "+Inf"), count);
        self.line(&format!("{name}_sum"), "", sum);
        self.line(&format!("{name}_count"), "", count);
    }

    /// Adds what stands on another page.
    pub fn append(&mut self, other: &Self) {
        self.text.push_str(&other.text);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn labelled<L: Display>(
        &mut self,
        name: &str,
        key: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        for (text, value) in values {
            self.line(name, &label(key, text), value);
        }
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        self.text += &format!("{name}{labels} {value}\n");
    }
}

/// A label, whose value may be any text.
fn label(key: &str, value: impl Display) -> String {
    let value = value.to_string();
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{key}=\"{value}\"}}")
}

/// Counts observations by the bounds within which they lie.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    observed: Mutex<Observed>,
}

#[derive(Clone, Debug)]
struct Observed {
    /// For each bound, how many do not exceed it.
    within: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// An empty one with these upper bounds, the smallest first.
    pub fn new(bounds: &'static [f64]) -> Self {
        let observed = Observed { within: vec![0; bounds.len()], count: 0, sum: 0.0 };
        Self { bounds, observed: Mutex::new(observed) }
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        for (bound, within) in self.bounds.iter().zip(&mut observed.within) {
            *within += u64::from(value <= *bound);
        }
        observed.count += 1;
        observed.sum += value;
    }

    fn observed(&self) -> Observed {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_prometheus_reads() {
        let histogram = Histogram::new(&[0.5, 10.0]);
        for value in [0.25, 0.5, 3.0, 11.5] {
            histogram.observe(value);
        }
        let mut page = Page::default();
        page.counter("a_total", "All.", 7);
        page.counters("b_total", "Some.", "reason", [("x", 1), ("a\"b\\c\nd", 2)]);
        page.gauge("c", "Now.", 0);
        let mut more = Page::default();
        more.gauges("d_bytes", "Each.", "kind", [("x", 1)]);
        more.histogram("e_seconds", "How long.", &histogram);
        page.append(&more);
        let expected = r#"# HELP a_total All.
# TYPE a_total counter
a_total 7
# HELP b_total Some.
# TYPE b_total counter
b_total{reason="x"} 1
b_total{reason="a\"b\\c\nd"} 2
# HELP c Now.
# TYPE c gauge
c 0
# HELP d_bytes Each.
# TYPE d_bytes gauge
d_bytes{kind="x"} 1
# HELP e_seconds How long.
# TYPE e_seconds histogram
e_seconds_bucket{le="0.5"} 2
e_seconds_bucket{le="10"} 3
e_seconds_bucket{le="+Inf"} 4
e_seconds_sum 15.25
e_seconds_count 4
"#;
        assert_eq!(page.into_text(), expected);
    }
}
