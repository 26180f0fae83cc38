//! The contract: `telemetry.v1` as generated code, its descriptors, and the one place where wire
//! types and model types meet.
//!
//! What the messages mean, their limits and the errors of each call are documented in the `.proto`
//! files themselves, and again on the generated types in [`v1`].

mod device;
mod from_wire;
mod log_record;
mod to_wire;

pub use device::presence;
pub use from_wire::{duration, event_kinds, message, report, sender, time_range, timestamp};
pub use log_record::{LogRecordError, decode_log_record, encode_log_record};
pub use to_wire::{wire_duration, wire_timestamp};

/// The generated messages, clients and servers.
pub mod v1 {
    #![expect(
        clippy::pedantic,
        clippy::disallowed_methods,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the .proto files are linted instead"
    )]
    tonic::include_proto!("telemetry.v1");
}

/// The compiled `.proto` files, comments included, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/telemetry.bin"));

#[cfg(test)]
mod tests;
