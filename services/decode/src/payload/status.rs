//! What a status topic says: whether the device is there. Pure.
//!
//! `online` or `offline` in any case, `1` or `0`, `true` or `false`; or a JSON object that has one of
//! these under `status`, `state` or `online`.

use serde_json::Value as Scalar;
use telemetry_model::{DeviceClock, Measurement, MetricName, Sample, Status, Value};

use super::{
    json::{self, Json},
    parse,
};
use crate::{Reason, Rejected};

/// Where an object may say it, in order of preference.
const KEYS: [&str; 3] = ["status", "state", "online"];

/// The sample that says whether the device is there.
pub(super) fn status(payload: &[u8]) -> Result<Sample, Rejected> {
    let online = match std::str::from_utf8(payload).ok().and_then(word) {
        Some(online) => online,
        None => said(payload)?,
    };
    let name = Rejected::new(Reason::UnknownStatus, "payload", "cannot be kept");
    let metric = MetricName::parse(Status::ONLINE).map_err(|_| name)?;
    let measurements = vec![Measurement { metric, value: Value::Flag(online) }];
    Ok(Sample { clock: DeviceClock::None, measurements })
}

/// What JSON says.
fn said(payload: &[u8]) -> Result<bool, Rejected> {
    let unknown = |field: &str| {
        let detail = "must be online or offline, 1 or 0, true or false, or a JSON object with one \
                      of these under status, state or online";
        Rejected::new(Reason::UnknownStatus, field, detail)
    };
    let fields = match parse(payload) {
        Ok(Json::Object(fields)) => fields,
        Ok(Json::Scalar(value)) => return scalar(&value).ok_or_else(|| unknown("payload")),
        Ok(Json::Array(_)) | Err(Rejected { reason: Reason::NotJson, .. }) => {
            return Err(unknown("payload"));
        }
        Err(rejected) => return Err(rejected),
    };
    let found = KEYS.iter().find_map(|key| Some((key, fields.get(*key)?)));
    let (key, value) = found.ok_or_else(|| unknown("payload"))?;
    match json::read(value.get()) {
        Ok(Json::Scalar(value)) => scalar(&value).ok_or_else(|| unknown(key)),
        Ok(Json::Object(_) | Json::Array(_)) | Err(_) => Err(unknown(key)),
    }
}

fn scalar(value: &Scalar) -> Option<bool> {
    match value {
        Scalar::String(text) => word(text),
        other => word(&other.to_string()),
    }
}

fn word(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "online" | "1" | "true" => Some(true),
        "offline" | "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use telemetry_model::EventKind;

    use crate::{Reason, decode};

    fn online(payload: &str) -> Result<bool, (Reason, String)> {
        let decoded = decode(EventKind::Presence, payload.as_bytes());
        let decoded = decoded.map_err(|rejected| (rejected.reason, rejected.field))?;
        let value = &decoded.samples[0].measurements[0].value;
        Ok(*value == telemetry_model::Value::Flag(true))
    }

    #[test]
    fn a_status_is_understood_in_the_forms_that_devices_use() {
        for payload in [
            "online",
            "Online\n",
            "1",
            "true",
            "\"ONLINE\"",
            r#"{"status":"online"}"#,
            r#"{"state":"Online","x":1}"#,
            r#"{"online":true}"#,
            r#"{"online":1}"#,
        ] {
            assert_eq!(online(payload), Ok(true), "{payload}");
        }
        for payload in
            ["offline", "OFFLINE", "0", "false", r#"{"status":"offline"}"#, r#"{"online":false}"#]
        {
            assert_eq!(online(payload), Ok(false), "{payload}");
        }
    }

    #[test]
    fn what_is_no_status_is_refused_by_name() {
        for (payload, reason, field) in [
            ("", Reason::EmptyPayload, "payload"),
            ("asleep", Reason::UnknownStatus, "payload"),
            ("2", Reason::UnknownStatus, "payload"),
            ("[true]", Reason::UnknownStatus, "payload"),
            ("{}", Reason::UnknownStatus, "payload"),
            (r#"{"status":"asleep"}"#, Reason::UnknownStatus, "status"),
            (r#"{"state":{"online":true}}"#, Reason::UnknownStatus, "state"),
        ] {
            assert_eq!(online(payload), Err((reason, field.to_owned())), "{payload}");
        }
    }
}
