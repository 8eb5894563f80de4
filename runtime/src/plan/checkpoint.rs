//! `checkpoint` and `restore`: what CRIU is to know of a container that this runtime has made. Both begin with the plan
//! of its creation: what was bound, masked and made there is what lies outside of CRIU's reach.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_spec::{LinuxNamespaceType, Spec};

use super::host::HostStep;
use super::{Context, CreateOptions, Gate, Plan, PlanError, joined, mounts};
use crate::bundle::Bundle;
use crate::criu::{Message, field};
use crate::host::HostFacts;
use crate::wire::{InitStep, sync};

/// How CRIU treats cgroups (criu(8), `--manage-cgroups`); the numbers are those of `criu_cg_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupsMode {
    /// CRIU's default.
    Default = 6,
    /// Leave them alone.
    Ignore = 0,
    /// Restore the properties of those that it makes.
    Soft = 3,
    /// Restore all.
    Full = 4,
    /// Restore all, and require that they are not there.
    Strict = 5,
}

impl CgroupsMode {
    /// The word of the command line.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" => Self::Default,
            "ignore" => Self::Ignore,
            "soft" => Self::Soft,
            "full" => Self::Full,
            "strict" => Self::Strict,
            _ => return None,
        })
    }
}

/// Options that both verbs have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// Where the images are.
    pub images: PathBuf,
    /// Where CRIU works and logs; the images' folder without one.
    pub work: Option<PathBuf>,
    /// With established TCP connections.
    pub tcp_established: bool,
    /// With sockets whose other end is outside.
    pub external_unix_sockets: bool,
    /// With a terminal that is somebody else's.
    pub shell_job: bool,
    /// With file locks.
    pub file_locks: bool,
    /// How cgroups are treated.
    pub cgroups: CgroupsMode,
    /// CLONE_NEW* kinds of which only the namespace is restored, empty.
    pub empty_namespaces: u64,
    /// Leave out of the images what a parent image has.
    pub auto_dedup: bool,
    /// Memory comes when it is needed (userfaultfd(2)).
    pub lazy_pages: bool,
}

/// Something of a container that exists outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum External {
    /// A bind mount.
    Bind {
        /// Place below the root.
        target: PathBuf,
        /// Path on the host.
        source: PathBuf,
    },
    /// A file with nothing over it.
    Mask {
        /// Place below the root.
        path: PathBuf,
    },
    /// A device, which may be the host's, bound.
    Device {
        /// Place below the root, and on the host.
        path: PathBuf,
    },
}

/// What a checkpoint is made of, apart from the options of the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything that needs no look at the container.
    pub options: Message,
    /// What is to be named to CRIU.
    pub externals: Vec<External>,
    /// Namespaces that stay outside: CRIU's word for the kind, its key, the path.
    pub namespaces: Vec<(&'static str, &'static str, PathBuf)>,
}

/// What CRIU restores from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Everything that needs no open descriptor.
    pub options: Message,
    /// The images and where to work.
    pub images: ImageOptions,
    /// The root file system.
    pub rootfs: PathBuf,
    /// What is to be named to CRIU.
    pub externals: Vec<External>,
    /// Namespaces that are handed to CRIU: its key, the path.
    pub namespaces: Vec<(&'static str, PathBuf)>,
}

fn path(bytes: &std::ffi::CString) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes.as_bytes()))
}

/// What of the steps of a creation is outside.
fn externals(init: &[InitStep]) -> Vec<External> {
    let external = |step: &InitStep| match step {
        InitStep::Bind { source, target, .. } => Some(External::Bind {
            target: mounts::clean(&path(target)),
            source: path(source),
        }),
        InitStep::Mask { path: place, .. } => Some(External::Mask { path: path(place) }),
        InitStep::Device { path: place, .. } => Some(External::Device { path: path(place) }),
        _ => None,
    };
    init.iter().filter_map(external).collect()
}

/// The steps of the container's creation.
fn creation(
    bundle: &Bundle,
    facts: &HostFacts,
    options: &CreateOptions<'_>,
) -> Result<Vec<InitStep>, PlanError> {
    // The terminal is CRIU's to restore: who has its other end does not matter here.
    let options = CreateOptions {
        console: true,
        gate: Gate::Direct,
        seccomp: None,
        network: false,
        ..*options
    };
    Ok(super::create(bundle, facts, &options)?.init)
}

fn common(images: &ImageOptions, spec: &Spec, log: &str) -> Message {
    let mut options = Message::new();
    options
        .number(field::LOG_LEVEL, 4)
        .text(field::LOG_FILE, log)
        .flag(field::NOTIFY_SCRIPTS, true)
        .flag(field::MANAGE_CGROUPS, true)
        .number(field::MANAGE_CGROUPS_MODE, images.cgroups as i64)
        .flag(field::SHELL_JOB, images.shell_job)
        .flag(field::TCP_ESTABLISHED, images.tcp_established)
        .flag(field::EXT_UNIX_SK, images.external_unix_sockets)
        .flag(field::FILE_LOCKS, images.file_locks)
        .number(field::EMPTY_NS, images.empty_namespaces as i64)
        .flag(field::ORPHAN_PTS_MASTER, true)
        .flag(field::AUTO_DEDUP, images.auto_dedup)
        .flag(field::LAZY_PAGES, images.lazy_pages);
    // As with runc: a configuration file of the container's own, none at all, or the one for all.
    let annotation = spec
        .annotations()
        .as_ref()
        .and_then(|all| all.get("org.criu.config"));
    match annotation.map(String::as_str) {
        Some("") => {}
        Some(file) => {
            options.text(field::CONFIG_FILE, file);
        }
        None => {
            options.text(field::CONFIG_FILE, "/etc/criu/runc.conf");
        }
    }
    options
}

/// CRIU's word for a kind, and the key under which it finds one that is outside.
fn outside(kind: LinuxNamespaceType) -> Option<(&'static str, &'static str)> {
    match kind {
        LinuxNamespaceType::Network => Some(("net", "extRootNetNS")),
        LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// CRIU's words for the kinds that it can join.
fn joinable(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Mount => Some("mnt"),
        LinuxNamespaceType::Ipc => Some("ipc"),
        LinuxNamespaceType::Uts => Some("uts"),
        LinuxNamespaceType::User => Some("user"),
        LinuxNamespaceType::Time => Some("time"),
        _ => None,
    }
}

fn namespaces(spec: &Spec) -> impl Iterator<Item = (LinuxNamespaceType, &PathBuf)> {
    let all = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref());
    all.unwrap_or_default()
        .iter()
        .filter_map(|entry| joined(entry).map(|path| (entry.typ(), path)))
}

/// Plans `checkpoint`.
pub fn checkpoint(
    bundle: &Bundle,
    facts: &HostFacts,
    create: &CreateOptions<'_>,
    images: &ImageOptions,
) -> Result<Checkpoint, PlanError> {
    let mut options = common(images, &bundle.spec, "dump.log");
    options.text(field::ROOT, bundle.rootfs.as_os_str().as_bytes());
    let namespaces = namespaces(&bundle.spec)
        .filter_map(|(kind, path)| outside(kind).map(|(word, key)| (word, key, path.clone())))
        .collect();
    Ok(Checkpoint {
        options,
        externals: externals(&creation(bundle, facts, create)?),
        namespaces,
    })
}

/// Plans `restore`: the same interpreter runs it, with CRIU in the place of the first process.
pub fn restore(
    bundle: &Bundle,
    facts: &HostFacts,
    create: &CreateOptions<'_>,
    images: ImageOptions,
    labels: (Option<&str>, Option<&str>),
) -> Result<Plan, PlanError> {
    let spec = &bundle.spec;
    let context = Context {
        spec,
        process: spec.process().as_ref(),
        bundle: &bundle.path,
        rootfs: &bundle.rootfs,
        facts,
        cgroup_paths: create.cgroup_paths,
        network: false,
    };
    let mut options = common(&images, spec, "restore.log");
    options
        .flag(field::EVASIVE_DEVICES, true)
        .flag(field::RST_SIBLING, true);
    if let Some(profile) = labels.0 {
        options.text(field::LSM_PROFILE, profile);
    }
    if let Some(label) = labels.1 {
        options.text(field::LSM_MOUNT_CONTEXT, label);
    }
    let mut inherited = Vec::new();
    for (kind, path) in namespaces(spec) {
        match (outside(kind), joinable(kind)) {
            (Some((_, key)), _) => inherited.push((key, path.clone())),
            (None, Some(word)) => {
                options.message(field::JOIN_NS, Message::pair(word, path.as_os_str().as_bytes()));
            }
            (None, None) => {
                return Err(PlanError::Unrestorable {
                    kind: "cgroup",
                    path: path.clone(),
                });
            }
        }
    }
    let mut externals = externals(&creation(bundle, facts, create)?);
    if externals
        .iter()
        .any(|external| matches!(external, External::Mask { .. }))
    {
        // All masks are this one file.
        externals.retain(|external| !matches!(external, External::Mask { .. }));
        externals.push(External::Bind {
            target: "/dev/null".into(),
            source: "/dev/null".into(),
        });
    }
    let mut host = mount_points(bundle);
    host.push(HostStep::Restore(Box::new(Restore {
        options,
        images,
        rootfs: bundle.rootfs.clone(),
        externals,
        namespaces: inherited,
    })));
    host.push(HostStep::Await {
        point: sync::NAMESPACES,
    });
    if context.makes(LinuxNamespaceType::Network) {
        host.push(HostStep::Loopback);
    }
    host.push(HostStep::RuntimeHooks);
    host.push(HostStep::Resume);
    host.push(HostStep::AwaitReady);
    Ok(Plan {
        host,
        init: Vec::new(),
        first_private: 3,
    })
}

/// The places of the mounts, which CRIU does not make: in the root file system or, below a bind mount, in its source.
/// What is on a tmpfs is in the images.
fn mount_points(bundle: &Bundle) -> Vec<HostStep> {
    let mut steps = Vec::new();
    let mut covers: Vec<(PathBuf, Option<PathBuf>)> = Vec::new();
    for mount in bundle.spec.mounts().iter().flatten() {
        let kind = mount.typ().as_deref().unwrap_or_default();
        let words = mount.options().as_deref().unwrap_or_default();
        let bound = kind == "bind" || words.iter().any(|word| word == "bind" || word == "rbind");
        let place = mounts::clean(mount.destination());
        let source = mount.source().as_ref().map(|source| bundle.path.join(source));
        // The last mount above it is the one that it is on.
        let below = covers
            .iter()
            .rev()
            .find(|(cover, _)| place != *cover && place.starts_with(cover));
        let base = match below {
            None => Some((bundle.rootfs.clone(), place.clone())),
            Some((cover, Some(source))) => {
                let rest = place.strip_prefix(cover).unwrap_or(Path::new(""));
                Some((source.clone(), Path::new("/").join(rest)))
            }
            Some((_, None)) => None,
        };
        if let Some((base, path)) = base.filter(|_| kind != "cgroup") {
            steps.push(HostStep::MountPoint {
                base,
                path,
                like: source.clone().filter(|_| bound),
            });
        }
        covers.push((place, source.filter(|_| bound)));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::facts;
    use std::collections::BTreeMap;

    fn bundle(config: &str) -> Bundle {
        let (spec, _) = crate::bundle::parse_spec(Path::new("config.json"), config.as_bytes()).unwrap();
        Bundle {
            path: "/bundle".into(),
            rootfs: "/bundle/rootfs".into(),
            spec,
            config: Vec::new(),
            warnings: Vec::new(),
        }
    }

    const CONFIG: &str = r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/dev", "type": "tmpfs"},
            {"destination": "/dev/shm", "type": "tmpfs"},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind"]},
            {"destination": "/data/sub", "type": "bind", "source": "files", "options": ["bind"]}],
        "linux": {"maskedPaths": ["/proc/kcore"], "namespaces": [{"type": "mount"}, {"type": "pid"},
            {"type": "network", "path": "/run/netns/x"}, {"type": "uts", "path": "/run/utsns/x"}]}}"#;

    fn images() -> ImageOptions {
        ImageOptions {
            images: "/images".into(),
            work: None,
            tcp_established: false,
            external_unix_sockets: false,
            shell_job: false,
            file_locks: false,
            cgroups: CgroupsMode::Default,
            empty_namespaces: 0,
            auto_dedup: false,
            lazy_pages: false,
        }
    }

    fn options(paths: &BTreeMap<String, PathBuf>) -> CreateOptions<'_> {
        CreateOptions {
            id: "c",
            cgroup_paths: paths,
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            listen_fds: 0,
            console: false,
            gate: Gate::Direct,
            seccomp: None,
            network: false,
        }
    }

    #[test]
    fn binds_masks_and_devices_are_named_to_criu() {
        let paths = BTreeMap::new();
        let made = checkpoint(&bundle(CONFIG), &facts(), &options(&paths), &images()).unwrap();
        assert!(made.externals.contains(&External::Bind {
            target: "/data".into(),
            source: "/srv".into()
        }));
        assert!(made.externals.contains(&External::Mask {
            path: "/proc/kcore".into()
        }));
        assert!(made.externals.contains(&External::Device {
            path: "/dev/null".into()
        }));
        assert_eq!(
            made.namespaces,
            [("net", "extRootNetNS", PathBuf::from("/run/netns/x"))]
        );
    }

    #[test]
    fn places_below_a_bind_mount_are_made_in_its_source() {
        let paths = BTreeMap::new();
        let plan = restore(
            &bundle(CONFIG),
            &facts(),
            &options(&paths),
            images(),
            (None, None),
        )
        .unwrap();
        let places: Vec<_> = plan
            .host
            .iter()
            .filter_map(|step| match step {
                HostStep::MountPoint { base, path, .. } => {
                    Some((base.to_str().unwrap(), path.to_str().unwrap()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            places,
            [
                ("/bundle/rootfs", "/proc"),
                ("/bundle/rootfs", "/dev"),
                ("/bundle/rootfs", "/data"),
                ("/srv", "/sub")
            ]
        );
        // Its network is somebody else's.
        assert!(!plan.host.contains(&HostStep::Loopback));
    }

    #[test]
    fn a_foreign_cgroup_namespace_is_refused() {
        let config = CONFIG.replace(r#""uts""#, r#""cgroup""#);
        let paths = BTreeMap::new();
        let error = restore(
            &bundle(&config),
            &facts(),
            &options(&paths),
            images(),
            (None, None),
        )
        .unwrap_err();
        assert!(error.to_string().contains("/run/utsns/x"), "{error}");
    }
}
