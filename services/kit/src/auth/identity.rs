//! Who a caller is, and what it may do.

use std::{fmt, str::FromStr};

/// A kind of thing that callers may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Ask for what is stored, and watch it.
    Read,
    /// Change what is stored, and all of the above.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Ingest, Self::Read, Self::Admin]
            .into_iter()
            .find(|scope| scope.to_string() == text)
            .ok_or_else(|| "a scope is ingest, read or admin".to_owned())
    }
}

/// Where an identity is written down, by which it can be told whether it still is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Nowhere: whoever calls may do everything.
    Anyone,
    /// In the tokens file, under the hash of a token or the name in a certificate.
    File(super::tokens::Key),
    /// In the token itself.
    Jwt,
}

/// Who a caller is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) name: String,
    pub(super) scopes: Vec<Scope>,
    /// With what the ids of the devices begin that it may deal with; nothing for all devices.
    pub(super) devices: Option<Vec<String>>,
    /// When it ends, in seconds since 1970.
    pub(super) expires: Option<u64>,
    pub(super) source: Source,
}

impl Identity {
    /// The identity of everyone where nobody need say who he is.
    pub fn anyone() -> Self {
        Self {
            name: "anyone".to_owned(),
            scopes: vec![Scope::Admin],
            devices: None,
            expires: None,
            source: Source::Anyone,
        }
    }

    /// The name, for the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may do such things.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// With what the ids of the devices begin that it may deal with; nothing for all devices.
    pub fn devices(&self) -> Option<&[String]> {
        self.devices.as_deref()
    }
}
