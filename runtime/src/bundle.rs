//! Opening a bundle: `config.json` becomes a typed specification, and the two paths everything else hangs on
//! become absolute. Nothing is checked here beyond what is needed to have them; `validate` does.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The configuration's file name (OCI runtime-spec, bundle.md).
pub const CONFIG: &str = "config.json";

/// A bundle as found on disk: an opened, parsed, not yet validated container configuration.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle's directory, absolute and without symbolic links.
    pub path: PathBuf,
    /// The root file system's directory, absolute and without symbolic links.
    pub rootfs: PathBuf,
    /// The parsed configuration.
    pub spec: Spec,
    /// The configuration's text, kept with the container so that later verbs see what it was created from:
    /// runtime-spec says that updates to config.json after `create` have no effect on the container.
    pub config: Vec<u8>,
    /// What was tolerated while reading, to be logged (capabilities that no kernel header knows).
    pub warnings: Vec<String>,
}

/// Why a bundle could not be opened.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The bundle's directory itself cannot be used.
    #[error("bundle {}: cannot be opened: pass an existing directory with --bundle", path.display())]
    Directory {
        /// The directory asked for.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The configuration is missing. The text is runc's.
    #[error("JSON specification file {} not found", path.display())]
    NoConfig {
        /// The path of the missing file as runc names it.
        path: PathBuf,
    },
    /// The configuration cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The configuration is not what the specification says.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// `root` is absent.
    #[error("root: must be specified: add {{\"path\": \"rootfs\"}} to config.json")]
    NoRoot,
    /// `root.path` does not lead to a directory.
    #[error("root.path: invalid rootfs: {} cannot be used as the container's root directory", path.display())]
    Rootfs {
        /// The path, made absolute against the bundle.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Where and why a JSON document does not fit its type.
#[derive(Debug, Error)]
pub struct ParseError {
    /// The file, or `-` for standard input.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The path of the field, such as `linux.namespaces[2].type`; empty when the text is not JSON at all.
    pub field: String,
    /// serde's reason, without its own position.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.field.is_empty() && self.field != "." {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

impl Bundle {
    /// Opens the bundle in `path` and parses its `config.json`.
    ///
    /// Sources: runtime-spec bundle.md and config.md ("root": a relative path is relative to the bundle).
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let path = path.canonicalize().map_err(|source| BundleError::Directory {
            path: path.to_path_buf(),
            source,
        })?;
        let file = path.join(CONFIG);
        let config = fs::read(&file).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BundleError::NoConfig {
                path: PathBuf::from(CONFIG),
            },
            _ => BundleError::Read {
                path: file.clone(),
                source,
            },
        })?;
        let (spec, warnings) = parse_spec(&file, &config)?;
        let rootfs = canonical_rootfs(&path, &spec)?;
        Ok(Self {
            path,
            rootfs,
            spec,
            config,
            warnings,
        })
    }
}

/// Resolves `root.path` against the bundle.
fn canonical_rootfs(bundle: &Path, spec: &Spec) -> Result<PathBuf, BundleError> {
    let root = spec.root().as_ref().ok_or(BundleError::NoRoot)?;
    let path = bundle.join(root.path());
    let fail = |source| BundleError::Rootfs {
        path: path.clone(),
        source,
    };
    if root.path().as_os_str().is_empty() {
        return Err(fail(io::ErrorKind::NotFound.into()));
    }
    let rootfs = path.canonicalize().map_err(fail)?;
    if !rootfs.is_dir() {
        return Err(fail(io::ErrorKind::NotADirectory.into()));
    }
    Ok(rootfs)
}

/// Parses a container configuration. Returns it with what was tolerated.
///
/// Capabilities that this build does not know are dropped with a warning, as runc does: an engine newer than the
/// runtime must not be locked out (runtime-spec, config.md: "runtimes SHOULD log a warning").
pub fn parse_spec(file: &Path, text: &[u8]) -> Result<(Spec, Vec<String>), ParseError> {
    parse_tolerant(file, text, &["process", "capabilities"])
}

/// Parses a process document as `exec --process` takes it, with the same tolerance as [`parse_spec`].
pub fn parse_process(file: &Path, text: &[u8]) -> Result<(Process, Vec<String>), ParseError> {
    parse_tolerant(file, text, &["capabilities"])
}

fn parse_tolerant<T: DeserializeOwned>(
    file: &Path,
    text: &[u8],
    capabilities: &[&str],
) -> Result<(T, Vec<String>), ParseError> {
    let first = match parse(file, text) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    // Only on the failing path: is an unknown capability all that is wrong?
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Err(first);
    };
    let warnings = drop_unknown_capabilities(&mut value, capabilities);
    if warnings.is_empty() {
        return Err(first);
    }
    // The position of a second mistake is lost with the text, its field is not.
    let text = serde_json::to_vec_pretty(&value).unwrap_or_default();
    Ok((parse(file, &text)?, warnings))
}

/// Parses `text`; on failure a second, slower pass finds the field.
pub fn parse<T: DeserializeOwned>(file: &Path, text: &[u8]) -> Result<T, ParseError> {
    let error = match serde_json::from_slice::<T>(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let field = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(located) => located.path().to_string(),
        Ok(_) => String::new(),
    };
    let full = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    Err(ParseError {
        file: file.to_path_buf(),
        line: error.line(),
        column: error.column(),
        field,
        reason: full.strip_suffix(&position).unwrap_or(&full).to_owned(),
    })
}

fn drop_unknown_capabilities(document: &mut serde_json::Value, path: &[&str]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut at = document;
    for key in path {
        match at.get_mut(key) {
            Some(next) => at = next,
            None => return warnings,
        }
    }
    let Some(sets) = at.as_object_mut() else {
        return warnings;
    };
    for (set, names) in sets {
        let Some(names) = names.as_array_mut() else {
            continue;
        };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok() || !name.is_string();
            if !known {
                warnings.push(format!(
                    "{}.{set}: ignoring unknown capability {name}",
                    path.join(".")
                ));
            }
            known
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), config).unwrap();
        dir
    }

    #[test]
    fn relative_rootfs_is_resolved_against_the_bundle() {
        let dir = bundle(r#"{"ociVersion":"1.0.2","root":{"path":"fs"}}"#);
        fs::create_dir(dir.path().join("fs")).unwrap();
        let bundle = Bundle::open(dir.path()).unwrap();
        assert_eq!(bundle.rootfs, dir.path().canonicalize().unwrap().join("fs"));
    }

    #[test]
    fn missing_rootfs_names_the_field() {
        let dir = bundle(r#"{"ociVersion":"1.0.2","root":{"path":"fs"}}"#);
        let message = Bundle::open(dir.path()).unwrap_err().to_string();
        assert!(message.starts_with("root.path: invalid rootfs"), "{message}");
    }

    #[test]
    fn a_wrong_type_has_its_line_column_and_field() {
        let text = "{\n \"ociVersion\": \"1.0.2\",\n \"linux\": {\"namespaces\": [{\"type\": \"pid\"}, {\"type\": \"bogus\"}]}\n}";
        let dir = bundle(text);
        let message = Bundle::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("config.json:3:"), "{message}");
        assert!(message.contains("linux.namespaces[1].type"), "{message}");
    }

    #[test]
    fn an_unknown_capability_is_a_warning() {
        let text = br#"{"ociVersion":"1.0.2","process":{"cwd":"/","user":{"uid":0,"gid":0},
            "capabilities":{"bounding":["CAP_KILL","CAP_OF_TOMORROW"]}}}"#;
        let (spec, warnings) = parse_spec(Path::new("c"), text).unwrap();
        assert_eq!(warnings.len(), 1);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(
            process
                .capabilities()
                .as_ref()
                .unwrap()
                .bounding()
                .as_ref()
                .unwrap()
                .len(),
            1
        );
    }
}
