//! What a caller is told whom we do not let in: what to send, never which part of it was wrong.
#![expect(clippy::disallowed_methods, reason = "this is where these statuses are made")]

use std::time::Duration;

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use super::identity::Scope;

/// When a caller may try again what failed for the number of its streams.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Nobody we know.
pub(super) fn unauthenticated() -> Status {
    challenge("say who you are: send the metadata `authorization: Bearer TOKEN` with a valid token")
}

/// Somebody we no longer know.
pub(super) fn ended() -> Status {
    challenge("the identity of this call has ended: call again with a valid token")
}

fn challenge(message: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("www-authenticate", MetadataValue::from_static("Bearer"));
    Status::with_metadata(Code::Unauthenticated, message, metadata)
}

/// Somebody who may not do this.
pub(super) fn without_scope(scope: Scope) -> Status {
    Status::permission_denied(format!(
        "this takes the scope {scope}, which the identity does not have"
    ))
}

/// Somebody who does too much of it at once.
pub(super) fn too_many(limit: usize) -> Status {
    let message = format!("you have {limit} calls and streams open, and may not have more");
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A token that cannot be sent.
pub(crate) fn unusable_token(reason: String) -> Status {
    Status::unauthenticated(reason)
}
