//! A pod's volumes on the host. Everything here blocks.
//!
//! | volume | where |
//! | --- | --- |
//! | emptyDir | a folder below the data directory; with medium Memory a tmpfs below the run directory |
//! | configMap, downwardAPI, projected | a folder below the run directory |
//! | secret, projected with a secret | a tmpfs below the run directory, never on a disk |
//! | hostPath | the path itself |
//! | persistentVolumeClaim, ephemeral | the path of the volume that the claim is bound to |

mod claimed;
mod project;
mod subpath;

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use nix::mount::{MsFlags, mount};

use super::env::{EnvError, Facts, Sources, field, resource};
use super::pod::Pod;
use super::resources::thousandths;
pub use claimed::{give_group, is_read_only};
pub use project::File;
pub use subpath::bind;

/// Size of a Secret's tmpfs: the API's limit of an object, with room for the layout.
const SECRET_TMPFS: &str = "size=8m,nr_inodes=16384,mode=0755";

/// Why a volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file or folder of the host.
    #[error("volume file {}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A mount.
    #[error("mount {what} at {}", path.display())]
    Mount {
        /// What was to be mounted.
        what: String,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: nix::Error,
    },
    /// The volume's file system has no idmapped mounts.
    #[error(
        "volume {volume}: hostUsers: false needs a file system with idmapped mounts, and that of {} has none (ext4, xfs, btrfs, and tmpfs from Linux 6.3 on have)",
        path.display()
    )]
    Shift {
        /// Name of the volume.
        volume: String,
        /// Where it is.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A path in the volume's specification leaves the volume.
    #[error("volume {volume}: path {path:?} must be relative and without \"..\"")]
    Path {
        /// Name of the volume.
        volume: String,
        /// The path.
        path: String,
    },
    /// A hostPath is not of the type it should be.
    #[error("volume {volume}: hostPath type check failed: {} is not a {kind}", path.display())]
    HostPath {
        /// Name of the volume.
        volume: String,
        /// The path.
        path: PathBuf,
        /// The type.
        kind: String,
    },
    /// A ConfigMap, Secret or field that is referred to.
    #[error("volume {volume}")]
    Reference {
        /// Name of the volume.
        volume: String,
        /// What is missing.
        #[source]
        source: EnvError,
    },
    /// A quantity that cannot be read.
    #[error("volume {volume}: sizeLimit {text:?} is not a quantity")]
    Size {
        /// Name of the volume.
        volume: String,
        /// The text.
        text: String,
    },
    /// Huge pages of a size that the pod has none of.
    #[error(
        "volume {volume}: medium HugePages-{size}: no container asks for such pages: set limits hugepages-{size} in its resources"
    )]
    HugePages {
        /// Name of the volume.
        volume: String,
        /// Size of the pages.
        size: String,
    },
    /// A kind of volume that this node does not have.
    #[error(
        "volume {volume}: this node serves emptyDir, hostPath, configMap, secret, downwardAPI and projected volumes, and claims only"
    )]
    Kind {
        /// Name of the volume.
        volume: String,
    },
    /// A claim that is not bound to a volume of this node.
    #[error("volume {volume}: claim {claim} is not bound to a volume of this node")]
    Unbound {
        /// Name of the volume.
        volume: String,
        /// Name of the claim.
        claim: String,
    },
    /// The folder of a claim's volume.
    #[error("volume {volume}: folder {} of PersistentVolume {persistent} does not exist: its data is gone, or a file system is not mounted", path.display())]
    Folder {
        /// Name of the volume in the pod.
        volume: String,
        /// Name of the PersistentVolume.
        persistent: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A token of an account that is not there.
    #[error("volume {volume}: service account {account} does not exist: no token can be made")]
    Account {
        /// Name of the volume.
        volume: String,
        /// The account.
        account: String,
    },
    /// A mount of a volume that is not declared.
    #[error("container {container} mounts volume {volume}, which the pod does not declare in spec.volumes")]
    Undeclared {
        /// Name of the container.
        container: String,
        /// Name of the volume.
        volume: String,
    },
}

/// The pod's folders for volumes.
#[derive(Debug, Clone)]
pub struct Places {
    /// On the disk.
    pub data: PathBuf,
    /// On the run directory.
    pub run: PathBuf,
}

/// Makes every volume of the pod; can be repeated. Returns the host path of each.
///
/// # Errors
/// [`VolumeError`] of the first volume that cannot be made.
pub fn prepare(
    pod: &Pod,
    places: &Places,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let mut paths = BTreeMap::new();
    for volume in pod.spec().volumes.iter().flatten() {
        paths.insert(volume.name.clone(), one(pod, volume, places, facts, sources)?);
    }
    Ok(paths)
}

/// Writes changed ConfigMaps, Secrets and fields into the volumes of a pod that runs.
///
/// # Errors
/// [`VolumeError`]; the volume keeps its content then.
pub fn refresh(pod: &Pod, places: &Places, facts: &Facts, sources: &dyn Sources) -> Result<(), VolumeError> {
    for volume in pod.spec().volumes.iter().flatten() {
        if let Some((files, _)) = files(pod, volume, &places.run.join(&volume.name), facts, sources)? {
            project::write(&places.run.join(&volume.name), &files, fs_group(pod))?;
        }
    }
    Ok(())
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec()
        .security_context
        .as_ref()
        .and_then(|s| s.fs_group)
        .and_then(|g| u32::try_from(g).ok())
}

fn one(
    pod: &Pod,
    volume: &api::Volume,
    places: &Places,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<PathBuf, VolumeError> {
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(pod, volume, empty, places);
    }
    if let Some(host) = &volume.host_path {
        return host_path(volume, host);
    }
    if let Some(path) = claimed::place(pod, volume, sources)? {
        return Ok(path);
    }
    let dir = places.run.join(&volume.name);
    let Some((files, secret)) = files(pod, volume, &dir, facts, sources)? else {
        return Err(VolumeError::Kind {
            volume: volume.name.clone(),
        });
    };
    make_dir(&dir, 0o755)?;
    if secret && !is_mount(&dir) {
        mount_tmpfs(&dir, SECRET_TMPFS)?;
    }
    project::write(&dir, &files, fs_group(pod))?;
    Ok(dir)
}

fn empty_dir(
    pod: &Pod,
    volume: &api::Volume,
    empty: &api::EmptyDirVolumeSource,
    places: &Places,
) -> Result<PathBuf, VolumeError> {
    if let Some(size) = empty.medium.as_deref().and_then(|m| m.strip_prefix("HugePages")) {
        return huge_pages(pod, volume, size.trim_start_matches('-'), places);
    }
    let memory = empty.medium.as_deref() == Some("Memory");
    let dir = if memory { &places.run } else { &places.data }.join(&volume.name);
    let fresh = !dir.exists();
    make_dir(&dir, 0o777)?;
    if memory && !is_mount(&dir) {
        let mut options = "mode=0777".to_owned();
        if let Some(limit) = &empty.size_limit {
            let bytes = thousandths(&limit.0).filter(|n| *n > 0).map(|n| n / 1000);
            let error = || VolumeError::Size {
                volume: volume.name.clone(),
                text: limit.0.clone(),
            };
            options = format!("{options},size={}", bytes.ok_or_else(error)?);
        }
        mount_tmpfs(&dir, &options)?;
    }
    if (fresh || memory)
        && let Some(group) = fs_group(pod)
    {
        // New files inherit the group by the set-group-id bit.
        std::os::unix::fs::chown(&dir, None, Some(group)).map_err(file(&dir))?;
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o2777)).map_err(file(&dir))?;
    }
    Ok(dir)
}

/// A volume of huge pages; without a size, of the only one that the pod asks for.
fn huge_pages(pod: &Pod, volume: &api::Volume, size: &str, places: &Places) -> Result<PathBuf, VolumeError> {
    let asked: Vec<&str> = pod
        .containers
        .iter()
        .filter_map(|c| c.spec.resources.as_ref()?.requests.as_ref())
        .flat_map(|requests| requests.keys())
        .filter_map(|name| name.strip_prefix("hugepages-"))
        .collect();
    let size = if size.is_empty() {
        asked.first().copied().unwrap_or_default()
    } else {
        size
    };
    let wrong = || VolumeError::HugePages {
        volume: volume.name.clone(),
        size: size.to_owned(),
    };
    // One that no container asks for would be empty for ever.
    if !asked.contains(&size) {
        return Err(wrong());
    }
    let bytes = thousandths(size)
        .filter(|n| *n > 0)
        .map(|n| n / 1000)
        .ok_or_else(wrong)?;
    let dir = places.run.join(&volume.name);
    make_dir(&dir, 0o777)?;
    if !is_mount(&dir) {
        let options = format!("pagesize={bytes},mode=0777");
        let mounted = nix::mount::mount(
            Some("hugetlbfs"),
            &dir,
            Some("hugetlbfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        );
        mounted.map_err(|error| VolumeError::File {
            path: dir.clone(),
            source: error.into(),
        })?;
    }
    Ok(dir)
}

fn host_path(volume: &api::Volume, host: &api::HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&host.path);
    let kind = host.type_.as_deref().unwrap_or_default();
    match kind {
        // Without a type a missing path is made, as the runtimes under kubelet do.
        "" | "DirectoryOrCreate" if !path.exists() => {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .map_err(file(&path))?;
        }
        "FileOrCreate" if !path.exists() => {
            std::fs::File::create_new(&path).map_err(file(&path))?;
        }
        _ => {}
    }
    let found = std::fs::metadata(&path).map(|m| m.file_type());
    let fits = found.is_ok_and(|t| match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => t.is_dir(),
        "File" | "FileOrCreate" => t.is_file(),
        "Socket" => t.is_socket(),
        "CharDevice" => t.is_char_device(),
        "BlockDevice" => t.is_block_device(),
        _ => false,
    });
    if fits {
        Ok(path)
    } else {
        let kind = if kind.is_empty() { "path that exists" } else { kind };
        Err(VolumeError::HostPath {
            volume: volume.name.clone(),
            path,
            kind: kind.to_owned(),
        })
    }
}

type Files = BTreeMap<PathBuf, File>;

/// The files of a projected kind of volume, and whether a Secret is among them; None for other kinds.
fn files(
    pod: &Pod,
    volume: &api::Volume,
    dir: &Path,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Option<(Files, bool)>, VolumeError> {
    let name = &volume.name;
    let mut all = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode;
        let data = Reference::config_map(&source.name, source.optional).load(pod, name, sources)?;
        keys(
            name,
            data,
            source.items.as_deref(),
            mode,
            source.optional,
            &mut all,
        )?;
        return Ok(Some((all, false)));
    }
    if let Some(source) = &volume.secret {
        let secret = source.secret_name.clone().unwrap_or_default();
        let data = Reference::secret(&secret, source.optional).load(pod, name, sources)?;
        keys(
            name,
            data,
            source.items.as_deref(),
            source.default_mode,
            source.optional,
            &mut all,
        )?;
        return Ok(Some((all, true)));
    }
    if let Some(source) = &volume.downward_api {
        downward(
            pod,
            name,
            source.items.as_deref(),
            source.default_mode,
            facts,
            &mut all,
        )?;
        return Ok(Some((all, false)));
    }
    let Some(projected) = &volume.projected else {
        return Ok(None);
    };
    let mode = projected.default_mode;
    let mut secret = false;
    for source in projected.sources.iter().flatten() {
        if let Some(s) = &source.config_map {
            let data = Reference::config_map(&s.name, s.optional).load(pod, name, sources)?;
            keys(name, data, s.items.as_deref(), mode, s.optional, &mut all)?;
        } else if let Some(s) = &source.secret {
            secret = true;
            let data = Reference::secret(&s.name, s.optional).load(pod, name, sources)?;
            keys(name, data, s.items.as_deref(), mode, s.optional, &mut all)?;
        } else if let Some(s) = &source.downward_api {
            downward(pod, name, s.items.as_deref(), mode, facts, &mut all)?;
        } else if let Some(s) = &source.service_account_token {
            secret = true;
            let path = project::checked(name, &s.path)?;
            let audience = s.audience.as_deref().unwrap_or_default();
            let seconds = s.expiration_seconds.unwrap_or(3600);
            let kept = std::fs::read_to_string(dir.join("..data").join(&path)).ok();
            let token = kept
                .filter(|token| is_fresh(token))
                .or_else(|| sources.token(pod, audience, seconds));
            let data = token
                .map(String::into_bytes)
                .ok_or_else(|| VolumeError::Account {
                    volume: name.clone(),
                    account: pod.spec().service_account_name.clone().unwrap_or_default(),
                })?;
            let mode = mode_of(None, mode);
            all.insert(path, File { data, mode });
        } else {
            return Err(VolumeError::Kind { volume: name.clone() });
        }
    }
    Ok(Some((all, secret)))
}

/// Whether a token has more than a fifth of its life before it.
fn is_fresh(token: &str) -> bool {
    crate::pki::tokens::lifetime(token).is_some_and(|(begin, end)| {
        let now = jiff::Timestamp::now().as_second();
        begin <= now && end - now > (end - begin) / 5
    })
}

/// Shortest life of the tokens in the pod's volumes, in seconds; None if there are none.
pub fn token_seconds(pod: &Pod) -> Option<i64> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter_map(|v| v.projected.as_ref()?.sources.as_ref())
        .flatten()
        .filter_map(|s| s.service_account_token.as_ref())
        .map(|t| t.expiration_seconds.unwrap_or(3600))
        .min()
}

/// A ConfigMap or Secret that a volume refers to.
struct Reference<'a> {
    secret: bool,
    name: &'a str,
    optional: bool,
}

impl<'a> Reference<'a> {
    fn config_map(name: &'a str, optional: Option<bool>) -> Self {
        Reference {
            secret: false,
            name,
            optional: optional == Some(true),
        }
    }

    fn secret(name: &'a str, optional: Option<bool>) -> Self {
        Reference {
            secret: true,
            name,
            optional: optional == Some(true),
        }
    }

    fn load(
        &self,
        pod: &Pod,
        volume: &str,
        sources: &dyn Sources,
    ) -> Result<BTreeMap<String, Vec<u8>>, VolumeError> {
        let data = if self.secret {
            sources.secret(self.name)
        } else {
            sources.config_map(self.name)
        };
        match data {
            Some(data) => Ok(data),
            None if self.optional => Ok(BTreeMap::new()),
            None => Err(VolumeError::Reference {
                volume: volume.to_owned(),
                source: EnvError::NoObject {
                    kind: if self.secret { "secret" } else { "configmap" },
                    name: self.name.to_owned(),
                    namespace: pod.namespace.clone(),
                },
            }),
        }
    }
}

fn mode_of(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default)
        .and_then(|m| u32::try_from(m).ok())
        .unwrap_or(0o644)
        & 0o777
}

/// All keys, or the chosen ones at their paths.
fn keys(
    volume: &str,
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[api::KeyToPath]>,
    mode: Option<i32>,
    optional: Option<bool>,
    out: &mut Files,
) -> Result<(), VolumeError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, data) in data {
            out.insert(
                project::checked(volume, &key)?,
                File {
                    data,
                    mode: mode_of(None, mode),
                },
            );
        }
        return Ok(());
    };
    for item in items {
        let path = project::checked(volume, &item.path)?;
        match data.remove(&item.key) {
            Some(data) => {
                out.insert(
                    path,
                    File {
                        data,
                        mode: mode_of(item.mode, mode),
                    },
                );
            }
            None if optional == Some(true) => {}
            None => {
                let source = EnvError::NoKey {
                    kind: "volume source",
                    key: item.key.clone(),
                    name: volume.to_owned(),
                    namespace: String::new(),
                };
                return Err(VolumeError::Reference {
                    volume: volume.to_owned(),
                    source,
                });
            }
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    volume: &str,
    items: Option<&[api::DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    facts: &Facts,
    out: &mut Files,
) -> Result<(), VolumeError> {
    for item in items.into_iter().flatten() {
        let path = project::checked(volume, &item.path)?;
        let (text, what) = if let Some(r) = &item.field_ref {
            (field(pod, &r.field_path, facts), &r.field_path)
        } else if let Some(r) = &item.resource_field_ref {
            let container = pod.container(r.container_name.as_deref().unwrap_or_default());
            let divisor = r.divisor.as_ref().map(|d| d.0.as_str());
            (
                container.and_then(|c| resource(&c.spec, &r.resource, divisor, facts)),
                &r.resource,
            )
        } else {
            continue;
        };
        let error = || VolumeError::Reference {
            volume: volume.to_owned(),
            source: EnvError::Field {
                name: item.path.clone(),
                path: what.clone(),
            },
        };
        let data = text.ok_or_else(error)?.into_bytes();
        out.insert(
            path,
            File {
                data,
                mode: mode_of(item.mode, mode),
            },
        );
    }
    Ok(())
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> VolumeError + use<> {
    let path = path.to_owned();
    move |source| VolumeError::File { path, source }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(file(path))?;
    // Not by the mode of mkdir, which the umask cuts.
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(file(path))
}

/// Mounts a tmpfs that holds data only.
pub(super) fn mount_tmpfs(path: &Path, options: &str) -> Result<(), VolumeError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options)).map_err(|source| VolumeError::Mount {
        what: "a tmpfs".to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// Whether something is mounted at the path: its device differs from its parent's.
pub(super) fn is_mount(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}
