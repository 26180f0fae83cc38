//! What is measured: the value of a reading, in the type the device sent it.

use std::sync::Arc;

use crate::Invalid;

/// A number, a whole number, a flag or a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A finite number.
    Number(f64),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Flag(bool),
    /// At most [`Value::MAX_TEXT_BYTES`] bytes, without NUL characters.
    Text(Arc<str>),
}

impl Value {
    /// The longest text, in bytes.
    pub const MAX_TEXT_BYTES: usize = 4096;

    /// A number, which must be finite.
    pub fn number(number: f64) -> Result<Self, Invalid> {
        if number.is_finite() {
            Ok(Self::Number(number))
        } else {
            Err(Invalid::new("number", "must be finite"))
        }
    }

    /// A text, which must not be too long, nor hold NUL characters (`PostgreSQL` cannot keep them).
    pub fn text(text: &str) -> Result<Self, Invalid> {
        if text.len() > Self::MAX_TEXT_BYTES {
            let (max, is) = (Self::MAX_TEXT_BYTES, text.len());
            return Err(Invalid::new("text", format!("must be at most {max} bytes, is {is}")));
        }
        if text.contains('\0') {
            return Err(Invalid::new("text", "must not contain NUL characters"));
        }
        Ok(Self::Text(text.into()))
    }
}
