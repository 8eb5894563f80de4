//! What the parent does.

use std::fmt;
use std::path::PathBuf;

use crate::wire::{Slot, sync};

/// A line of an id map (user_namespaces(7)).
#[derive(Debug, std::clone::Clone, Copy, PartialEq, Eq)]
pub struct IdMapping {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// Maps of an idmapped mount (mount_setattr(2)).
#[derive(Debug, std::clone::Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
    /// On the whole subtree.
    pub all: bool,
    /// The namespace whose maps they are, where it is there already.
    pub of: Option<PathBuf>,
}

/// Where a namespace to join is found.
#[derive(Debug, std::clone::Clone, PartialEq, Eq)]
pub enum JoinSource {
    /// A path of the configuration.
    Path(PathBuf),
    /// All the given kinds of a process.
    Process(i32),
}

/// A namespace to join.
#[derive(Debug, std::clone::Clone, PartialEq, Eq)]
pub struct Join {
    /// Where it is.
    pub source: JoinSource,
    /// CLONE_NEW* kinds.
    pub kinds: u64,
}

/// How the first process is made.
#[derive(Debug, std::clone::Clone, PartialEq, Eq, Default)]
pub struct Clone {
    /// CLONE_NEW* kinds that clone3(2) makes.
    pub namespaces: u64,
    /// The network namespace is made beside (`berth_sys::network`), and entered by the first process.
    pub network: bool,
    /// Namespaces joined before.
    pub joins: Vec<Join>,
    /// Born in the container's cgroup (CLONE_INTO_CGROUP).
    pub into_cgroup: bool,
    /// It waits for the parent before it runs the init program.
    pub waits: bool,
    /// It becomes root of another user namespace.
    pub becomes_root: bool,
    /// The user namespace is made by the joining helper, because the time namespace must be made in it.
    pub helper_user: bool,
    /// A new time namespace: clone3(2) cannot make one whose offsets are still to be set.
    pub helper_time: bool,
}

/// The source of a bind mount that is below the container's root, where earlier mounts may cover it.
#[derive(Debug, std::clone::Clone, PartialEq, Eq)]
pub struct Inside {
    /// Which the init asks for.
    pub slot: u32,
    /// The host path.
    pub path: PathBuf,
    /// The same below the container's root.
    pub place: PathBuf,
    /// With everything below.
    pub recursive: bool,
    /// A symbolic link at the place itself is what is mounted.
    pub nofollow: bool,
    /// Ids to map.
    pub idmap: Option<IdMaps>,
}

/// One step of the parent.
#[derive(Debug, std::clone::Clone, PartialEq, Eq)]
pub enum HostStep {
    /// Make a detached mount of a host path, with the parent's rights.
    Source {
        /// Which inherited descriptor it becomes.
        slot: u32,
        /// The host path.
        path: PathBuf,
        /// With everything below.
        recursive: bool,
        /// Ids to map.
        idmap: Option<IdMaps>,
        /// Out of the host's peer groups.
        slave: bool,
        /// A symbolic link at the path itself is what is mounted.
        nofollow: bool,
    },
    /// Make a detached mount of a place in the container when the init asks for it, with the parent's rights.
    SourceInside(Inside),
    /// Run on these processors until the process is made, which begins on them.
    Affinity {
        /// One bit a processor.
        mask: Vec<u8>,
    },
    /// Make a place for a mount that CRIU will restore.
    MountPoint {
        /// The root file system, or the source of the bind mount that it is in.
        base: PathBuf,
        /// Place below it.
        path: PathBuf,
        /// A file or folder as this one is; a folder without one.
        like: Option<PathBuf>,
    },
    /// Let CRIU make the first process and all others.
    Restore(Box<super::Restore>),
    /// Bring the loopback device of the restored network namespace up.
    Loopback,
    /// Make the first process.
    Clone(Clone),
    /// Write the id maps of its new user namespace.
    IdMaps {
        /// User ids.
        uids: Vec<IdMapping>,
        /// Group ids.
        gids: Vec<IdMapping>,
    },
    /// Write the offsets of its new time namespace (time_namespaces(7)).
    TimeOffsets {
        /// Contents of /proc/PID/timens_offsets.
        offsets: String,
    },
    /// Put it into the container's cgroups: all of them, or those it was not born in.
    Place {
        /// All of them.
        all: bool,
    },
    /// Move network devices into its network namespace.
    NetDevices {
        /// Their names, and their names in the container.
        devices: Vec<(String, String)>,
    },
    /// Set how likely the kernel kills it when memory is short.
    OomScore {
        /// /proc/PID/oom_score_adj.
        score: i32,
    },
    /// Set a resource limit, with the parent's rights.
    Limit {
        /// RLIMIT_* number.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// Let it run the init program.
    Release,
    /// Wait until it has reached a point.
    Await {
        /// One of the constants in `wire::sync`.
        point: u32,
    },
    /// Run the hooks of the runtime namespace: prestart, createRuntime.
    RuntimeHooks,
    /// Write the state document for hooks inside the container.
    Document {
        /// Which.
        slot: Slot,
        /// The status in it.
        status: &'static str,
    },
    /// Let it go on from the point it has reached.
    Resume,
    /// Wait until it is parked.
    AwaitReady,
    /// Wait until it has become the user's program.
    AwaitExec,
}

/// Names of the kinds in `kinds`.
fn kinds(kinds: u64) -> String {
    const NAMES: [(u64, &str); 8] = [
        (0x0002_0000, "mount"),
        (0x0200_0000, "cgroup"),
        (0x0400_0000, "uts"),
        (0x0800_0000, "ipc"),
        (0x1000_0000, "user"),
        (0x2000_0000, "pid"),
        (0x4000_0000, "network"),
        (0x0000_0080, "time"),
    ];
    let names: Vec<_> = NAMES
        .iter()
        .filter(|(kind, _)| kinds & kind != 0)
        .map(|(_, name)| *name)
        .collect();
    names.join(",")
}

fn maps(f: &mut fmt::Formatter<'_>, maps: &[IdMapping]) -> fmt::Result {
    let lines: Vec<_> = maps
        .iter()
        .map(|map| format!("{}:{}:{}", map.container, map.host, map.size))
        .collect();
    f.write_str(&lines.join(","))
}

fn id_maps(f: &mut fmt::Formatter<'_>, idmap: Option<&IdMaps>) -> fmt::Result {
    let Some(IdMaps { uids, gids, all, of }) = idmap else {
        return Ok(());
    };
    if let Some(path) = of {
        write!(f, " ids={}", path.display())?;
    }
    f.write_str(" uids=")?;
    maps(f, uids)?;
    f.write_str(" gids=")?;
    maps(f, gids)?;
    write!(f, " all={all}")
}

impl fmt::Display for Clone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clone new={}", kinds(self.namespaces))?;
        for join in &self.joins {
            match &join.source {
                JoinSource::Path(path) => write!(f, " join={}:{}", kinds(join.kinds), path.display())?,
                JoinSource::Process(_) => write!(f, " join={}:container", kinds(join.kinds))?,
            }
        }
        for (name, on) in [
            ("network", self.network),
            ("into-cgroup", self.into_cgroup),
            ("waits", self.waits),
            ("becomes-root", self.becomes_root),
            ("helper-makes-user", self.helper_user),
            ("helper-makes-time", self.helper_time),
        ] {
            if on {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for HostStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source {
                slot,
                path,
                recursive,
                idmap,
                slave,
                nofollow,
            } => {
                write!(
                    f,
                    "Source slot={slot} path={} recursive={recursive}",
                    path.display()
                )?;
                if *nofollow {
                    write!(f, " nofollow")?;
                }
                if *slave {
                    f.write_str(" slave")?;
                }
                id_maps(f, idmap.as_ref())
            }
            Self::SourceInside(inside) => {
                let (slot, place) = (inside.slot, inside.place.display());
                write!(
                    f,
                    "SourceInside slot={slot} place={place} recursive={}",
                    inside.recursive
                )?;
                if inside.nofollow {
                    write!(f, " nofollow")?;
                }
                id_maps(f, inside.idmap.as_ref())
            }
            Self::Affinity { mask } => write!(f, "Affinity mask={mask:x?}"),
            Self::MountPoint { base, path, like } => {
                write!(f, "MountPoint base={} path={}", base.display(), path.display())?;
                match like {
                    Some(source) => write!(f, " like={}", source.display()),
                    None => Ok(()),
                }
            }
            Self::Restore(restore) => write!(
                f,
                "Restore images={} rootfs={}",
                restore.images.images.display(),
                restore.rootfs.display()
            ),
            Self::Loopback => f.write_str("Loopback"),
            Self::Clone(clone) => clone.fmt(f),
            Self::IdMaps { uids, gids } => {
                f.write_str("IdMaps uids=")?;
                maps(f, uids)?;
                f.write_str(" gids=")?;
                maps(f, gids)
            }
            Self::TimeOffsets { offsets } => write!(f, "TimeOffsets {:?}", offsets.trim_end()),
            Self::Place { all } => write!(f, "Place all={all}"),
            Self::NetDevices { devices } => {
                f.write_str("NetDevices")?;
                devices
                    .iter()
                    .try_for_each(|(name, inside)| write!(f, " {name}:{inside}"))
            }
            Self::OomScore { score } => write!(f, "OomScore score={score}"),
            Self::Limit { resource, soft, hard } => {
                write!(f, "Limit resource={resource} soft={soft:#x} hard={hard:#x}")
            }
            Self::Release => f.write_str("Release"),
            Self::Await { point } => match *point {
                sync::MOUNTED => f.write_str("Await mounted"),
                sync::NAMESPACES => f.write_str("Await namespaces"),
                _ => f.write_str("Await ready"),
            },
            Self::RuntimeHooks => f.write_str("RuntimeHooks"),
            Self::Document { slot, status } => write!(f, "Document slot={slot:?} status={status}"),
            Self::Resume => f.write_str("Resume"),
            Self::AwaitReady => f.write_str("AwaitReady"),
            Self::AwaitExec => f.write_str("AwaitExec"),
        }
    }
}
