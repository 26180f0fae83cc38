//! What can go wrong in the store, in the few kinds a caller can act on.

use telemetry_model::{DeviceId, Invalid, Timestamp};

/// Shorthand for results of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed: the caller must change it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Nothing was ever received from this device.
    #[error("device {0} has never sent anything")]
    UnknownDevice(DeviceId),
    /// The caller may not deal with this device.
    #[error("device {0} is not one of those that the identity may deal with")]
    NotPermitted(DeviceId),
    /// The caller may deal with some devices only, and did not say with which.
    #[error("the identity may deal with some devices only: name one in device_id")]
    DeviceNotNamed,
    /// Where a watch was to begin, or stood, lies outside the log: events behind it may be gone.
    #[error("the log reaches back to {horizon}: from cursor {oldest} to {newest}")]
    OutsideLog {
        /// The oldest cursor that can be resumed.
        oldest: String,
        /// The newest.
        newest: String,
        /// What was received before is no longer there.
        horizon: Timestamp,
    },
    /// The database cannot be reached or is not ready: the same call may succeed later.
    #[error("database unavailable: {0}")]
    Unavailable(BoxError),
    /// The database cannot store until somebody mends it.
    #[error("database unfit: {cause}; {fix}")]
    Unfit {
        /// What it says.
        cause: BoxError,
        /// What somebody has to do.
        fix: &'static str,
    },
    /// The database refuses what it was given: it would refuse it again.
    #[error("the database refuses it: {0}")]
    Unstorable(BoxError),
    /// A question would take more time or memory than one may have: the caller must ask for less.
    #[error("too costly: {0}")]
    TooCostly(&'static str),
    /// A request is larger than what is taken.
    #[error("a request is larger than 4 MiB")]
    TooLarge,
    /// What came before on the stream has failed: the sender must go back to it.
    #[error("what came before was not stored")]
    Overtaken,
    /// The stream has lasted its time: it goes on elsewhere, or here on another connection.
    #[error("the stream has lasted its time; go on with another one")]
    Aged,
    /// The process is stopping: another replica, or this one later, will answer.
    #[error("the server is stopping")]
    Stopping,
    /// A fault that retrying may not mend.
    #[error("internal error: {0}")]
    Internal(BoxError),
}

/// Any cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
