//! Which device sent a message, and which kind it is, by its topic. Pure.
//!
//! Filters match as MQTT 5.0, section 4.7 has it: `+` stands for one level, a last `#` for any
//! number of levels including none, and neither stands at the front for a topic that begins with `$`.

use telemetry_model::{DeviceId, EventKind, Invalid};

use crate::rejected::{Reason, Rejected};

/// A topic filter whose first `+` stands for the device's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// Checks a filter; `setting` is named in the error.
    pub fn parse(setting: &str, text: &str) -> Result<Self, Invalid> {
        let invalid = |reason: &str| Err(Invalid::new(setting, format!("{text:?} {reason}")));
        if text.is_empty() || text.len() > 65_535 || text.contains('\0') {
            return invalid("is not a topic filter");
        }
        let levels: Vec<_> = text.split('/').collect();
        for (n, level) in levels.iter().enumerate() {
            if level.contains(['+', '#']) && level.len() > 1 {
                return invalid("has a wildcard that is not a whole level");
            }
            if *level == "#" && n + 1 < levels.len() {
                return invalid("has a # that is not the last level");
            }
        }
        if !levels.contains(&"+") {
            return invalid("needs a + where the device's id stands, as in devices/+/telemetry");
        }
        Ok(Self(text.to_owned()))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// If the filter matches, the level of the topic at the first `+`.
    fn device_level<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let mut device = None;
        let mut levels = topic.split('/');
        for (n, pattern) in self.0.split('/').enumerate() {
            if n == 0 && topic.starts_with('$') && matches!(pattern, "+" | "#") {
                return None;
            }
            if pattern == "#" {
                return device;
            }
            let level = levels.next()?;
            match pattern {
                "+" => device = device.or(Some(level)),
                _ if pattern != level => return None,
                _ => {}
            }
        }
        // Levels left over are not matched.
        if levels.next().is_some() { None } else { device }
    }
}

/// The filters, each with the kind of message it stands for.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routes: Vec<(TopicFilter, EventKind)>,
}

impl Router {
    /// Adds filters of a kind. The first one that matches a topic decides.
    pub fn add(&mut self, filters: &[TopicFilter], kind: EventKind) {
        self.routes.extend(filters.iter().map(|filter| (filter.clone(), kind)));
    }

    /// Who sent a message on this topic, and what kind of message it is.
    pub fn route(&self, topic: &str) -> Result<(DeviceId, EventKind), Rejected> {
        let matches = |(filter, kind): &(TopicFilter, EventKind)| {
            filter.device_level(topic).map(|level| (level, *kind))
        };
        let Some((level, kind)) = self.routes.iter().find_map(matches) else {
            let detail = "no configured filter matches it";
            return Err(Rejected::new(Reason::UnknownTopic, "topic", detail));
        };
        match DeviceId::parse(level) {
            Ok(device) => Ok((device, kind)),
            Err(Invalid { reason, .. }) => {
                let detail = format!("device id {reason}");
                Err(Rejected::new(Reason::InvalidDeviceId, "topic", detail))
            }
        }
    }
}

#[cfg(test)]
mod tests;
