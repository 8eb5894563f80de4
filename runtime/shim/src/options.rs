//! The runtime's options, in the forms in which containerd hands them on.
//!
//! | type | from |
//! | --- | --- |
//! | `containerd.runc.v1.Options` | `ctr`, Docker, CRI for runtimes it knows |
//! | `containerd.linux.runc.CreateOptions` | `ctr run --no-pivot` of containerd 1 |
//! | `runtimeoptions.v1.Options` | CRI and `ctr --runtime-config-path` for every other runtime: TOML, in a file or inline |

use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::empty::Empty;
use containerd_shim_protos::protobuf::{self, Message, UnknownValueRef};
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

use crate::toml::{self, TomlError};

/// Where the options of a container are kept in its bundle, for `delete`.
const FILE: &str = "options.json";

/// The runtime when none is named.
const DEFAULT_BINARY: &str = "berth";

/// The folder of the runtime's state when none is named; containerd's namespace is appended.
const DEFAULT_ROOT: &str = "/run/containerd/berth";

/// How the runtime is to be called. The names are those of containerd's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Options {
    /// The runtime: a path, or a name in PATH.
    pub binary_name: PathBuf,
    /// The folder of its state, below which each namespace has its own.
    pub root: PathBuf,
    /// Ask systemd for cgroups.
    pub systemd_cgroup: bool,
    /// MS_MOVE in place of pivot_root.
    pub no_pivot_root: bool,
    /// Keep the session keyring.
    pub no_new_keyring: bool,
    /// The cgroup of the shim itself.
    pub shim_cgroup: String,
    /// Owner of the container's pipes.
    pub io_uid: u32,
    /// Group of the container's pipes.
    pub io_gid: u32,
    /// The criu to be used.
    pub criu_path: PathBuf,
    /// Where images of a checkpoint go if a call does not say.
    pub criu_image_path: PathBuf,
    /// Where criu works.
    pub criu_work_path: PathBuf,
}

/// What can be wrong with options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A type that this shim does not know.
    #[error("options of type {0:?}: known are containerd.runc.v1.Options and runtimeoptions.v1.Options")]
    Type(String),
    /// The message itself.
    #[error("decode {what}")]
    Decode {
        /// Its type.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: protobuf::Error,
    },
    /// A file of the bundle, or the one named by ConfigPath.
    #[error("{what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The kept options are damaged.
    #[error("parse {}", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The TOML of ConfigPath or ConfigBody.
    #[error("parse the options in {place}")]
    Toml {
        /// The file, or `ConfigBody`.
        place: String,
        /// Why.
        #[source]
        source: TomlError,
    },
}

impl Options {
    /// The options of a request; without any, the defaults.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn from_any(any: Option<&Any>) -> Result<Options, OptionsError> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Options::default());
        };
        let kind = any.type_url.rsplit('/').next().unwrap_or_default();
        match kind {
            "containerd.runc.v1.Options" => Self::from_runc(&any.value),
            "containerd.linux.runc.CreateOptions" => Self::from_create(&any.value),
            // containerd 1.x: cri.runtimeoptions.v1.Options
            _ if kind.ends_with("runtimeoptions.v1.Options") => Self::from_generic(&any.value),
            _ => Err(OptionsError::Type(any.type_url.clone())),
        }
    }

    fn from_runc(bytes: &[u8]) -> Result<Options, OptionsError> {
        // Reserved since containerd 2.0, sent by older ones.
        const CRIU_PATH: u32 = 8;
        let what = "containerd.runc.v1.Options";
        let given =
            oci::Options::parse_from_bytes(bytes).map_err(|source| OptionsError::Decode { what, source })?;
        Ok(Options {
            criu_path: bytes_of(&given.special_fields, CRIU_PATH).map_or_else(PathBuf::new, path_of),
            binary_name: given.binary_name.into(),
            root: given.root.into(),
            systemd_cgroup: given.systemd_cgroup,
            no_pivot_root: given.no_pivot_root,
            no_new_keyring: given.no_new_keyring,
            shim_cgroup: given.shim_cgroup,
            io_uid: given.io_uid,
            io_gid: given.io_gid,
            criu_image_path: given.criu_image_path.into(),
            criu_work_path: given.criu_work_path.into(),
        })
    }

    /// `containerd.linux.runc.CreateOptions`, read by its field numbers: containerd 1's first message for options, which its
    /// `ctr run --no-pivot` still sends.
    fn from_create(bytes: &[u8]) -> Result<Options, OptionsError> {
        let what = "containerd.linux.runc.CreateOptions";
        let given = Empty::parse_from_bytes(bytes).map_err(|source| OptionsError::Decode { what, source })?;
        let fields = &given.special_fields;
        let number = |field| match fields.unknown_fields().get(field) {
            Some(UnknownValueRef::Varint(value)) => value,
            _ => 0,
        };
        let text = |field| bytes_of(fields, field).map_or_else(PathBuf::new, path_of);
        Ok(Options {
            no_pivot_root: number(1) != 0,
            no_new_keyring: number(8) != 0,
            shim_cgroup: text(9).display().to_string(),
            io_uid: number(10) as u32,
            io_gid: number(11) as u32,
            criu_work_path: text(12),
            criu_image_path: text(13),
            ..Options::default()
        })
    }

    /// `{ string type_url = 1; string config_path = 2; bytes config_body = 3; }`, read by its field numbers: the
    /// crate of containerd's messages has no type for it.
    fn from_generic(bytes: &[u8]) -> Result<Options, OptionsError> {
        const CONFIG_PATH: u32 = 2;
        const CONFIG_BODY: u32 = 3;
        let what = "runtimeoptions.v1.Options";
        let given = Empty::parse_from_bytes(bytes).map_err(|source| OptionsError::Decode { what, source })?;
        let path = bytes_of(&given.special_fields, CONFIG_PATH).filter(|path| !path.is_empty());
        let (place, text) = if let Some(path) = path {
            let path = path_of(path);
            let text = std::fs::read_to_string(&path).map_err(|source| OptionsError::File {
                what: "read the options in",
                path: path.clone(),
                source,
            })?;
            (path.display().to_string(), text)
        } else {
            let body = bytes_of(&given.special_fields, CONFIG_BODY).unwrap_or_default();
            (
                "ConfigBody".to_owned(),
                String::from_utf8_lossy(body).into_owned(),
            )
        };
        toml::options(&text).map_err(|source| OptionsError::Toml { place, source })
    }

    /// Keeps the options in the bundle.
    ///
    /// # Errors
    /// [`OptionsError::File`].
    pub fn save(&self, bundle: &Path) -> Result<(), OptionsError> {
        let path = bundle.join(FILE);
        let text = serde_json::to_vec(self).map_err(|source| OptionsError::Kept {
            path: path.clone(),
            source,
        })?;
        std::fs::write(&path, text).map_err(|source| OptionsError::File {
            what: "write",
            path,
            source,
        })
    }

    /// The options kept in the bundle; the defaults if there are none.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn load(bundle: &Path) -> Result<Options, OptionsError> {
        let path = bundle.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| OptionsError::Kept { path, source }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Options::default()),
            Err(source) => Err(OptionsError::File {
                what: "read",
                path,
                source,
            }),
        }
    }

    /// The runtime, with its state below the namespace's folder and its log in the bundle.
    pub fn runtime(&self, namespace: &str, bundle: &Path, debug: bool) -> berth_client::Runtime {
        let binary: &Path = if self.binary_name.as_os_str().is_empty() {
            Path::new(DEFAULT_BINARY)
        } else {
            &self.binary_name
        };
        let root: &Path = if self.root.as_os_str().is_empty() {
            Path::new(DEFAULT_ROOT)
        } else {
            &self.root
        };
        let mut runtime = berth_client::Runtime::new(binary)
            .with_root(root.join(namespace))
            .with_log_dir(bundle);
        if self.systemd_cgroup {
            runtime = runtime.with_systemd_cgroup();
        }
        if debug {
            runtime = runtime.with_debug();
        }
        if let Some(dir) = self.criu_path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            runtime = runtime.with_program_dir(dir);
        }
        runtime
    }
}

/// A length-delimited field that the message type does not know.
fn bytes_of(fields: &protobuf::SpecialFields, number: u32) -> Option<&[u8]> {
    match fields.unknown_fields().get(number)? {
        UnknownValueRef::LengthDelimited(bytes) => Some(bytes),
        _ => None,
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(kind: &str, value: Vec<u8>) -> Any {
        let mut any = Any::new();
        any.type_url = kind.to_owned();
        any.value = value;
        any
    }

    #[test]
    fn runcs_own_options_are_taken_with_the_field_of_old() {
        let mut given = oci::Options::new();
        given.binary_name = "runc".to_owned();
        given.systemd_cgroup = true;
        given.io_uid = 7;
        let mut bytes = given.write_to_bytes().unwrap();
        bytes.extend([8 << 3 | 2, 9]);
        bytes.extend(b"/opt/criu");
        let options = Options::from_any(Some(&any("containerd.runc.v1.Options", bytes))).unwrap();
        assert_eq!(options.binary_name, Path::new("runc"));
        assert_eq!(options.criu_path, Path::new("/opt/criu"));
        assert!(options.systemd_cgroup && options.io_uid == 7);
    }

    #[test]
    fn the_first_message_for_options_is_taken() {
        let mut bytes = vec![1 << 3, 1, 10 << 3, 7];
        bytes.extend([12 << 3 | 2, 2]);
        bytes.extend(b"/w");
        let options = Options::from_any(Some(&any("containerd.linux.runc.CreateOptions", bytes))).unwrap();
        assert!(options.no_pivot_root && !options.no_new_keyring && options.io_uid == 7);
        assert_eq!(options.criu_work_path, Path::new("/w"));
    }

    #[test]
    fn toml_comes_inline_or_by_path() {
        let body = b"BinaryName = \"/usr/local/bin/berth\"\nRoot = '/r'\n";
        let mut bytes = vec![3 << 3 | 2, body.len() as u8];
        bytes.extend(body);
        let inline = Options::from_any(Some(&any("runtimeoptions.v1.Options", bytes))).unwrap();
        assert_eq!(inline.binary_name, Path::new("/usr/local/bin/berth"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.toml");
        std::fs::write(&path, body).unwrap();
        let text = path.to_str().unwrap().as_bytes();
        let mut bytes = vec![2 << 3 | 2, text.len() as u8];
        bytes.extend(text);
        let url = "cri.runtimeoptions.v1.Options";
        assert_eq!(Options::from_any(Some(&any(url, bytes))).unwrap(), inline);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = Options::from_any(Some(&any("a.b.C", Vec::new()))).unwrap_err();
        assert!(error.to_string().contains("a.b.C"));
        let missing = [&[2 << 3 | 2, 5][..], b"/nope"].concat();
        let error = Options::from_any(Some(&any("runtimeoptions.v1.Options", missing))).unwrap_err();
        assert!(error.to_string().contains("/nope"));
    }

    #[test]
    fn kept_options_come_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), Options::default());
        let options = Options {
            binary_name: "crun".into(),
            ..Options::default()
        };
        options.save(dir.path()).unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), options);
    }
}
