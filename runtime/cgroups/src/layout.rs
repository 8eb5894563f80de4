//! Which hierarchies the host has, and where.

use std::path::{Path, PathBuf};

use berth_sys::files::read_text;
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

/// The three ways a host shows its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One cgroup2 tree.
    Unified,
    /// v1 hierarchies, and a cgroup2 tree beside them.
    Hybrid,
    /// v1 hierarchies alone.
    Legacy,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The cgroup that the mount shows as its root: `/`, unless seen from inside a container without a
    /// cgroup namespace.
    pub root: PathBuf,
    /// v1: the controllers bound to it, or `name=systemd`. Empty for cgroup2, whose controllers are read
    /// from `cgroup.controllers` where they are needed.
    pub controllers: Vec<String>,
    /// The calling process's cgroup in it, as in /proc/self/cgroup.
    pub own: PathBuf,
}

/// The host's hierarchies, as seen by the calling process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    unified: Option<Hierarchy>,
    legacy: Vec<Hierarchy>,
}

/// Why the host's cgroups could not be made out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of /proc could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Neither cgroup2 nor a v1 hierarchy is mounted.
    #[error("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    None,
}

impl Hierarchy {
    /// Where `path`, a cgroup's path as /proc/PID/cgroup has it, lies in the file system; `None` if the
    /// mount does not show that part of the hierarchy.
    pub fn locate(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.root).ok()?;
        // "/.." is how the kernel shows a cgroup outside of the reader's cgroup namespace.
        if below.components().any(|part| part.as_os_str() == "..") {
            return None;
        }
        Some(if below.as_os_str().is_empty() {
            self.mount.clone()
        } else {
            self.mount.join(below)
        })
    }
}

impl Layout {
    /// Looks at the host below `root` (`/`, or a directory that stands for it in a test).
    ///
    /// The usual mount points are probed first, which costs the same however many mounts there are;
    /// /proc/self/mountinfo is read only where they are not in use.
    ///
    /// # Errors
    /// [`LayoutError`] if /proc cannot be read or no cgroup file system is mounted.
    pub fn detect(root: &Path) -> Result<Self, LayoutError> {
        let own = read(&root.join("proc/self/cgroup"))?;
        if let Some(found) = Self::probe(root, &own, magic) {
            return Ok(found);
        }
        Self::from_mountinfo(root, &read(&root.join("proc/self/mountinfo"))?, &own)
    }

    /// The layout if every hierarchy of `own` (/proc/self/cgroup) is mounted where distributions mount it.
    fn probe(root: &Path, own: &str, magic: impl Fn(&Path) -> Option<FsType>) -> Option<Self> {
        let base = root.join("sys/fs/cgroup");
        let mut layout = Self {
            unified: None,
            legacy: Vec::new(),
        };
        let pure = magic(&base)? == CGROUP2_SUPER_MAGIC;
        for (controllers, path) in own.lines().filter_map(own_line) {
            let mut found = Hierarchy {
                mount: base.clone(),
                root: "/".into(),
                controllers,
                own: path,
            };
            if found.controllers.is_empty() {
                if !pure {
                    found.mount.push("unified");
                    match magic(&found.mount) {
                        Some(kind) if kind == CGROUP2_SUPER_MAGIC => {}
                        // A v1-only host lists the cgroup2 hierarchy, too, without mounting it.
                        _ if magic(&found.mount).is_none() => continue,
                        _ => return None,
                    }
                }
                found.locate_root()?;
                layout.unified = Some(found);
            } else if !pure {
                found
                    .mount
                    .push(found.controllers.join(",").trim_start_matches("name="));
                if magic(&found.mount)? != CGROUP_SUPER_MAGIC {
                    return None;
                }
                found.locate_root()?;
                layout.legacy.push(found);
            }
        }
        (layout.unified.is_some() || !layout.legacy.is_empty()).then_some(layout)
    }

    /// The layout that /proc/self/mountinfo (proc(5)) and /proc/self/cgroup (cgroups(7)) describe, with
    /// mount points taken below `root`. Pure.
    ///
    /// # Errors
    /// [`LayoutError::None`] if `mountinfo` has no cgroup file system.
    pub fn from_mountinfo(root: &Path, mountinfo: &str, own: &str) -> Result<Self, LayoutError> {
        let owned: Vec<(Vec<String>, PathBuf)> = own.lines().filter_map(own_line).collect();
        let mut layout = Self {
            unified: None,
            legacy: Vec::new(),
        };
        for (found, unified) in mountinfo
            .lines()
            .filter_map(|line| mount_line(root, line, &owned))
        {
            if unified {
                layout.unified.get_or_insert(found);
            } else if !layout
                .legacy
                .iter()
                .any(|known| known.controllers == found.controllers)
            {
                layout.legacy.push(found);
            }
        }
        if layout.unified.is_none() && layout.legacy.is_empty() {
            return Err(LayoutError::None);
        }
        Ok(layout)
    }

    /// Unified, hybrid or legacy.
    pub fn kind(&self) -> Kind {
        match (&self.unified, self.legacy.is_empty()) {
            (Some(_), true) => Kind::Unified,
            (Some(_), false) => Kind::Hybrid,
            (None, _) => Kind::Legacy,
        }
    }

    /// Whether there is one cgroup2 tree and nothing else.
    pub fn is_unified(&self) -> bool {
        self.kind() == Kind::Unified
    }

    /// The cgroup2 tree, if it is mounted.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.unified.as_ref()
    }

    /// The v1 hierarchies; empty on a unified host.
    pub fn legacy(&self) -> &[Hierarchy] {
        &self.legacy
    }
}

impl Hierarchy {
    /// Finds out cheaply whether the mount shows the hierarchy from its root: it does if the caller is in
    /// the root, or its cgroup is found where it then must be. `None` leaves the question to mountinfo.
    fn locate_root(&self) -> Option<()> {
        let seen = self.locate(&self.own)?;
        (self.own == Path::new("/") || seen.is_dir()).then_some(())
    }
}

fn read(path: &Path) -> Result<String, LayoutError> {
    read_text(path).map_err(|source| LayoutError::Read {
        path: path.to_owned(),
        source,
    })
}

fn magic(path: &Path) -> Option<FsType> {
    loop {
        match statfs(path) {
            Ok(found) => return Some(found.filesystem_type()),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// `4:memory:/a` is memory at /a; `0::/` is cgroup2, without names.
fn own_line(line: &str) -> Option<(Vec<String>, PathBuf)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let controllers = controllers
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Some((controllers, path.into()))
}

/// One line of mountinfo, if it is a cgroup mount; true for cgroup2.
fn mount_line(root: &Path, line: &str, owned: &[(Vec<String>, PathBuf)]) -> Option<(Hierarchy, bool)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (shown, mount) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or_default();
    if kind != "cgroup" && kind != "cgroup2" {
        return None;
    }
    let (controllers, own) = if kind == "cgroup2" {
        owned.iter().find(|(names, _)| names.is_empty())?.clone()
    } else {
        // The super block's options list the controllers among other words; /proc/self/cgroup knows which
        // of them are controllers, and in which order.
        let set: Vec<&str> = options.split(',').collect();
        owned
            .iter()
            .find(|(names, _)| !names.is_empty() && names.iter().all(|name| set.contains(&name.as_str())))?
            .clone()
    };
    let mount = root.join(mount.trim_start_matches('/'));
    Some((
        Hierarchy {
            mount,
            root: shown.into(),
            controllers,
            own,
        },
        kind == "cgroup2",
    ))
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(byte) = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            text.push(char::from(byte));
            text.push_str(&part[3..]);
        } else {
            text.push('\\');
            text.push_str(part);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str = "9:name=systemd:/user\n4:memory:/m/n\n1:cpu,cpuacct:/\n0::/u\n";

    #[test]
    fn hybrid_from_mountinfo() {
        let layout = Layout::from_mountinfo(Path::new("/t"), HYBRID, OWN).unwrap();
        assert_eq!(layout.kind(), Kind::Hybrid);
        let names: Vec<_> = layout
            .legacy()
            .iter()
            .map(|h| (h.controllers.join("+"), h.mount.clone()))
            .collect();
        assert_eq!(
            names,
            [
                (
                    "cpu+cpuacct".to_owned(),
                    PathBuf::from("/t/sys/fs/cgroup/cpu,cpuacct")
                ),
                ("memory".to_owned(), PathBuf::from("/t/sys/fs/cgroup/memory")),
                (
                    "name=systemd".to_owned(),
                    PathBuf::from("/t/sys/fs/cgroup/systemd")
                ),
            ]
        );
        assert_eq!(layout.legacy()[1].own, Path::new("/m/n"));
        assert_eq!(layout.unified().unwrap().own, Path::new("/u"));
    }

    #[test]
    fn unified_and_legacy_from_mountinfo() {
        let one = "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            Layout::from_mountinfo(Path::new("/"), one, "0::/\n")
                .unwrap()
                .kind(),
            Kind::Unified
        );
        let v1: String = HYBRID
            .lines()
            .filter(|line| !line.contains("cgroup2"))
            .fold(String::new(), |all, line| all + line + "\n");
        assert_eq!(
            Layout::from_mountinfo(Path::new("/"), &v1, OWN).unwrap().kind(),
            Kind::Legacy
        );
        assert!(matches!(
            Layout::from_mountinfo(Path::new("/"), "30 1 0:1 / / rw - ext4 /dev/vda rw\n", "0::/\n"),
            Err(LayoutError::None)
        ));
    }

    #[test]
    fn mounts_seen_from_inside_a_container() {
        let line = "50 40 0:37 /docker/77 /sys/fs/cgroup/my\\040memory ro - cgroup cgroup rw,memory\n";
        let layout = Layout::from_mountinfo(Path::new("/"), line, "4:memory:/docker/77/sub\n").unwrap();
        let memory = &layout.legacy()[0];
        assert_eq!(memory.mount, Path::new("/sys/fs/cgroup/my memory"));
        assert_eq!(
            memory.locate(&memory.own).unwrap(),
            Path::new("/sys/fs/cgroup/my memory/sub")
        );
        assert_eq!(memory.locate(Path::new("/docker/78")), None);
        assert_eq!(memory.locate(Path::new("/docker/77/../78")), None);
    }

    #[test]
    fn probe_needs_every_hierarchy_in_its_usual_place() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        let tmpfs = nix::sys::statfs::TMPFS_MAGIC;
        let known = |path: &Path| match path.file_name().unwrap().to_str().unwrap() {
            "cgroup" => Some(tmpfs),
            "unified" => Some(CGROUP2_SUPER_MAGIC),
            "memory" | "systemd" => Some(CGROUP_SUPER_MAGIC),
            _ => None,
        };
        let layout = Layout::probe(root, "4:memory:/\n9:name=systemd:/\n0::/\n", known).unwrap();
        assert_eq!(layout.kind(), Kind::Hybrid);
        assert_eq!(layout.legacy().len(), 2);
        assert_eq!(Layout::probe(root, "4:memory:/\n5:pids:/\n0::/\n", known), None);
        // The caller's own cgroup is not where a full mount would show it: mountinfo must decide.
        assert_eq!(Layout::probe(root, "4:memory:/elsewhere\n", known), None);
    }

    #[test]
    fn probe_agrees_with_mountinfo_here() {
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        let own = read("/proc/self/cgroup");
        let Some(mut quick) = Layout::probe(Path::new("/"), &own, magic) else {
            return;
        };
        let mut slow = Layout::from_mountinfo(Path::new("/"), &read("/proc/self/mountinfo"), &own).unwrap();
        quick.legacy.sort_by(|a, b| a.mount.cmp(&b.mount));
        slow.legacy.sort_by(|a, b| a.mount.cmp(&b.mount));
        assert_eq!(quick, slow);
    }
}
