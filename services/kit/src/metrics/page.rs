//! Metrics by name, and as text in the format that Prometheus reads.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

/// A page of metrics. Each is written once, with all its values.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub(super) metrics: Vec<Metric>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Metric {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) points: Points,
}

#[derive(Clone, Debug)]
pub(super) enum Points {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, u64)>),
    Histogram(Vec<(Labels, &'static [f64], Observed)>),
}

/// What tells the values of a metric apart.
pub(super) type Labels = Vec<(&'static str, String)>;

impl Page {
    /// A number that only grows while the process lives. Its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, help, Points::Counter(vec![(Labels::new(), value)]));
    }

    /// Such numbers, told apart by a label.
    pub fn counters<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.add(name, help, Points::Counter(labelled(label, values)));
    }

    /// Such numbers, told apart by two labels.
    pub fn counters_by<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; 2],
        values: impl IntoIterator<Item = ([L; 2], u64)>,
    ) {
        let values = values.into_iter().map(|(texts, value)| {
            (labels.into_iter().zip(texts.map(|text| text.to_string())).collect(), value)
        });
        self.add(name, help, Points::Counter(values.collect()));
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, help, Points::Gauge(vec![(Labels::new(), value)]));
    }

    /// Such numbers, told apart by a label.
    pub fn gauges<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.add(name, help, Points::Gauge(labelled(label, values)));
    }

    /// How often what was observed lay within which bound.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let point = (Labels::new(), histogram.bounds, histogram.observed());
        self.add(name, help, Points::Histogram(vec![point]));
    }

    /// The same, told apart by a label.
    pub fn histograms<'a, L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        histograms: impl IntoIterator<Item = (L, &'a Histogram)>,
    ) {
        let points = histograms.into_iter().map(|(text, histogram)| {
            (vec![(label, text.to_string())], histogram.bounds, histogram.observed())
        });
        self.add(name, help, Points::Histogram(points.collect()));
    }

    /// Adds what stands on another page.
    pub fn append(&mut self, other: &Self) {
        self.metrics.extend_from_slice(&other.metrics);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.metrics.iter().map(Metric::text).collect()
    }

    fn add(&mut self, name: &str, help: &str, points: Points) {
        let (name, help) = (name.to_owned(), help.to_owned());
        self.metrics.push(Metric { name, help, points });
    }
}

fn labelled<L: Display>(
    label: &'static str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> Vec<(Labels, u64)> {
    values.into_iter().map(|(text, value)| (vec![(label, text.to_string())], value)).collect()
}

impl Metric {
    fn text(&self) -> String {
        let Self { name, help, points } = self;
        let head = |kind: &str| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let simple = |points: &[(Labels, u64)]| -> String {
            points.iter().map(|(labels, value)| line(name, labels, value)).collect()
        };
        match points {
            Points::Counter(points) => head("counter") + &simple(points),
            Points::Gauge(points) => head("gauge") + &simple(points),
            Points::Histogram(points) => {
                let histogram =
                    |(labels, bounds, observed): &(Labels, &'static [f64], Observed)| {
                        histogram_lines(name, labels, bounds, observed)
                    };
                head("histogram") + &points.iter().map(histogram).collect::<String>()
            }
        }
    }
}

fn histogram_lines(name: &str, labels: &Labels, bounds: &[f64], observed: &Observed) -> String {
    let Observed { within, count, sum } = observed;
    let bucket = |bound: String, count: &u64| {
        let labels = [labels.clone(), vec![("le", bound)]].concat();
        line(&format!("{name}_bucket"), &labels, count)
    };
    let mut text: String =
        bounds.iter().zip(within).map(|(bound, count)| bucket(bound.to_string(), count)).collect();
    text += &bucket("+Inf".to_owned(), count);
    text += &line(&format!("{name}_sum"), labels, sum);
    text + &line(&format!("{name}_count"), labels, count)
}

fn line(name: &str, labels: &Labels, value: impl Display) -> String {
    let labels: Vec<_> = labels.iter().map(|(key, value)| label(key, value)).collect();
    let labels =
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    format!("{name}{labels} {value}\n")
}

/// A label, whose value may be any text.
fn label(key: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{key}=\"{value}\"")
}

/// Counts observations by the bounds within which they lie.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    observed: Mutex<Observed>,
}

#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// For each bound, how many do not exceed it.
    pub(super) within: Vec<u64>,
    pub(super) count: u64,
    pub(super) sum: f64,
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
        let by = ([["a", "OK"], ["b", "Aborted"]]).map(|labels| (labels, 1));
        more.counters_by("f_total", "Both.", ["method", "code"], by);
        more.histograms("g_seconds", "By.", "method", [("a", &Histogram::new(&[1.0]))]);
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
# HELP f_total Both.
# TYPE f_total counter
f_total{method="a",code="OK"} 1
f_total{method="b",code="Aborted"} 1
# HELP g_seconds By.
# TYPE g_seconds histogram
g_seconds_bucket{method="a",le="1"} 0
g_seconds_bucket{method="a",le="+Inf"} 0
g_seconds_sum{method="a"} 0
g_seconds_count{method="a"} 0
"#;
        assert_eq!(page.into_text(), expected);
    }
}
