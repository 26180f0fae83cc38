//! What a message says: who sent it, by its topic, and which samples it holds, by its payload.
//!
//! Pure: the bridge asks it of what it receives, and the store of what is replayed. What cannot be
//! understood is [`Rejected`], with a [`Reason`] whose name is stable, the part at fault, and what
//! would be right.

mod payload;
mod rejected;
mod render;
mod topic;

pub use payload::{Decoded, decode};
pub use rejected::{Reason, Rejected};
pub use render::render;
pub use topic::{Router, TopicFilter};
