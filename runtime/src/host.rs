//! What the host can do, collected once before anything is planned, so that validation and planning stay pure.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use berth_cgroups::{Kind, Layout, LayoutError};
use berth_spec::{LinuxNamespaceType, Process, Spec};
use berth_sys::files::read_text;
use thiserror::Error;

use crate::resctrl::Resctrl;

/// A kernel release, as far as features depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// First number of the release.
    pub major: u32,
    /// Second number of the release.
    pub minor: u32,
}

impl KernelVersion {
    /// Parses a release as uname(2) gives it: `6.1.0-28-amd64` is 6.1. What does not parse is 0.0, so that no
    /// feature is assumed.
    pub fn parse(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse().unwrap_or_default());
        Self {
            major: numbers.next().unwrap_or_default(),
            minor: numbers.next().unwrap_or_default(),
        }
    }

    /// Whether this kernel is at least `major.minor`.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }
}

/// Namespace kinds this kernel offers to this process, from the entries of `/proc/self/ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces {
    /// user namespaces (user_namespaces(7)).
    pub user: bool,
    /// cgroup namespaces (cgroup_namespaces(7), Linux 4.6).
    pub cgroup: bool,
    /// time namespaces (time_namespaces(7), Linux 5.6).
    pub time: bool,
}

/// What a path that a container is to join leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// Nothing that can be looked at.
    Missing {
        /// The system's reason.
        reason: String,
    },
    /// A file that is no namespace.
    NotANamespace,
    /// The namespace of that kind which this process is in.
    Own,
    /// Some other namespace.
    Foreign,
}

/// A namespace that a configuration names by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedNamespace {
    /// The kind it is to be joined as.
    pub kind: LinuxNamespaceType,
    /// The configuration's path.
    pub path: PathBuf,
    /// What is there.
    pub found: Joined,
}

/// A mounted resctrl file system and what can be shared out by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResctrlFacts {
    /// Where it is.
    pub mounted: Resctrl,
    /// The last cache (CAT).
    pub cache: bool,
    /// Memory bandwidth (MBA).
    pub bandwidth: bool,
}

impl ResctrlFacts {
    /// Looks for it.
    pub fn collect() -> Option<Self> {
        let mounted = Resctrl::find()?;
        Some(Self {
            cache: mounted.has_cache(),
            bandwidth: mounted.has_bandwidth(),
            mounted,
        })
    }
}

/// Facts about the host that validation and planning depend on.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// The running kernel.
    pub kernel: KernelVersion,
    /// Effective user id of this process.
    pub euid: u32,
    /// Effective group id of this process.
    pub egid: u32,
    /// Whether this process lives in a user namespace other than the initial one.
    pub in_user_namespace: bool,
    /// Namespace kinds the kernel offers, of those that the configuration of [`HostFacts::look_at`] names.
    pub namespaces: Namespaces,
    /// Whether AppArmor is enabled (`/sys/module/apparmor/parameters/enabled`); looked up for a profile only.
    pub apparmor: bool,
    /// Whether SELinux is enabled (selinuxfs is mounted); looked up for a label only.
    pub selinux: bool,
    /// The resctrl file system (Intel RDT, AMD QoS) if one is mounted; looked up for `linux.intelRdt` only.
    pub resctrl: Option<ResctrlFacts>,
    /// Where cgroups are.
    pub cgroups: Layout,
    /// The namespaces that a configuration wants to join; empty until [`HostFacts::look_at`].
    pub joined: Vec<JoinedNamespace>,
}

/// Why the host's facts could not be collected.
#[derive(Debug, Error)]
pub enum HostError {
    /// A file that every Linux host has could not be read.
    #[error("{path}: cannot be read: is /proc mounted?")]
    Read {
        /// The file.
        path: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The cgroup file systems could not be made out.
    #[error(transparent)]
    Cgroups(#[from] LayoutError),
}

impl HostFacts {
    /// Asks the kernel. A dozen short system calls; nothing here grows with the number of mounts or containers.
    pub fn collect() -> Result<Self, HostError> {
        Self::with(Layout::detect(Path::new("/"))?)
    }

    /// The same for a process that joins a running container, whose cgroups are known and whose mounts are there.
    pub fn collect_for_exec() -> Result<Self, HostError> {
        Self::with(Layout::default())
    }

    fn with(cgroups: Layout) -> Result<Self, HostError> {
        let release = nix::sys::utsname::uname().map_err(|errno| HostError::Read {
            path: "uname(2)",
            source: errno.into(),
        })?;
        Ok(Self {
            kernel: KernelVersion::parse(&release.release().to_string_lossy()),
            euid: nix::unistd::geteuid().as_raw(),
            egid: nix::unistd::getegid().as_raw(),
            in_user_namespace: in_user_namespace()?,
            namespaces: Namespaces {
                user: false,
                cgroup: false,
                time: false,
            },
            apparmor: false,
            selinux: false,
            resctrl: None,
            cgroups,
            joined: Vec::new(),
        })
    }

    /// Looks at what a configuration needs of the host, so that its validation needs no I/O. What it does not
    /// need is not asked: each question costs some microseconds of every start.
    pub fn look_at(&mut self, spec: &Spec) {
        let linux = spec.linux().as_ref();
        let entries = linux
            .and_then(|linux| linux.namespaces().as_deref())
            .unwrap_or_default();
        let offers = |kind, path| entries.iter().any(|entry| entry.typ() == kind) && exists(path);
        self.namespaces = Namespaces {
            user: offers(LinuxNamespaceType::User, "/proc/self/ns/user"),
            cgroup: offers(LinuxNamespaceType::Cgroup, "/proc/self/ns/cgroup"),
            time: offers(LinuxNamespaceType::Time, "/proc/self/timens_offsets"),
        };
        if let Some(process) = spec.process() {
            self.look_at_process(process);
        }
        let labelled = linux.is_some_and(|linux| linux.mount_label().is_some());
        self.selinux = self.selinux || (labelled && selinux());
        self.resctrl = linux
            .and_then(|linux| linux.intel_rdt().as_ref())
            .and_then(|_| ResctrlFacts::collect());
        self.joined = entries
            .iter()
            .filter_map(|entry| {
                let path = entry
                    .path()
                    .as_ref()
                    .filter(|path| !path.as_os_str().is_empty())?;
                Some(JoinedNamespace {
                    kind: entry.typ(),
                    path: path.clone(),
                    found: find(entry.typ(), path),
                })
            })
            .collect();
    }

    /// The same for a process alone, as `exec` takes it.
    pub fn look_at_process(&mut self, process: &Process) {
        self.apparmor = process.apparmor_profile().is_some()
            && fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|value| value.first() == Some(&b'Y'));
        self.selinux = process.selinux_label().is_some() && selinux();
    }

    /// Whether the unified cgroup hierarchy is the host's only one.
    pub fn unified_cgroups(&self) -> bool {
        self.cgroups.kind() == Kind::Unified
    }

    /// Whether containers made by this process are rootless: it has no privilege outside its user namespace.
    pub fn rootless(&self) -> bool {
        self.euid != 0 || self.in_user_namespace
    }
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

fn selinux() -> bool {
    exists("/sys/fs/selinux/enforce")
}

/// All namespaces are files of one file system (nsfs); equal inodes are the same namespace (namespaces(7)).
fn find(kind: LinuxNamespaceType, path: &Path) -> Joined {
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) => {
            return Joined::Missing {
                reason: crate::error::chain(&error),
            };
        }
    };
    // LinuxNamespaceType displays as the file's name below /proc/PID/ns.
    match fs::metadata(format!("/proc/self/ns/{kind}")) {
        Ok(own) if own.dev() != there.dev() => Joined::NotANamespace,
        Ok(own) if own.ino() == there.ino() => Joined::Own,
        _ => Joined::Foreign,
    }
}

/// Whether this process lives in a user namespace other than the initial one, which maps every id to itself in one
/// line (user_namespaces(7)).
pub fn in_user_namespace() -> Result<bool, HostError> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let path = "/proc/self/uid_map";
    let own = match read_text(Path::new(path)) {
        Ok(map) => !map_is_initial(&map),
        // A kernel without user namespaces has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(HostError::Read { path, source }),
    };
    Ok(*KNOWN.get_or_init(|| own))
}

fn map_is_initial(map: &str) -> bool {
    let mut lines = map.lines();
    let Some(first) = lines.next() else { return false };
    first.split_whitespace().eq(["0", "0", "4294967295"]) && lines.next().is_none()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host that has everything, and root on it.
    pub(crate) fn facts() -> HostFacts {
        HostFacts {
            kernel: KernelVersion { major: 6, minor: 18 },
            euid: 0,
            egid: 0,
            in_user_namespace: false,
            namespaces: Namespaces {
                user: true,
                cgroup: true,
                time: true,
            },
            apparmor: true,
            selinux: true,
            resctrl: Some(ResctrlFacts {
                mounted: Resctrl::at("/sys/fs/resctrl"),
                cache: true,
                bandwidth: true,
            }),
            cgroups: layout(),
            joined: Vec::new(),
        }
    }

    /// A hybrid host, as far as its mounts tell.
    fn layout() -> Layout {
        let mounts = "30 20 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        Layout::from_mountinfo(Path::new("/"), mounts, "2:memory:/\n0::/\n").unwrap()
    }

    #[test]
    fn releases_compare_by_number() {
        let kernel = KernelVersion::parse("6.18.44-fc-v669");
        assert_eq!(kernel, KernelVersion { major: 6, minor: 18 });
        assert!(kernel.at_least(6, 3) && kernel.at_least(5, 19) && !kernel.at_least(7, 0));
        assert_eq!(
            KernelVersion::parse("garbage"),
            KernelVersion { major: 0, minor: 0 }
        );
    }

    #[test]
    fn only_the_full_identity_map_is_initial() {
        assert!(map_is_initial("         0          0 4294967295\n"));
        assert!(!map_is_initial("         0     100000      65536\n"));
        assert!(!map_is_initial("0 1000 1\n1 100000 65536\n"));
        assert!(!map_is_initial(""));
    }
}
