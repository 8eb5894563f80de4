//! The little of a container's config.json that a shim needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Why config.json could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Its content.
    #[error("parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Namespaced {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// The annotations.
///
/// # Errors
/// [`ConfigError`].
pub fn annotations(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    Ok(parse::<Annotated>(path)?.annotations.unwrap_or_default())
}

/// Whether the container's first process has a pid namespace of its own, so that all others end with it.
///
/// # Errors
/// [`ConfigError`].
pub fn has_own_pid_namespace(path: &Path) -> Result<bool, ConfigError> {
    let namespaces = parse::<Namespaced>(path)?
        .linux
        .and_then(|linux| linux.namespaces)
        .unwrap_or_default();
    Ok(namespaces
        .iter()
        .any(|one| one.kind == "pid" && one.path.is_empty()))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn only_a_new_pid_namespace_is_the_containers_own() {
        for (text, own) in [
            (r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#, true),
            (
                r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
                false,
            ),
            (r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#, false),
            (r#"{"linux":{"namespaces":null}}"#, false),
            ("{}", false),
        ] {
            assert_eq!(has_own_pid_namespace(file(text).path()).unwrap(), own, "{text}");
        }
    }

    #[test]
    fn annotations_may_be_absent() {
        assert!(annotations(file("{}").path()).unwrap().is_empty());
        assert!(
            annotations(file(r#"{"annotations":null}"#).path())
                .unwrap()
                .is_empty()
        );
        assert!(annotations(file("{").path()).is_err());
    }
}
