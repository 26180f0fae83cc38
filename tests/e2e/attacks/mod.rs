//! Those who should not get in, and what they try once they are.

mod identities;
