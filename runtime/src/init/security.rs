//! What keeps the container in: the verified procfs, masked and read-only paths, labels, filters.

use core::ffi::CStr;

use super::path;
use super::sys::{
    self, Errno, Fd, MOUNT_ATTR_RDONLY, MountAttr, O_PATH, O_WRONLY, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV, S_IFDIR,
};
use super::wire::{Report, reason};
use super::{Done, Failure, Init};

impl Init {
    /// A procfs of our own, which no mount or link of the container's can be in the way of (CVE-2025-52881).
    pub(super) fn open_proc<'a>(&mut self) -> Done<'a> {
        if self.proc.is_some() {
            return Ok(());
        }
        let fs = sys::fsopen(c"proc")?;
        let made = sys::fsconfig_create(fs).and_then(|()| sys::fsmount(fs, 0));
        sys::close(fs);
        self.proc = Some(made?);
        Ok(())
    }

    /// Writes a file of procfs: a kernel parameter, a label.
    pub(super) fn proc_write<'a>(&mut self, path: &'a CStr, value: &'a [u8]) -> Done<'a> {
        let proc = self.proc.ok_or(Errno::EBADF)?;
        // `thread-self` is a link inside procfs, not a magic one.
        let resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS;
        let fail = |errno| Failure::new(reason::CALL, errno, path.to_bytes());
        let file = sys::openat2(proc, path, O_WRONLY, 0, resolve).map_err(fail)?;
        let written = sys::write(file, value);
        sys::close(file);
        written.map_err(fail)?;
        Ok(())
    }

    /// A read-only bind of the path onto itself. What is not there needs no protection.
    pub(super) fn read_only<'a>(&mut self, path: &'a CStr) -> Done<'a> {
        let place = match path::open(self.root, path, O_PATH) {
            Ok(place) => place,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let mount = sys::clone_tree(place, true)?;
        let attr = MountAttr {
            set: MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::mount_setattr(mount, true, &attr)?;
        sys::move_mount(mount, place)?;
        sys::close(mount);
        sys::close(place);
        Ok(())
    }

    /// Covers a folder with an empty file system and anything else with /dev/null.
    pub(super) fn mask<'a>(&mut self, path: &'a CStr, label: &'a CStr) -> Done<'a> {
        let place = match path::open(self.root, path, O_PATH) {
            Ok(place) => place,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let folder = sys::fstat(place)?.kind() == S_IFDIR;
        let cover = match (folder, self.empty) {
            (false, _) => sys::clone_tree(self.null_device()?, false)?,
            (true, Some(empty)) => sys::clone_tree(empty, false)?,
            (true, None) => empty_folder(label)?,
        };
        sys::move_mount(cover, place)?;
        sys::close(place);
        if folder && self.empty.is_none() {
            // Serves all other folders. Only now: before Linux 6.15 a mount that is not attached cannot be cloned.
            self.empty = Some(cover);
        } else {
            sys::close(cover);
        }
        Ok(())
    }

    /// Loads a system call filter. From here on only what the filter allows works.
    pub(super) fn seccomp<'a>(&mut self, program: &'a [u8], flags: u32, listener: bool) -> Done<'a> {
        let fd = sys::load_filter(program, flags)?;
        if listener {
            let mut buffer = [0u8; super::REPORT_LENGTH];
            let length = Report::Listener.encode(&mut buffer);
            sys::send_fd(self.channel, &buffer[..length], Fd(fd as i32))?;
            // The parent answers when it has handed the descriptor on: without it, calls would wait for nobody.
            self.wait_for_byte()?;
            sys::close(Fd(fd as i32));
        }
        Ok(())
    }
}

/// An empty file system to cover folders with, not attached yet.
fn empty_folder(label: &CStr) -> Result<Fd, Errno> {
    let fs = sys::fsopen(c"tmpfs")?;
    if !label.is_empty() {
        sys::fsconfig_string(fs, c"context", label)?;
    }
    sys::fsconfig_string(fs, c"source", c"tmpfs")?;
    sys::fsconfig_flag(fs, c"ro")?;
    sys::fsconfig_create(fs)?;
    let mount = sys::fsmount(fs, MOUNT_ATTR_RDONLY)?;
    sys::close(fs);
    Ok(mount)
}
