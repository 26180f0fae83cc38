//! The one validation error: which field, and what is wrong with it.

use std::fmt::Display;

/// A value from outside that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field at fault, as the sender knows it; nested ones as a path.
    pub field: String,
    /// What is wrong and what would be right, for people.
    pub reason: String,
}

impl Invalid {
    /// Says that `field` is wrong for `reason`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// Puts `parent` in front of the field: `metric` within `samples[0]` is `samples[0].metric`.
    #[must_use]
    pub fn within(self, parent: impl Display) -> Self {
        Self { field: format!("{parent}.{}", self.field), reason: self.reason }
    }
}
