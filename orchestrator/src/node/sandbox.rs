//! What the containers of a pod share: namespaces held by bind mounts, /dev/shm, the pod's cgroup. There is no process that holds them. Everything here blocks.

use std::path::{Path, PathBuf};

use berth_cgroups::{Cgroup, CgroupPath, Layout};
use nix::mount::{MntFlags, umount2};

use super::namespaces::{self, Wishes};
use super::paths::PodPaths;
use super::pod::Pod;
use super::volumes::{is_mount, mount_tmpfs};

/// Size of /dev/shm, as containerd has it.
const SHM: &str = "mode=1777,size=65536k";

/// Why a sandbox cannot be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file or folder.
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
    /// A system call.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: String,
        /// The system's answer.
        #[source]
        source: nix::Error,
    },
    /// A sysctl of `securityContext.sysctls`.
    #[error("securityContext.sysctls: set {name} to {value:?}")]
    Sysctl {
        /// Its name.
        name: String,
        /// The value.
        value: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A sysctl that does not belong to a namespace.
    #[error(
        "securityContext.sysctls: {name} is not a setting of a pod: only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* are"
    )]
    HostSysctl {
        /// Its name.
        name: String,
    },
    /// `setHostnameAsFQDN` asks for more than Linux takes.
    #[error(
        "setHostnameAsFQDN: {name:?} has {} characters, and a host name at most 64 characters: shorten hostname or subdomain",
        name.len()
    )]
    Hostname {
        /// The name with its domain.
        name: String,
    },
    /// The helper ended without a word.
    #[error("the helper that makes the pod's namespaces has ended before its work was done")]
    Thread,
    /// The helper process could not be started, or reached.
    #[error("run the helper that makes the pod's namespaces")]
    Helper {
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// What the helper process said.
    #[error("{0}")]
    Told(String),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] berth_cgroups::CgroupError),
    /// The users of a pod.
    #[error(transparent)]
    Ids(#[from] super::ids::IdsError),
    /// /dev/shm.
    #[error(transparent)]
    Volume(#[from] super::volumes::VolumeError),
}

pub(super) fn file_error(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> SandboxError + use<> {
    let path = path.to_owned();
    move |source| SandboxError::File { what, path, source }
}

/// The namespaces that the pod's containers join: type in OCI words, and where it is held.
pub fn shared_namespaces(pod: &Pod, paths: &PodPaths) -> Vec<(&'static str, PathBuf)> {
    let mut list = Vec::new();
    if pod.own_users() {
        list.push(("user", paths.namespace("user")));
    }
    if !pod.host_network() {
        list.push(("network", paths.netns.clone()));
        list.push(("uts", paths.namespace("uts")));
    }
    if !pod.spec().host_ipc.unwrap_or(false) {
        list.push(("ipc", paths.namespace("ipc")));
    }
    list
}

/// Makes the folders, namespaces and /dev/shm of a pod; can be repeated. `ids` is the first of the host's ids that are
/// the pod's, if it has users of its own.
///
/// # Errors
/// [`SandboxError`].
pub fn set_up(pod: &Pod, paths: &PodPaths, node: &str, ids: Option<u32>) -> Result<(), SandboxError> {
    let netns_dir = paths.netns.parent().unwrap_or(&paths.run).to_owned();
    for dir in [
        &paths.run.join("ns"),
        &paths.run.join("containers"),
        &paths.data,
        &netns_dir,
    ] {
        std::fs::create_dir_all(dir).map_err(file_error("make the folder", dir))?;
    }
    let wanted = shared_namespaces(pod, paths);
    for (_, place) in &wanted {
        if !place.exists() {
            std::fs::write(place, "").map_err(file_error("make the file", place))?;
        }
    }
    let held = wanted.iter().filter(|(_, place)| is_namespace(place)).count();
    if held < wanted.len() {
        // They belong together: those that were held before the set-up was cut off are not mixed with new ones.
        for (_, place) in wanted.iter().filter(|(_, place)| is_namespace(place)) {
            unmount_below(place)?;
        }
        let wishes = Wishes {
            kinds: wanted.iter().map(|(kind, _)| (*kind).to_owned()).collect(),
            hostname: super::etc::hostname(pod, node)?,
            sysctls: sysctls(pod)?,
        };
        match ids {
            Some(first) => namespaces::of_own_users(&wanted, &wishes, first)?,
            None => namespaces::of_host(wanted, wishes)?,
        }
    }
    let shm = paths.run.join("shm");
    std::fs::create_dir_all(&shm).map_err(file_error("make the folder", &shm))?;
    if !is_mount(&shm) {
        let owner = ids.map_or_else(String::new, |first| format!(",uid={first},gid={first}"));
        mount_tmpfs(&shm, &format!("{SHM}{owner}"))?;
    }
    Ok(())
}

/// Whether a namespace is mounted there.
fn is_namespace(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    // Namespace files are on nsfs, a device of its own.
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    device(path).is_some() && device(path) == device(Path::new("/proc/self/ns/mnt"))
}

/// The pod's sysctls, checked to belong to its namespaces.
fn sysctls(pod: &Pod) -> Result<Vec<(String, String)>, SandboxError> {
    let security = pod.spec().security_context.as_ref();
    let mut list = Vec::new();
    for sysctl in security.and_then(|s| s.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let fits = ["net.", "kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|p| name.starts_with(p))
            || name == "kernel.sem";
        if !fits || name.contains("..") {
            return Err(SandboxError::HostSysctl { name });
        }
        list.push((name, sysctl.value.clone()));
    }
    Ok(list)
}

/// The pod's cgroup, below which the containers' are.
pub fn cgroup_path(parent: &str, uid: &str) -> String {
    format!("/{}/pod{uid}", parent.trim_matches('/'))
}

/// Writes `memory.min` of the pod's cgroup and of the one above all pods, in bytes, where there is cgroup v2. A kernel
/// without it protects nothing.
pub fn protect(layout: &Layout, parent: &str, uid: &str, own: i64, all: i64) {
    let above = format!("/{}", parent.trim_matches('/'));
    for (path, bytes) in [(above, all), (cgroup_path(parent, uid), own)] {
        for directory in open_cgroup(layout, &path)
            .iter()
            .flat_map(Cgroup::paths)
            .map(|(_, p)| p)
        {
            if let Err(error) = std::fs::write(directory.join("memory.min"), bytes.to_string()) {
                tracing::debug!(path = %directory.display(), %error, "set memory.min");
            }
        }
    }
}

/// Kills what is in the pod's cgroup, and removes it. Gone already is success.
///
/// # Errors
/// [`SandboxError::Cgroup`].
pub fn remove_cgroup(layout: &Layout, parent: &str, uid: &str) -> Result<(), SandboxError> {
    let Some(cgroup) = open_cgroup(layout, &cgroup_path(parent, uid)) else {
        return Ok(());
    };
    cgroup.kill()?;
    cgroup.delete()?;
    Ok(())
}

/// Removes a cgroup that has neither processes nor cgroups; any other stays.
pub fn remove_empty_cgroup(layout: &Layout, path: &str) {
    for (controller, directory) in open_cgroup(layout, path).iter().flat_map(Cgroup::paths) {
        // rmdir(2) itself refuses one that is in use.
        if let Err(error) = std::fs::remove_dir(&directory) {
            tracing::debug!(controller, path = %directory.display(), %error, "the cgroup stays");
        }
    }
}

fn open_cgroup(layout: &Layout, path: &str) -> Option<Cgroup> {
    let path = CgroupPath::parse(path).ok()?;
    Cgroup::open(layout, &path)
        .inspect_err(|error| tracing::debug!(%error, "the cgroup is gone already"))
        .ok()
}

/// Unmounts everything below `dir`, innermost first, and `dir` itself if it is a mount.
///
/// # Errors
/// [`SandboxError::System`] naming the mount that stays.
pub fn unmount_below(dir: &Path) -> Result<(), SandboxError> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(file_error("read", Path::new("/proc/thread-self/mountinfo")))?;
    let mut places: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|place| place.starts_with(dir))
        .collect();
    places.reverse();
    for place in places {
        match umount2(&place, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(source) => {
                return Err(SandboxError::System {
                    what: format!("unmount {}", place.display()),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Octal escapes of proc(5) tables.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut n = 0;
    while n < bytes.len() {
        let code = (bytes[n] == b'\\').then(|| text.get(n + 1..n + 4)).flatten();
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            out.push(byte);
            n += 4;
        } else {
            out.push(bytes[n]);
            n += 1;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Lets go of the network namespace. Gone already is success.
///
/// # Errors
/// [`SandboxError`].
pub fn release_netns(paths: &PodPaths) -> Result<(), SandboxError> {
    match umount2(&paths.netns, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(source) => {
            let what = format!("unmount the network namespace {}", paths.netns.display());
            return Err(SandboxError::System { what, source });
        }
    }
    remove(&paths.netns, |path| std::fs::remove_file(path))
}

/// Removes the pod's directories, but not its logs.
///
/// # Errors
/// [`SandboxError::File`].
pub fn remove_dirs(paths: &PodPaths) -> Result<(), SandboxError> {
    for dir in [&paths.data, &paths.run] {
        remove(dir, |path| std::fs::remove_dir_all(path))?;
    }
    Ok(())
}

/// Removes the pod's logs.
///
/// # Errors
/// [`SandboxError::File`].
pub fn remove_logs(paths: &PodPaths) -> Result<(), SandboxError> {
    remove(&paths.logs, |path| std::fs::remove_dir_all(path))
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), SandboxError> {
    match how(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}
