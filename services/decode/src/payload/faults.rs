//! The parts of a message that are at fault while the rest is good. Pure.

use crate::Rejected;

/// The first one in detail, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Faults {
    first: Option<Rejected>,
    more: usize,
}

impl Faults {
    pub(super) fn add(&mut self, rejected: Rejected) {
        match self.first {
            None => self.first = Some(rejected),
            Some(_) => self.more += 1,
        }
    }

    /// Adds the faults of a part that stands at `path`.
    pub(super) fn add_within(&mut self, path: &str, faults: Self) {
        if let Some(first) = faults.first {
            self.add(first.within(path));
            self.more += faults.more;
        }
    }

    /// What to say of all of them.
    pub(super) fn into_rejected(self) -> Option<Rejected> {
        let mut rejected = self.first?;
        if self.more > 0 {
            rejected.detail += &format!(" (the first of {} faults)", 1 + self.more);
        }
        Some(rejected)
    }
}
