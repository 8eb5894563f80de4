//! The mounts of a container's root, as the snapshotter describes them: overlay, bind, or any file system.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The root's name in the bundle.
pub const DIR: &str = "rootfs";

/// mount(2) takes one page of options; the rest is kept free as containerd does.
const MAX_DATA: usize = 4096 - 512;

/// A mount that could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The target, or the folder that lower layers share.
    #[error("{what} {}", path.display())]
    Folder {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A target that leads out of the root.
    #[error("rootfs[{index}].target: {target:?} must not have `..`")]
    Target {
        /// Which mount.
        index: usize,
        /// The target.
        target: String,
    },
    /// An option that needs more than mount(2).
    #[error("rootfs[{index}].options: `loop` is not supported: attach {source_path} to a loop device first")]
    Loop {
        /// Which mount.
        index: usize,
        /// What was to be attached.
        source_path: String,
    },
    /// mount(2).
    #[error("rootfs[{index}]: mount {kind} {from} onto {} with {options:?}", target.display())]
    Mount {
        /// Which mount.
        index: usize,
        /// The file system.
        kind: String,
        /// Its source.
        from: String,
        /// Where.
        target: PathBuf,
        /// The options, as given.
        options: Vec<String>,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// umount2(2).
    #[error("unmount {}", path.display())]
    Unmount {
        /// What.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

/// Mounts everything onto `root`, which is made if there is anything to mount. What was mounted is taken away again
/// on failure.
///
/// # Errors
/// [`MountError`].
pub fn mount_all(mounts: &[Mount], root: &Path) -> Result<(), MountError> {
    if mounts.is_empty() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().mode(0o711).create(root);
    if let Err(source) = made
        && source.kind() != std::io::ErrorKind::AlreadyExists
    {
        let path = root.to_owned();
        return Err(MountError::Folder {
            what: "create",
            path,
            source,
        });
    }
    for (index, one) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(index, one, root) {
            // Best effort: the error that led here is the one to tell.
            let _ = unmount(root);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(index: usize, one: &Mount, root: &Path) -> Result<(), MountError> {
    let target = target(index, &one.target, root)?;
    let Parsed {
        flags,
        propagation,
        data,
        looped,
    } = parse(&one.options);
    if looped {
        return Err(MountError::Loop {
            index,
            source_path: one.source.clone(),
        });
    }
    let failed = |source| MountError::Mount {
        index,
        kind: one.type_.clone(),
        from: one.source.clone(),
        target: target.clone(),
        options: one.options.clone(),
        source,
    };
    let call = |kind: &str, flags, data: &str| {
        let kind = (!kind.is_empty()).then_some(kind);
        let data = (!data.is_empty()).then_some(data);
        mount(Some(one.source.as_str()), &target, kind, flags, data)
    };
    let bind = flags.contains(MsFlags::MS_BIND);
    if bind {
        // The first call ignores all flags but these; the second one sets them.
        let only = MsFlags::MS_BIND | MsFlags::MS_REC;
        call("", flags & only, "").map_err(failed)?;
        if !(flags & !only).is_empty() {
            call("", flags | MsFlags::MS_REMOUNT, "").map_err(failed)?;
        }
    } else if data.len() > MAX_DATA {
        let (dir, data) = shortened(&data);
        let here = std::env::current_dir().and_then(|here| std::env::set_current_dir(&dir).map(|()| here));
        let here = here.map_err(|source| MountError::Folder {
            what: "go to the layers in",
            path: dir.clone(),
            source,
        })?;
        let mounted = call(&one.type_, flags, &data);
        // The bundle is still there: it was the working directory a moment ago.
        let _ = std::env::set_current_dir(here);
        mounted.map_err(failed)?;
    } else {
        call(&one.type_, flags, &data).map_err(failed)?;
    }
    for flag in propagation {
        mount(None::<&str>, &target, None::<&str>, flag, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

/// The place of a mount below the root.
fn target(index: usize, target: &str, root: &Path) -> Result<PathBuf, MountError> {
    let below = Path::new(target.trim_start_matches('/'));
    if below
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(MountError::Target {
            index,
            target: target.to_owned(),
        });
    }
    Ok(root.join(below))
}

#[derive(Debug)]
struct Parsed {
    flags: MsFlags,
    propagation: Vec<MsFlags>,
    data: String,
    looped: bool,
}

/// Options of fstab(5) that are flags of mount(2): name, flag, whether it is set or taken away.
const FLAGS: [(&str, MsFlags, bool); 25] = [
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("remount", MsFlags::MS_REMOUNT, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

const PROPAGATION: [(&str, MsFlags); 8] = [
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// Sorts options into flags, propagation, and data for the file system.
fn parse(options: &[String]) -> Parsed {
    let mut parsed = Parsed {
        flags: MsFlags::empty(),
        propagation: Vec::new(),
        data: String::new(),
        looped: false,
    };
    for option in options {
        if let Some((_, flag, set)) = FLAGS.iter().find(|(name, ..)| name == option) {
            parsed.flags.set(*flag, *set);
        } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| name == option) {
            parsed.propagation.push(*flag);
        } else if option == "loop" {
            parsed.looped = true;
        } else {
            if !parsed.data.is_empty() {
                parsed.data.push(',');
            }
            parsed.data.push_str(option);
        }
    }
    parsed
}

/// Overlay options with many layers made short: the folder that all of `lowerdir` are below, and the data with paths
/// relative to it. The shim has one thread, so it may go there for the call.
fn shortened(data: &str) -> (PathBuf, String) {
    let root = PathBuf::from("/");
    let Some(lower) = data
        .split(',')
        .find_map(|option| option.strip_prefix("lowerdir="))
    else {
        return (root, data.to_owned());
    };
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = match layers.first().and_then(|first| first.parent()) {
        Some(dir) if dir.is_absolute() => dir,
        _ => return (root, data.to_owned()),
    };
    while !layers
        .iter()
        .all(|layer| layer.starts_with(common) && *layer != common)
    {
        match common.parent() {
            Some(above) => common = above,
            None => return (root, data.to_owned()),
        }
    }
    let relative: Vec<String> = layers
        .iter()
        .filter_map(|layer| layer.strip_prefix(common).ok())
        .map(|layer| layer.display().to_string())
        .collect();
    let options: Vec<String> = data
        .split(',')
        .map(|option| {
            if option.starts_with("lowerdir=") {
                format!("lowerdir={}", relative.join(":"))
            } else {
                option.to_owned()
            }
        })
        .collect();
    (common.to_owned(), options.join(","))
}

/// Takes away every mount that lies on `path`, and those below that hold it.
///
/// # Errors
/// [`MountError::Unmount`].
pub fn unmount(path: &Path) -> Result<(), MountError> {
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing (more) is mounted there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            // Mounts below it, or somebody looks into it: it goes when they are done.
            Err(Errno::EBUSY) => {
                let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
                umount2(path, flags).map_err(|source| MountError::Unmount {
                    path: path.to_owned(),
                    source,
                })?;
            }
            Err(source) => {
                return Err(MountError::Unmount {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted() {
        let options = [
            "rbind",
            "ro",
            "nosuid",
            "suid",
            "rprivate",
            "lowerdir=/a:/b",
            "volatile",
        ];
        let parsed = parse(&options.map(str::to_owned));
        assert_eq!(
            parsed.flags,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
        );
        assert_eq!(parsed.propagation, [MsFlags::MS_PRIVATE | MsFlags::MS_REC]);
        assert_eq!(parsed.data, "lowerdir=/a:/b,volatile");
    }

    #[test]
    fn many_layers_are_made_relative() {
        let (dir, data) = shortened("upperdir=/s/9/fs,workdir=/s/9/work,lowerdir=/s/1/fs:/s/22/fs");
        assert_eq!(dir, Path::new("/s"));
        assert_eq!(data, "upperdir=/s/9/fs,workdir=/s/9/work,lowerdir=1/fs:22/fs");
        let (dir, data) = shortened("lowerdir=/s/1:/s/1/fs");
        assert_eq!(
            (dir.as_path(), data.as_str()),
            (Path::new("/s"), "lowerdir=1:1/fs")
        );
        assert_eq!(shortened("size=5").1, "size=5");
    }

    #[test]
    fn targets_stay_below_the_root() {
        assert_eq!(
            target(0, "/etc/x", Path::new("/r")).unwrap(),
            Path::new("/r/etc/x")
        );
        assert_eq!(target(0, "", Path::new("/r")).unwrap(), Path::new("/r/"));
        let error = target(2, "a/../../b", Path::new("/r")).unwrap_err();
        assert!(error.to_string().starts_with("rootfs[2].target"));
    }
}
