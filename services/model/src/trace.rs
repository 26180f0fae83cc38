//! Which trace a message is part of, as W3C Trace Context writes it.

use crate::Invalid;

/// A `traceparent` of version 00, well formed: `00-<trace id>-<span id>-<flags>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Box<str>);

impl TraceParent {
    /// Checks and keeps one.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let is_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |part: &str, digits| is_hex(part, digits) && part.bytes().any(|b| b != b'0');
        let parts: Vec<_> = text.splitn(5, '-').collect();
        match parts.as_slice() {
            ["00", trace, span, flags]
                if is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2) =>
            {
                Ok(Self(text.into()))
            }
            _ => Err(Invalid::new("trace_parent", "must be a traceparent of version 00")),
        }
    }

    /// It as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(&self) -> bool {
        let last = self.0.chars().next_back().and_then(|digit| digit.to_digit(16));
        last.is_some_and(|digit| digit % 2 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_well_formed_is_taken() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let sampled = TraceParent::parse(&format!("00-{trace}-{span}-01")).unwrap();
        assert!(sampled.is_sampled());
        assert!(!TraceParent::parse(&format!("00-{trace}-{span}-00")).unwrap().is_sampled());
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            format!("01-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-x"),
            format!("00-{zeros}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}-0é"),
            format!("00-{trace}{span}-01"),
        ] {
            assert!(TraceParent::parse(&text).is_err(), "{text}");
        }
    }
}
