//! Secrets: given as a value or as a file that holds it, never both, and never shown.

use std::{fs, path::PathBuf};

pub use secrecy::{ExposeSecret, SecretString};

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Two sources for one secret.
    #[error("{name} and {name}_FILE are both set: keep one of them")]
    Both {
        /// The setting's name.
        name: &'static str,
    },
    /// The file cannot be read.
    #[error("{name}_FILE: cannot read {path}: {source}")]
    Unreadable {
        /// The setting's name.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// The secret of the setting `name`, from its value or its file (without its last newline).
pub fn resolve(
    name: &'static str,
    value: Option<SecretString>,
    file: Option<PathBuf>,
) -> Result<Option<SecretString>, SecretError> {
    match (value, file) {
        (Some(_), Some(_)) => Err(SecretError::Both { name }),
        (value, None) => Ok(value),
        (None, Some(path)) => match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).into())),
            Err(source) => Err(SecretError::Unreadable { name, path, source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_from_one_place_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "from file\n").unwrap();
        let read = |value: Option<&str>, file| {
            resolve("X", value.map(SecretString::from), file)
                .map(|s| s.map(|s| s.expose_secret().to_owned()))
        };
        assert_eq!(read(None, Some(file.clone())).unwrap().as_deref(), Some("from file"));
        assert_eq!(read(Some(""), None).unwrap().as_deref(), Some(""));
        assert_eq!(read(None, None).unwrap(), None);
        assert!(matches!(read(Some("x"), Some(file)), Err(SecretError::Both { name: "X" })));
        let missing = read(None, Some(dir.path().join("none"))).unwrap_err().to_string();
        assert!(missing.starts_with("X_FILE: cannot read"), "{missing}");
    }
}
