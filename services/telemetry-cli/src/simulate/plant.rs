//! A plant's day: what it would measure at any time. Pure and repeatable.

use std::{f64::consts::TAU, time::Duration};

use serde_json::json;
use telemetry_model::Timestamp;

/// A message to publish.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: String,
    /// Whether the sender can do more than `QoS` 0.
    pub(super) at_least_once: bool,
}

/// How a device writes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Specification,
    Firmware,
    Simulator,
}

/// One plant. Its number decides everything about it.
#[derive(Clone, Debug)]
pub(super) struct Plant {
    id: String,
    dialect: Dialect,
    /// Between 0 and 1: what makes it differ from its neighbours.
    character: f64,
}

/// What it measures.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    soil_moisture: f64,
    temperature: f64,
    humidity: f64,
    light: u32,
}

const DAY_S: f64 = 86_400.0;

impl Plant {
    pub(super) fn new(number: u32) -> Self {
        let dialect = match number % 3 {
            1 => Dialect::Specification,
            2 => Dialect::Firmware,
            _ => Dialect::Simulator,
        };
        // The golden ratio spreads any run of numbers evenly.
        let character = (f64::from(number) * 0.618_033_988_75).fract();
        Self { id: format!("plant-{number}"), dialect, character }
    }

    /// What it publishes at a time.
    pub(super) fn messages(&self, now: Timestamp, uptime: Duration) -> [Message; 2] {
        let Measured { soil_moisture, temperature, humidity, light } = self.measure(now);
        let (wall, uptime_ms) = (now.to_string(), uptime.as_millis() % (1 << 32));
        let telemetry = match self.dialect {
            Dialect::Specification => json!({
                "timestamp": wall, "soil_moisture": soil_moisture, "temperature": temperature,
                "humidity": humidity, "light_level": light,
            }),
            Dialect::Firmware => json!({
                "timestamp": uptime_ms, "soil_moisture": soil_moisture,
                "temperature": temperature, "humidity": humidity, "light_level": light,
            }),
            Dialect::Simulator => json!({
                "temperature": temperature, "humidity": humidity, "soil_moisture": soil_moisture,
                "light": light, "timestamp": wall,
            }),
        };
        let heartbeat = match self.dialect {
            Dialect::Specification => json!({}),
            Dialect::Firmware => {
                json!({"timestamp": uptime_ms, "uptime": uptime.as_secs(), "rssi": -67})
            }
            Dialect::Simulator => json!({"status": "online"}),
        };
        let message = |kind, payload: serde_json::Value| Message {
            topic: format!("devices/{}/{kind}", self.id),
            payload: payload.to_string(),
            at_least_once: self.dialect != Dialect::Firmware,
        };
        [message("telemetry", telemetry), message("heartbeat", heartbeat)]
    }

    fn measure(&self, now: Timestamp) -> Measured {
        #[expect(clippy::cast_precision_loss, reason = "microseconds are not seen in a curve")]
        let seconds = now.micros() as f64 / 1e6;
        let days = seconds / DAY_S;
        // -1 at midnight, 1 at noon; clouds and drafts come and go within minutes.
        let sun = -(days.fract() * TAU).cos();
        let cloud = 0.5 + 0.5 * (seconds / 420.0 + self.character * 40.0).sin();
        // Dries for three to five days, then somebody remembers.
        let thirst = (days / (3.0 + 2.0 * self.character) + self.character).fract();
        let temperature = 20.0 + 4.0 * self.character + 3.5 * sun - 0.6 * cloud;
        let light = (sun.max(0.0) * (900.0 - 350.0 * cloud)).round();
        Measured {
            soil_moisture: tenths(70.0 - 45.0 * thirst.sqrt() + 0.3 * cloud),
            temperature: tenths(temperature),
            humidity: tenths((58.0 - 9.0 * sun + 4.0 * cloud + 8.0 * (1.0 - thirst)).min(100.0)),
            #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 900")]
            #[expect(clippy::cast_sign_loss, reason = "it is between 0 and 900")]
            light: light as u32,
        }
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u64) -> Timestamp {
        Timestamp::EPOCH.plus(Duration::from_hours(20_000 * 24 + hour))
    }

    #[test]
    fn a_plant_is_believable_at_any_time_and_repeatable() {
        for number in 1..50 {
            let plant = Plant::new(number);
            for hour in 0..24 * 14 {
                let m = plant.measure(at(hour));
                assert!((20.0..=71.0).contains(&m.soil_moisture), "{m:?}");
                assert!((10.0..=32.0).contains(&m.temperature), "{m:?}");
                assert!((30.0..=100.0).contains(&m.humidity) && m.light <= 900, "{m:?}");
                assert_eq!(m, Plant::new(number).measure(at(hour)));
            }
        }
    }

    #[test]
    fn noon_is_brighter_and_warmer_than_midnight() {
        let plant = Plant::new(1);
        let (noon, midnight) = (plant.measure(at(12)), plant.measure(at(0)));
        assert!(noon.light > 400 && midnight.light == 0);
        assert!(noon.temperature > midnight.temperature + 3.0);
        assert!(noon.humidity < midnight.humidity);
    }

    #[test]
    fn each_dialect_is_spoken() {
        let message =
            |number| Plant::new(number).messages(at(12), Duration::from_secs(90))[0].clone();
        assert!(message(1).payload.contains("light_level") && message(1).at_least_once);
        assert!(message(2).payload.contains(r#""timestamp":90000"#) && !message(2).at_least_once);
        assert!(message(3).payload.contains(r#""light":"#));
        assert_eq!(message(3).topic, "devices/plant-3/telemetry");
    }
}
