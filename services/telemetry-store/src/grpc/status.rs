//! The one place where errors become gRPC statuses. Faults of the server are logged here, once.
#![expect(clippy::disallowed_methods, reason = "this is where statuses are made")]

use std::time::Duration;

use telemetry_model::Invalid;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::Error;

/// The domain of `ErrorInfo` details.
const DOMAIN: &str = "telemetry.v1";
/// When a client may try again what failed for lack of a database or a server.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The same after a stream that has lasted its time: once its connection is closed.
const RENEW_AFTER: Duration = Duration::from_millis(250);

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        let message = error.to_string();
        let with = |code, details| Self::with_error_details(code, message.clone(), details);
        match error {
            Error::Invalid(Invalid { field, reason }) => {
                with(Code::InvalidArgument, ErrorDetails::with_bad_request_violation(field, reason))
            }
            Error::UnknownDevice(device) => {
                let details = ErrorDetails::with_resource_info("device", device.as_str(), "", "");
                with(Code::NotFound, details)
            }
            Error::OutsideLog { oldest, newest, horizon } => {
                let metadata = [
                    ("oldest", oldest.clone()),
                    ("newest", newest.clone()),
                    ("horizon", horizon.to_string()),
                ];
                let metadata = metadata.map(|(name, value)| (name.to_owned(), value));
                let details = ErrorDetails::with_error_info("CURSOR_EXPIRED", DOMAIN, metadata);
                with(Code::OutOfRange, details)
            }
            Error::NotPermitted(_) | Error::DeviceNotNamed => {
                with(Code::PermissionDenied, ErrorDetails::new())
            }
            Error::TooLarge | Error::TooCostly(_) => {
                with(Code::ResourceExhausted, ErrorDetails::new())
            }
            Error::Unavailable(cause) => {
                tracing::warn!(error = %cause, "database unavailable");
                let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
                Self::with_error_details(Code::Unavailable, "the database is unavailable", details)
            }
            Error::Aged => {
                with(Code::Unavailable, ErrorDetails::with_retry_info(Some(RENEW_AFTER)))
            }
            Error::Stopping | Error::Overtaken => {
                with(Code::Unavailable, ErrorDetails::with_retry_info(Some(RETRY_AFTER)))
            }
            Error::Unfit { cause, fix } => {
                tracing::error!(error = %cause, fix, "the database cannot store");
                let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
                Self::with_error_details(Code::Unavailable, "the database cannot store", details)
            }
            Error::Internal(cause) | Error::Unstorable(cause) => {
                tracing::error!(error = %cause, "internal error");
                Self::internal("internal error; the server's log says more")
            }
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}
