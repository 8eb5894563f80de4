//! Mounts: new file systems and binds, by descriptors only. A mount is made detached, its attributes set, and
//! then attached to a place that was resolved inside the root: there is no path that could change in between.

use core::ffi::CStr;

use super::path::{self, Make};
use super::sys::{
    self, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, Errno, Fd, MOUNT_ATTR_RDONLY, MountAttr, O_DIRECTORY, O_PATH,
    O_RDONLY, OPEN_TREE_CLONE, S_IFDIR,
};
use super::wire::{Report, Step, mount_flags, reason};
use super::{Buffer, Done, Failure, Init, copy};

impl Init {
    /// A new file system.
    pub(super) fn fs_mount<'a>(&mut self, step: &Step<'a>) -> Done<'a> {
        let Step::FsMount {
            fstype,
            source,
            options,
            attributes,
            target,
            propagation,
            fallback,
            flags,
            ..
        } = step.clone()
        else {
            return Err(Failure::new(reason::PLAN, Errno::EBADMSG, b""));
        };
        let nofollow = flags & mount_flags::TARGET_NOFOLLOW != 0;
        // A folder that is only made now has no permissions of its own to keep.
        let inherit = flags & mount_flags::INHERIT_MODE != 0 && exists(self.root, target);
        let place = path::ensure(self.root, target, Make::Folder(0o755), nofollow).map_err(|errno| {
            let why = match errno {
                Errno::ELOOP | Errno::ENOTDIR if nofollow => reason::UNSAFE,
                _ => reason::TARGET,
            };
            Failure::new(why, errno, target.to_bytes())
        })?;
        let copy_up = flags & mount_flags::COPY_UP != 0;
        refuse_procfs(place, flags, target)?;
        // What is still to be filled must be writable first.
        let first = if copy_up {
            attributes & !MOUNT_ATTR_RDONLY
        } else {
            attributes
        };
        // The permissions of the folder that is covered. Where others are asked for, these are for show, as with runc.
        let shown = options
            .clone()
            .any(|option| option.to_bytes().starts_with(b"mode="));
        let mode = if inherit {
            Some(sys::fstat(place)?.mode & 0o7777)
        } else {
            None
        };
        let (mode, chmod) = if shown { (None, mode) } else { (mode, None) };
        let made = self.new_filesystem(fstype, source, options, mode, first);
        let mount = match made {
            Ok(mount) => mount,
            Err(failure)
                if !fallback.is_empty() && [Errno::EPERM, Errno::EBUSY].contains(&Errno(failure.errno)) =>
            {
                bound(fallback, attributes)?
            }
            Err(failure) => return Err(failure),
        };
        if copy_up {
            copy::folder(place, mount)
                .map_err(|errno| Failure::new(reason::TARGET, errno, target.to_bytes()))?;
        }
        if let Some(mode) = chmod {
            set_mode(mount, mode)?;
        }
        if first != attributes {
            let attr = MountAttr {
                set: MOUNT_ATTR_RDONLY,
                ..MountAttr::default()
            };
            sys::mount_setattr(mount, false, &attr)?;
        }
        sys::move_mount(mount, place)?;
        sys::close(place);
        set_propagation(mount, propagation, false)?;
        if flags & mount_flags::KEEP_PROC != 0 {
            self.proc = Some(mount);
        } else {
            sys::close(mount);
        }
        Ok(())
    }

    /// Makes a file system; on failure its own message is kept for the report.
    fn new_filesystem<'a>(
        &mut self,
        fstype: &'a CStr,
        source: &'a CStr,
        options: impl Iterator<Item = &'a CStr>,
        mode: Option<u32>,
        attributes: u64,
    ) -> Result<Fd, Failure<'a>> {
        let fs = sys::fsopen(fstype)?;
        let made = configure(fs, source, options, mode).and_then(|()| Ok(sys::fsmount(fs, attributes)?));
        if made.is_err() {
            self.text.clear();
        }
        let made = made.map_err(|failure| {
            // "e tmpfs: Bad value for 'size'" (fsopen(2), reading the context).
            let mut message = [0u8; 256];
            match sys::read(fs, &mut message) {
                Ok(length) if length > 2 => {
                    let _ = self.text.push(message[2..length].trim_ascii_end());
                    Failure {
                        reason: reason::OPTION,
                        ..failure
                    }
                }
                _ => failure,
            }
        });
        sys::close(fs);
        made
    }

    /// A source of a bind mount below the root, which earlier mounts may have covered: the parent has the rights that its
    /// tree takes (id maps, folders of the host that this user does not reach), and this process the place.
    pub(super) fn take_source<'a>(&mut self, slot: u32) -> Done<'a> {
        let mut buffer = [0u8; super::REPORT_LENGTH];
        let length = Report::Source(slot).encode(&mut buffer);
        sys::send_fd(self.channel, &buffer[..length], self.root)?;
        let mut byte = [0u8; 1];
        match sys::recv_fd(self.channel, &mut byte)? {
            (1, Some(tree)) => self.handed = Some(tree),
            // The parent knows why.
            _ => sys::exit(1),
        }
        Ok(())
    }

    /// A bind mount.
    pub(super) fn bind<'a>(&mut self, step: &Step<'a>) -> Done<'a> {
        let Step::Bind {
            source,
            descriptor,
            target,
            set,
            clear,
            named,
            set_all,
            clear_all,
            propagation,
            propagation_all,
            flags,
            ..
        } = step.clone()
        else {
            return Err(Failure::new(reason::PLAN, Errno::EBADMSG, b""));
        };
        let recursive = flags & mount_flags::RECURSIVE != 0;
        let mount = if flags & mount_flags::HANDED != 0 {
            self.handed.take().ok_or(Errno::EBADF)?
        } else if descriptor < 0 {
            let mut how = OPEN_TREE_CLONE | if recursive { AT_RECURSIVE } else { 0 };
            if flags & mount_flags::SOURCE_NOFOLLOW != 0 {
                how |= AT_SYMLINK_NOFOLLOW;
            }
            sys::open_tree(Fd::CWD, source, how)
                .map_err(|errno| Failure::new(reason::SOURCE, errno, source.to_bytes()))?
        } else {
            Fd(descriptor)
        };
        let make = match sys::fstat(mount)?.kind() {
            S_IFDIR => Make::Folder(0o755),
            _ => Make::File(0o644),
        };
        if set | clear != 0 {
            let locked = flags & mount_flags::LOCKED != 0;
            set_bind_attributes(mount, (set, clear, named), locked, target)?;
        }
        if set_all | clear_all != 0 {
            let attr = MountAttr {
                set: set_all,
                clear: clear_all,
                ..MountAttr::default()
            };
            sys::mount_setattr(mount, true, &attr)?;
        }
        let nofollow = flags & mount_flags::TARGET_NOFOLLOW != 0;
        let place = path::ensure(self.root, target, make, nofollow)
            .map_err(|errno| Failure::new(reason::TARGET, errno, target.to_bytes()))?;
        // The host's procfs in place of one that is there already.
        let whole = target == c"/proc" && sys::in_procfs(mount)?;
        if !whole {
            refuse_procfs(place, flags, target)?;
        }
        sys::move_mount(mount, place)?;
        sys::close(place);
        set_propagation(mount, propagation, propagation_all)?;
        sys::close(mount);
        Ok(())
    }

    /// Attributes of a mount that is already there.
    pub(super) fn attributes<'a>(
        &mut self,
        target: &'a CStr,
        set: u64,
        clear: u64,
        propagation: u64,
        recursive: bool,
    ) -> Done<'a> {
        // The root's descriptor is the mount itself.
        let top = target == c"/";
        let mount = if top {
            self.root
        } else {
            path::open(self.root, target, O_PATH)
                .map_err(|errno| Failure::new(reason::TARGET, errno, target.to_bytes()))?
        };
        if set | clear != 0 {
            let attr = MountAttr {
                set,
                clear,
                ..MountAttr::default()
            };
            sys::mount_setattr(mount, recursive, &attr)?;
        }
        set_propagation(mount, propagation, recursive)?;
        if !top {
            sys::close(mount);
        }
        Ok(())
    }

    /// A folder that is not a mount.
    pub(super) fn folder<'a>(&mut self, path: &'a CStr, mode: u32) -> Done<'a> {
        let place = path::ensure(self.root, path, Make::Folder(mode), false)
            .map_err(|errno| Failure::new(reason::TARGET, errno, path.to_bytes()))?;
        sys::close(place);
        Ok(())
    }

    /// A symbolic link; whatever is there already stays.
    pub(super) fn link<'a>(&mut self, target: &'a CStr, path: &'a CStr, existing: bool) -> Done<'a> {
        if existing {
            match path::open(self.root, target, O_PATH) {
                Ok(fd) => sys::close(fd),
                Err(_) => return Ok(()),
            }
        }
        let (folder, name) = self
            .place(path)
            .map_err(|errno| Failure::new(reason::TARGET, errno, path.to_bytes()))?;
        match sys::symlinkat(target, folder, name.text()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn set_mode<'a>(mount: Fd, mode: u32) -> Done<'a> {
    let top = sys::openat(mount, c".", O_RDONLY | O_DIRECTORY, 0)?;
    let done = sys::fchmod(top, mode);
    sys::close(top);
    Ok(done?)
}

fn exists(root: Fd, path: &CStr) -> bool {
    match path::open(root, path, O_PATH) {
        Ok(place) => {
            sys::close(place);
            true
        }
        Err(_) => false,
    }
}

/// Whatever path led there, link or not: a file of procfs with something over it would take the runtime's writes, or
/// hide from the container what holds for it (CVE-2019-16884).
fn refuse_procfs(place: Fd, flags: u32, target: &CStr) -> Done<'_> {
    if flags & mount_flags::IN_PROC == 0 && sys::in_procfs(place)? {
        return Err(Failure::new(reason::IN_PROC, Errno::EPERM, target.to_bytes()));
    }
    Ok(())
}

fn configure<'a>(
    fs: Fd,
    source: &'a CStr,
    options: impl Iterator<Item = &'a CStr>,
    mode: Option<u32>,
) -> Done<'a> {
    if !source.is_empty() {
        sys::fsconfig_string(fs, c"source", source)?;
    }
    for option in options {
        let bytes = option.to_bytes_with_nul();
        let set = match bytes.iter().position(|b| *b == b'=') {
            Some(at) => {
                let mut key = Buffer::new();
                key.push(&bytes[..at])?;
                // The value ends with the option's own NUL.
                let value = CStr::from_bytes_with_nul(&bytes[at + 1..]).unwrap_or_default();
                sys::fsconfig_string(fs, key.text(), value)
            }
            None => sys::fsconfig_flag(fs, option),
        };
        set.map_err(|errno| Failure::new(reason::CALL, errno, option.to_bytes()))?;
    }
    if let Some(mode) = mode {
        // The permissions of the folder that the file system covers.
        let digits = [9, 6, 3, 0].map(|shift| b'0' + (mode >> shift & 7) as u8);
        let mut text = Buffer::new();
        text.push(&digits)?;
        sys::fsconfig_string(fs, c"mode", text.text())?;
    }
    Ok(sys::fsconfig_create(fs)?)
}

/// The host's own mount in place of one the kernel refuses in a user namespace.
fn bound(path: &CStr, attributes: u64) -> Result<Fd, Failure<'_>> {
    let fail = |errno| Failure::new(reason::SOURCE, errno, path.to_bytes());
    let mount = sys::open_tree(Fd::CWD, path, OPEN_TREE_CLONE | AT_RECURSIVE).map_err(fail)?;
    let attr = MountAttr {
        set: attributes & !sys::MOUNT_ATTR_ATIME,
        ..MountAttr::default()
    };
    sys::mount_setattr(mount, true, &attr).map_err(fail)?;
    Ok(mount)
}

/// Attributes that are not named are cleared, as mount(2) with MS_REMOUNT does. Where they are locked, by another user
/// namespace (mount_namespaces(7)) or because the container has one, they stay, and to ask for the opposite by name is an
/// error.
fn set_bind_attributes(
    mount: Fd,
    (set, clear, named): (u64, u64, u64),
    locked: bool,
    target: &CStr,
) -> Done<'_> {
    const LOCKS: u64 =
        MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    const ACCESS: u64 = sys::MOUNT_ATTR_ATIME | sys::MOUNT_ATTR_NODIRATIME;
    let mut attr = MountAttr {
        set,
        clear,
        ..MountAttr::default()
    };
    if !locked {
        match sys::mount_setattr(mount, false, &attr) {
            Err(Errno::EPERM) => {}
            result => return Ok(result?),
        }
    }
    let there = sys::mount_attributes(mount)?;
    let other_access = clear & sys::MOUNT_ATTR_ATIME != 0 && (set ^ there) & ACCESS != 0;
    if named & there & LOCKS != 0 || other_access {
        return Err(Failure::new(reason::LOCKED, Errno::EPERM, target.to_bytes()));
    }
    attr.clear &= !(there & LOCKS);
    Ok(sys::mount_setattr(mount, false, &attr)?)
}

fn set_propagation<'a>(mount: Fd, propagation: u64, recursive: bool) -> Done<'a> {
    if propagation == 0 {
        return Ok(());
    }
    let attr = MountAttr {
        propagation,
        ..MountAttr::default()
    };
    Ok(sys::mount_setattr(mount, recursive, &attr)?)
}
