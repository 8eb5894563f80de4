//! Opening a bundle: `config.json` becomes a typed specification, and the two paths everything else hangs on
//! become absolute. Nothing is checked here beyond what is needed to have them; `validate` does.

use std::io;
use std::path::{Path, PathBuf};

use berth_spec::{Document, Mistake, Process, Spec};
use berth_sys::files::canonical_folder;
use thiserror::Error;

use crate::annotations;

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
#[error("{}:{mistake}{}", file.display(), subject(mistake))]
pub struct ParseError {
    /// The file, or `-` for standard input.
    pub file: PathBuf,
    /// The place and the reason.
    pub mistake: Mistake,
}

/// What a mistake is about, for fields where runc names it and scripts look for that.
fn subject(mistake: &Mistake) -> &'static str {
    match mistake.field.strip_prefix("linux.memoryPolicy") {
        Some("" | ".mode") => ": invalid memory policy mode",
        Some(rest) if rest.starts_with(".flags") => ": invalid memory policy flag",
        _ => "",
    }
}

impl Bundle {
    /// Opens the bundle in `path` and parses its `config.json`.
    ///
    /// Sources: runtime-spec bundle.md and config.md ("root": a relative path is relative to the bundle).
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let path = canonical_folder(path).map_err(|source| BundleError::Directory {
            path: path.to_path_buf(),
            source,
        })?;
        let file = path.join(CONFIG);
        let config = berth_sys::files::read_file(&file).map_err(|source| match source.kind() {
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
    canonical_folder(&path).map_err(fail)
}

/// Parses a container configuration. Returns it with what was tolerated: capabilities that this build does not know.
pub fn parse_spec(file: &Path, text: &[u8]) -> Result<(Spec, Vec<String>), ParseError> {
    let mut document: Document<Spec> = parse(file, text)?;
    annotations::apply(&mut document.value);
    Ok((document.value, document.warnings))
}

/// Parses a process document as `exec --process` takes it, with the same tolerance as [`parse_spec`].
pub fn parse_process(file: &Path, text: &[u8]) -> Result<(Process, Vec<String>), ParseError> {
    let document = parse(file, text)?;
    Ok((document.value, document.warnings))
}

/// Parses any part of a configuration.
pub fn parse<T: berth_spec::Value>(file: &Path, text: &[u8]) -> Result<Document<T>, ParseError> {
    berth_spec::read(text).map_err(|mistake| ParseError {
        file: file.to_path_buf(),
        mistake,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
