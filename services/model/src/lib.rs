//! The words of the system, and nothing that does I/O.
//!
//! A **device** reports. What one MQTT message becomes is an [`Event`]: telemetry or a heartbeat,
//! with one or more samples, each a set of measurements taken at one moment. Once placed in time
//! and stored it is a [`StoredEvent`] of **readings**: one [`Value`] of one **metric** of one
//! device at one time. A [`Cursor`] is a position in the log that watches read, always exclusive.
//!
//! Every type that is made from outside input has a fallible constructor that answers [`Invalid`],
//! so that inside the system a value of the type is proof that it is well formed.

mod clock;
mod cursor;
mod device;
mod event;
mod grid;
mod id;
mod invalid;
mod ledger;
mod message;
mod positions;
mod query;
mod series;
mod time;
mod trace;
mod value;

pub use clock::{Clock, ManualClock, SystemClock};
pub use cursor::{Cursor, PARTITIONS, Partition};
pub use device::{
    Device, DeviceCounts, DeviceFacts, Presence, PresenceChange, PresenceReason, Standing,
};
pub use event::{
    DeviceClock, Event, EventKind, Measurement, Reading, Sample, Status, StoredEvent, TimeSource,
};
pub use grid::Grid;
pub use id::{DeviceId, MetricName};
pub use invalid::Invalid;
pub use ledger::{Account, Balance, Tally};
pub use message::{
    ClientId, Listening, Message, ProcessId, Refusal, Sender, SenderReport, Submission,
};
pub use positions::Positions;
pub use query::{DeviceQuery, Order, ReadingPosition, ReadingQuery};
pub use series::{Point, Selection, Series, Summary};
pub use time::{TimeRange, Timestamp};
pub use trace::TraceParent;
pub use value::Value;
