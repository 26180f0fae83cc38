//! What is published: which device says what, and when. Pure.

use telemetry_model::Timestamp;

/// The first metrics of a message; further ones are called `extra_5` and so on.
const METRICS: [&str; 4] = ["soil_moisture", "temperature", "humidity", "light_level"];

/// The devices of one run, and what each message of theirs holds.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// What the names of this run's devices begin with: no other run's do.
    pub(super) prefix: String,
    pub(super) devices: u64,
    /// Readings in a message.
    pub(super) readings: usize,
}

/// Somebody who publishes for every `of`-th device of a load, so that no two ever speak for one.
#[derive(Debug)]
pub(super) struct Voice {
    load: Load,
    number: u64,
    of: u64,
    said: u64,
    last_us: i64,
    pub(super) topic: String,
    pub(super) payload: String,
}

impl Load {
    pub(super) fn new(devices: u64, readings: usize) -> Self {
        let run: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
        Self { prefix: format!("bench-{}-", run.to_lowercase()), devices, readings }
    }

    pub(super) fn device(&self, number: u64) -> String {
        format!("{}{number:06}", self.prefix)
    }

    /// How many messages device `number` has sent when the voice that speaks for it has said so many.
    pub(super) fn said_by(&self, number: u64, voices: &[u64]) -> u64 {
        let of = as_u64(voices.len());
        let said = voices.iter().zip(0..).find(|(_, voice)| *voice == number % of);
        let own = owned(self.devices, number % of, of);
        said.map_or(0, |(said, _)| said / own + u64::from(said % own > number / of))
    }
}

/// How many of `devices` the voice `number` of `of` speaks for.
fn owned(devices: u64, number: u64, of: u64) -> u64 {
    devices.saturating_sub(number).div_ceil(of).max(1)
}

pub(super) fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Voice {
    pub(super) fn new(load: &Load, number: u64, of: u64) -> Self {
        let (topic, payload) = (String::new(), String::new());
        Self { load: load.clone(), number, of, said: 0, last_us: 0, topic, payload }
    }

    /// How many messages it has made.
    pub(super) fn said(&self) -> u64 {
        self.said
    }

    /// Makes the next message, of the next device in turn; answers its time, which is no other
    /// message's: that of the call or, if it is by plan, when it is due.
    pub(super) fn next(&mut self, time_us: i64) -> i64 {
        let own = owned(self.load.devices, self.number, self.of);
        let device = self.number + self.of * (self.said % own);
        self.topic = format!("devices/{}{device:06}/telemetry", self.load.prefix);
        self.last_us = time_us.max(self.last_us + 1);
        self.write_payload();
        self.said += 1;
        self.last_us
    }

    /// As the specification has it, with a clock: each reading has an identity.
    fn write_payload(&mut self) {
        let time = Timestamp::from_micros(self.last_us).unwrap_or(Timestamp::EPOCH);
        self.payload.clear();
        self.payload += &format!("{{\"timestamp\":\"{time}\"");
        for number in 0..self.load.readings {
            // A value with one decimal, another one each time.
            let tenths = (self.said + as_u64(number) * 7) % 1000;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            self.payload += &match METRICS.get(number) {
                Some(name) => format!(",\"{name}\":{whole}.{tenth}"),
                None => format!(",\"extra_{}\":{whole}.{tenth}", number + 1),
            };
        }
        self.payload.push('}');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn a_message_is_as_the_specification_has_it() {
        let load = Load { prefix: "bench-x-".to_owned(), devices: 3, readings: 5 };
        let mut voice = Voice::new(&load, 1, 2);
        assert_eq!(voice.next(1_767_787_200_000_001), 1_767_787_200_000_001);
        assert_eq!(voice.topic, "devices/bench-x-000001/telemetry");
        let expected = "{\"timestamp\":\"2026-01-07T12:00:00.000001Z\",\"soil_moisture\":0.0,\
                        \"temperature\":0.7,\"humidity\":1.4,\"light_level\":2.1,\"extra_5\":2.8}";
        assert_eq!(voice.payload, expected);
    }

    #[test]
    fn every_reading_has_an_identity_and_every_device_its_turn() {
        let load = Load::new(7, 1);
        let (mut times, mut turns) = (BTreeSet::new(), BTreeMap::new());
        let said: Vec<_> = (0..3)
            .map(|number| {
                let mut voice = Voice::new(&load, number, 3);
                for _ in 0..=(10 * number) {
                    let time = voice.next(5);
                    assert!(times.insert((voice.topic.clone(), time)), "said twice");
                    *turns.entry(voice.topic.clone()).or_insert(0) += 1;
                }
                voice.said()
            })
            .collect();
        let planned = (0..7).map(|number| {
            (format!("devices/{}/telemetry", load.device(number)), load.said_by(number, &said))
        });
        let planned: BTreeMap<_, _> = planned.filter(|(_, said)| *said > 0).collect();
        assert_eq!(planned, turns);
        assert_eq!(turns.values().sum::<u64>(), 1 + 11 + 21);
    }
}
