//! Strangers and known ones.
