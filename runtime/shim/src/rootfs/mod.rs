//! The mounts of a container's root, as the snapshotter describes them: overlay, bind, or any file system; of a device,
//! or of a file by a loop device; with the ids of a user namespace; by a program that serves it.

mod helper;
mod mapped;
mod options;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use containerd_shim_protos::api::Mount;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub use helper::Helper;
use options::Options;

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
    /// An option with a value of its own that is no such value.
    #[error("rootfs[{index}].options: {reason}")]
    Option {
        /// Which mount.
        index: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The program for a mount that needs one cannot be started.
    #[error("rootfs[{index}].type: {kind}: start the program {program}")]
    Start {
        /// Which mount.
        index: usize,
        /// The type.
        kind: String,
        /// The program.
        program: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The program for a mount has failed.
    #[error("rootfs[{index}]: mount {kind} {from} onto {}: {reason}", target.display())]
    Helper {
        /// Which mount.
        index: usize,
        /// The file system.
        kind: String,
        /// Its source.
        from: String,
        /// Where.
        target: PathBuf,
        /// What the program said, and how it ended.
        reason: String,
    },
    /// A file that is to be a loop device.
    #[error("rootfs[{index}].options: attach {} to a loop device", file.display())]
    Loop {
        /// Which mount.
        index: usize,
        /// The file.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The ids of a user namespace.
    #[error("rootfs[{index}].options: map the ids of {}", path.display())]
    Ids {
        /// Which mount.
        index: usize,
        /// Of what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
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

/// Mounts that are being made onto a root, in their order.
#[derive(Debug)]
pub struct Mounting {
    mounts: Vec<Mount>,
    root: PathBuf,
    /// The first that is not made yet.
    next: usize,
}

impl Mounting {
    /// Nothing is mounted yet. The root is made if there is anything to mount.
    ///
    /// # Errors
    /// [`MountError::Folder`].
    pub fn new(mounts: Vec<Mount>, root: PathBuf) -> Result<Mounting, MountError> {
        if !mounts.is_empty() {
            let made = std::fs::DirBuilder::new().mode(0o711).create(&root);
            if let Err(source) = made
                && source.kind() != std::io::ErrorKind::AlreadyExists
            {
                let what = "create";
                return Err(MountError::Folder {
                    what,
                    path: root,
                    source,
                });
            }
        }
        let next = 0;
        Ok(Mounting { mounts, root, next })
    }

    /// Makes the mounts up to one that a program makes, and starts that: whoever calls waits for its end, tells
    /// [`Mounting::helped`] and calls again. `None`: everything is mounted.
    ///
    /// # Errors
    /// [`MountError`]; what was mounted until then is there.
    pub fn go_on(&mut self) -> Result<Option<Helper>, MountError> {
        while let Some(one) = self.mounts.get(self.next) {
            let index = self.next;
            if let Some((program, kind)) = helper::program(&one.type_) {
                let target = target(index, &one.target, &self.root)?;
                let started = Helper::start(program, kind, one, &target);
                return started.map(Some).map_err(|source| MountError::Start {
                    index,
                    kind: one.type_.clone(),
                    program,
                    source,
                });
            }
            mount_one(index, one, &self.root)?;
            self.next += 1;
        }
        Ok(None)
    }

    /// The program that was started last has ended.
    ///
    /// # Errors
    /// [`MountError::Helper`] if it has failed.
    pub fn helped(&mut self, helper: Helper, status: ExitStatus) -> Result<(), MountError> {
        let index = self.next;
        self.next += 1;
        let failed = |reason| {
            let one = self.mounts.get(index).cloned().unwrap_or_default();
            MountError::Helper {
                index,
                target: self.root.join(one.target.trim_start_matches('/')),
                kind: one.type_,
                from: one.source,
                reason,
            }
        };
        helper.finish(status).map_err(failed)
    }
}

fn mount_one(index: usize, one: &Mount, root: &Path) -> Result<(), MountError> {
    let target = target(index, &one.target, root)?;
    let mut parsed = Options::parse(&one.options).map_err(|reason| MountError::Option { index, reason })?;
    let mapped = match &parsed.ids {
        None => None,
        Some(ids) => Some(mapped::Namespace::new(ids).map_err(ids_failed(index, &target))?),
    };
    // The file system keeps its layers and its device: what is made here for the mount is needed for the call alone.
    let mut layers = None;
    if let Some(namespace) = mapped.as_ref().filter(|_| one.type_ == "overlay") {
        layers = mapped::Layers::new(&parsed.data, namespace, root).map_err(ids_failed(index, &target))?;
        if let Some(layers) = &layers {
            parsed.data.clone_from(&layers.data);
        }
    }
    let device = parsed.attach(&one.source).map_err(|source| MountError::Loop {
        index,
        file: PathBuf::from(&one.source),
        source,
    })?;
    let from = device
        .as_ref()
        .map_or(Path::new(&one.source), berth_sys::loopdev::Loop::path);
    let failed = |source| MountError::Mount {
        index,
        kind: one.type_.clone(),
        from: one.source.clone(),
        target: target.clone(),
        options: one.options.clone(),
        source,
    };
    call(from, &one.type_, &target, &parsed, failed)?;
    for flag in &parsed.propagation {
        mount(None::<&str>, &target, None::<&str>, *flag, None::<&str>).map_err(failed)?;
    }
    match mapped {
        Some(namespace) if one.type_ != "overlay" => {
            namespace.cover(&target).map_err(ids_failed(index, &target))?;
        }
        _ => {}
    }
    match layers {
        Some(layers) => layers.take_away().map_err(ids_failed(index, &target)),
        None => Ok(()),
    }
}

fn ids_failed(index: usize, path: &Path) -> impl FnOnce(std::io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::Ids { index, path, source }
}

/// mount(2), with as many calls as the options need.
fn call(
    from: &Path,
    kind: &str,
    target: &Path,
    parsed: &Options,
    failed: impl Fn(Errno) -> MountError,
) -> Result<(), MountError> {
    let call = |kind: &str, flags, data: &str| {
        let kind = (!kind.is_empty()).then_some(kind);
        let data = (!data.is_empty()).then_some(data);
        mount(Some(from), target, kind, flags, data).map_err(&failed)
    };
    let (flags, data) = (parsed.flags, parsed.data.as_str());
    if flags.contains(MsFlags::MS_BIND) {
        // The first call ignores all flags but these; the second one sets them.
        let only = MsFlags::MS_BIND | MsFlags::MS_REC;
        call("", flags & only, "")?;
        if !(flags & !only).is_empty() {
            call("", flags | MsFlags::MS_REMOUNT, "")?;
        }
        return Ok(());
    }
    if data.len() <= MAX_DATA {
        return call(kind, flags, data);
    }
    let (dir, data) = shortened(data);
    let here = std::env::current_dir().and_then(|here| std::env::set_current_dir(&dir).map(|()| here));
    let here = here.map_err(|source| MountError::Folder {
        what: "go to the layers in",
        path: dir.clone(),
        source,
    })?;
    let mounted = call(kind, flags, &data);
    // The bundle is still there: it was the working directory a moment ago.
    let _ = std::env::set_current_dir(here);
    mounted
}

/// The place of a mount below the root.
fn target(index: usize, target: &str, root: &Path) -> Result<PathBuf, MountError> {
    let below = Path::new(target.trim_start_matches('/'));
    if below.as_os_str().is_empty() {
        return Ok(root.to_owned());
    }
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

/// Overlay options with many layers made short: the folder that all of `lowerdir` are below, and the data with paths
/// relative to it. The shim has one thread, so it may go there for the call.
fn shortened(data: &str) -> (PathBuf, String) {
    match options::common_lower(data) {
        Some((common, relative)) => {
            let data = options::with_lower(data, &relative.join(":"));
            (common, data)
        }
        None => (PathBuf::from("/"), data.to_owned()),
    }
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
