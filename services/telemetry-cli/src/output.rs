//! What is printed: a table for people, a JSON object a line for pipes.

use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::{Map, Value as Json};
use telemetry_proto::v1::{self, reading::Value};

/// Where rows go, and in which form.
pub(crate) struct Output<'a> {
    out: &'a mut (dyn Write + Send),
    json: bool,
}

/// The cells of a row: name and value.
pub(crate) type Row = Vec<(&'static str, Json)>;

impl<'a> Output<'a> {
    pub(crate) fn new(out: &'a mut (dyn Write + Send), json: bool) -> Self {
        Self { out, json }
    }

    /// Prints rows that all have the same columns.
    pub(crate) fn rows(&mut self, rows: Vec<Row>) -> anyhow::Result<()> {
        if self.json {
            return rows.into_iter().try_for_each(|row| self.json_line(row));
        }
        let Some(first) = rows.first() else { return Ok(()) };
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(first.iter().map(|(name, _)| name.to_uppercase()));
        for row in rows {
            table.add_row(row.into_iter().map(|(_, value)| text(&value)));
        }
        writeln!(self.out, "{}", table.trim_fmt())?;
        Ok(())
    }

    /// Prints figures: a line each for people, one JSON object for pipes.
    pub(crate) fn figures(&mut self, row: Row) -> anyhow::Result<()> {
        if self.json {
            return self.json_line(row);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in row {
            figure(name.to_owned(), &value, &mut |name, value| {
                table.add_row([name, text(value)]);
            });
        }
        writeln!(self.out, "{}", table.trim_fmt())?;
        Ok(())
    }

    /// Prints the names of the columns, where rows do not have them.
    pub(crate) fn csv_header(&mut self, names: &[&str]) -> anyhow::Result<()> {
        if !self.json {
            writeln!(self.out, "{}", names.join(","))?;
        }
        Ok(())
    }

    /// Prints rows of a list that may be very long, as CSV.
    pub(crate) fn csv(&mut self, rows: Vec<Row>) -> anyhow::Result<()> {
        if self.json {
            return self.rows(rows);
        }
        let line = |row: Row| {
            let cells: Vec<_> = row.iter().map(|(_, value)| csv_cell(value)).collect();
            cells.join(",") + "\n"
        };
        let lines: String = rows.into_iter().map(line).collect();
        self.out.write_all(lines.as_bytes())?;
        Ok(())
    }

    /// Prints one row of an endless list at once.
    pub(crate) fn line(&mut self, row: Row) -> anyhow::Result<()> {
        if self.json {
            self.json_line(row)?;
        } else {
            let cells: Vec<_> = row.iter().map(|(_, value)| text(value)).collect();
            writeln!(self.out, "{}", cells.join("  "))?;
        }
        self.out.flush()?;
        Ok(())
    }

    fn json_line(&mut self, row: Row) -> anyhow::Result<()> {
        let row: Map<_, _> =
            row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        writeln!(self.out, "{}", Json::Object(row))?;
        Ok(())
    }
}

/// A figure, or those that it is made of, with names such as `latency.p50`.
fn figure(name: String, value: &Json, show: &mut impl FnMut(String, &Json)) {
    match value {
        Json::Object(parts) => {
            for (part, value) in parts {
                figure(format!("{name}.{part}"), value, show);
            }
        }
        Json::Number(number) if number.is_f64() => {
            show(name, &format!("{:.2}", number.as_f64().unwrap_or_default()).into());
        }
        other => show(name, other),
    }
}

/// As RFC 4180 has it. Nothing is left out: a file is no terminal.
fn csv_cell(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn text(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        // A device's text may hold anything; a terminal must not act on it.
        Json::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

/// A reading as cells.
pub(crate) fn reading(reading: v1::Reading) -> Row {
    let source = reading.time_source().as_str_name();
    let source = source.trim_start_matches("TIME_SOURCE_").to_lowercase();
    vec![
        ("time", time(reading.time)),
        ("metric", reading.metric.into()),
        ("value", value(reading.value)),
        ("time_source", source.into()),
    ]
}

/// A presence in words.
pub(crate) fn presence(presence: v1::Presence) -> String {
    presence.as_str_name().trim_start_matches("PRESENCE_").to_lowercase()
}

pub(crate) fn value(value: Option<Value>) -> Json {
    match value {
        Some(Value::Number(number)) => number.into(),
        Some(Value::Integer(integer)) => integer.into(),
        Some(Value::Flag(flag)) => flag.into(),
        Some(Value::Text(text)) => text.into(),
        None => Json::Null,
    }
}

pub(crate) fn time(time: Option<prost_types::Timestamp>) -> Json {
    let time = time.and_then(|time| telemetry_proto::timestamp("time", time).ok());
    time.map_or(Json::Null, |time| time.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool, rows: Vec<Row>) -> String {
        let mut out = Vec::new();
        Output::new(&mut out, json).rows(rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows() -> Vec<Row> {
        let row = |device: &str, seen: Json| vec![("device", device.into()), ("seen", seen)];
        vec![row("fern-1", 3.into()), row("moss\u{1b}[2J", Json::Null)]
    }

    #[test]
    fn people_get_a_table_that_cannot_play_tricks() {
        assert_eq!(printed(false, rows()), " DEVICE   SEEN\n fern-1   3\n moss[2J  -\n");
        assert_eq!(printed(false, vec![]), "");
    }

    #[test]
    fn figures_are_lines_with_names() {
        let row = vec![("n", 3.into()), ("t", serde_json::json!({"p50": 1.234, "p99": null}))];
        let mut out = Vec::new();
        Output::new(&mut out, false).figures(row).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), " n      3\n t.p50  1.23\n t.p99  -\n");
    }

    #[test]
    fn csv_keeps_everything() {
        let row = ["a,b", "say \"hi\"\n", "plain"].map(|text| ("x", Json::from(text)));
        let mut out = Vec::new();
        let mut output = Output::new(&mut out, false);
        output.csv_header(&["x", "y", "z"]).unwrap();
        output.csv(vec![row.into(), vec![("x", 1.5.into()), ("y", Json::Null)]]).unwrap();
        let expected = "x,y,z\n\"a,b\",\"say \"\"hi\"\"\n\",plain\n1.5,\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn pipes_get_a_json_object_a_line() {
        let expected =
            "{\"device\":\"fern-1\",\"seen\":3}\n{\"device\":\"moss\\u001b[2J\",\"seen\":null}\n";
        assert_eq!(printed(true, rows()), expected);
    }
}
