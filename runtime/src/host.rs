//! What the host can do, collected once before anything is planned, so that validation and planning stay pure.

use std::fs;
use std::io;
use std::path::Path;

use thiserror::Error;

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
    /// Namespace kinds the kernel offers.
    pub namespaces: Namespaces,
    /// Whether AppArmor is enabled (`/sys/module/apparmor/parameters/enabled`).
    pub apparmor: bool,
    /// Whether SELinux is enabled (selinuxfs is mounted).
    pub selinux: bool,
    /// Whether the resctrl file system is mounted (Intel RDT, AMD QoS).
    pub resctrl: bool,
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
}

impl HostFacts {
    /// Asks the kernel. A dozen short system calls; nothing here grows with the number of mounts or containers.
    pub fn collect() -> Result<Self, HostError> {
        let release = nix::sys::utsname::uname().map_err(|errno| HostError::Read {
            path: "uname(2)",
            source: errno.into(),
        })?;
        let exists = |path: &str| Path::new(path).exists();
        Ok(Self {
            kernel: KernelVersion::parse(&release.release().to_string_lossy()),
            euid: nix::unistd::geteuid().as_raw(),
            egid: nix::unistd::getegid().as_raw(),
            in_user_namespace: in_user_namespace()?,
            namespaces: Namespaces {
                user: exists("/proc/self/ns/user"),
                cgroup: exists("/proc/self/ns/cgroup"),
                time: exists("/proc/self/timens_offsets"),
            },
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|value| value.first() == Some(&b'Y')),
            selinux: exists("/sys/fs/selinux/enforce"),
            resctrl: exists("/sys/fs/resctrl/schemata"),
        })
    }

    /// Whether containers made by this process are rootless: it has no privilege outside its user namespace.
    pub fn rootless(&self) -> bool {
        self.euid != 0 || self.in_user_namespace
    }
}

/// The initial user namespace maps every id to itself in one line (user_namespaces(7)).
fn in_user_namespace() -> Result<bool, HostError> {
    let path = "/proc/self/uid_map";
    match fs::read_to_string(path) {
        Ok(map) => Ok(!map_is_initial(&map)),
        // A kernel without user namespaces has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(HostError::Read { path, source }),
    }
}

fn map_is_initial(map: &str) -> bool {
    let mut lines = map.lines();
    let Some(first) = lines.next() else { return false };
    first.split_whitespace().eq(["0", "0", "4294967295"]) && lines.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

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
