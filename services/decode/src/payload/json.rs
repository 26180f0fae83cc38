//! One level of JSON at a time, so that what is wrong inside one value is the fault of that value
//! alone. Pure.
//!
//! A text is checked for its syntax as a whole when its outermost level is read. What can be wrong
//! within is left for the levels below: a number out of range, half a surrogate pair in a text. How
//! deep it is nested is no matter here.

use std::collections::BTreeMap;

use serde_json::{Value, from_str, value::RawValue};

/// A value. If it is an object or an array, what stands in it is not read yet.
#[derive(Debug)]
pub(super) enum Json<'t> {
    /// Values by their keys. Of those with the same key it holds the last.
    Object(Fields<'t>),
    Array(Vec<&'t RawValue>),
    /// Null, a flag, a number or a text.
    Scalar(Value),
}

pub(super) type Fields<'t> = BTreeMap<String, &'t RawValue>;

/// The value in `text`.
pub(super) fn read(text: &str) -> Result<Json<'_>, serde_json::Error> {
    match text.trim_start().as_bytes().first() {
        Some(b'{') => from_str(text).map(Json::Object),
        Some(b'[') => from_str(text).map(Json::Array),
        _ => from_str(text).map(Json::Scalar),
    }
}

/// What is wrong with a value that stands within a text. Where is not said: the place would be
/// counted from the value's own beginning.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned()
}
