//! What a bridge hands to the store: messages, numbered by a process that is known by name.

use std::{fmt, sync::Arc};

use crate::{DeviceId, Event, EventKind, Invalid, Timestamp, id};

/// Names one process, and no other one ever: 1 to [`ProcessId::MAX_BYTES`] bytes of UTF-8 without
/// control or invisible characters, not beginning with `(`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(Arc<str>);

impl ProcessId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Checks and keeps an id.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('(') {
            // Such are the names of accounts that are no process's.
            return Err(Invalid::new("process_id", "must not begin with ("));
        }
        match id::check(text, Self::MAX_BYTES) {
            Ok(()) => Ok(Self(text.into())),
            Err(reason) => Err(Invalid::new("process_id", reason)),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A process that sends messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process.
    pub process: ProcessId,
    /// The session that it serves at the broker, which its successor will have too.
    pub client: ClientId,
    /// When it began.
    pub started: Timestamp,
}

/// Names a session at a broker: 1 to [`ClientId::MAX_BYTES`] bytes of UTF-8 without control or
/// invisible characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId(String);

impl ClientId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Checks and keeps an id.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match id::check(text, Self::MAX_BYTES) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(reason) => Err(Invalid::new("client_id", reason)),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What became of one MQTT message: an event, a refusal, or, if it was half bad, both.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The topic.
    pub topic: Box<str>,
    /// The quality of service with which it came.
    pub qos: u8,
    /// What could be understood of it.
    pub event: Option<Event>,
    /// What could not.
    pub refusal: Option<Refusal>,
}

/// Why a message, or a part of it, cannot be stored, with all that somebody needs to mend it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The device, if the topic names one.
    pub device: Option<DeviceId>,
    /// The kind of message, if the topic tells.
    pub kind: Option<EventKind>,
    /// When the bridge received it.
    pub received: Timestamp,
    /// The kind of fault: a stable name in `snake_case`.
    pub reason: String,
    /// The part at fault: `topic`, `payload`, or a path into the payload.
    pub field: String,
    /// What is wrong and what would be right, for people.
    pub detail: String,
    /// The message as it came.
    pub payload: Vec<u8>,
}

/// Consecutive messages that are to be settled together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// Who numbered them; nobody if they are counted anew on each stream.
    pub sender: Option<ProcessId>,
    /// The number of the first message.
    pub first_sequence: u64,
    /// The messages.
    pub messages: Vec<Message>,
    /// What the sender told of itself.
    pub report: Option<SenderReport>,
}

/// What a sender counts by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SenderReport {
    /// Messages that the broker handed over.
    pub received: u64,
    /// Those of them that were let go.
    pub dropped: u64,
    /// All that it told: an encoded `telemetry.v1.BridgeReport`.
    pub record: Vec<u8>,
    /// How long it has listened to the devices, if it told.
    pub listening: Option<Listening>,
}

/// For how long a sender has heard every message that the broker had for it. Silence counts as
/// evidence only within that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// From when on, without a break.
    pub since: Timestamp,
    /// Until when. All that it received until then has been submitted.
    pub through: Timestamp,
    /// Whether it leaves for good or for a while, and says so: nobody need wait for it.
    pub leaves: bool,
}
